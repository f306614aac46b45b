// Moves elements without looking at them: boxes of pixels cut out, put in or enlarged, and matrices transposed.
//
// Elements are units of 2, 4 or 16 bytes.
#include "kernel.h"

namespace layout_cu {

struct BoxArgs {
  // [frames, height, width, units] each.
  Global<void_t> from, to;
  uint32_t from_height, from_width, to_height, to_width;
  uint32_t from_y, from_x, to_y, to_x;
  // Of the box in `to`, and units of a pixel.
  uint32_t columns, units;
  // 1 where a pixel of `from` stands twice in height and in width.
  uint32_t enlarged;
};

// Grid: units of a row, rows, frames of the box.
template <class T>
DEVICE void box(const BoxArgs& args) {
  uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= args.columns * args.units) return;
  uint32_t x = i / args.units, unit = i % args.units, y = blockIdx.y;
  uint64_t from_row = uint64_t(blockIdx.z) * args.from_height + args.from_y + (y >> args.enlarged);
  uint64_t to_row = uint64_t(blockIdx.z) * args.to_height + args.to_y + y;
  uint64_t from = (from_row * args.from_width + args.from_x + (x >> args.enlarged)) * args.units + unit;
  uint64_t to = (to_row * args.to_width + args.to_x + x) * args.units + unit;
  args.to.as<T>().store(to, args.from.as<const T>().load(from));
}

struct TransposeArgs {
  // [matrices, rows, columns], and [matrices, to_rows, to_columns] of its columns and rows; zeros where it has ended.
  Global<void_t> from, to;
  uint64_t rows, columns, to_rows, to_columns;
};

template <class T>
DEVICE void transpose(const TransposeArgs& args) {
  uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= args.to.len) return;
  uint64_t matrix = i / args.to_columns / args.to_rows;
  uint64_t column = i / args.to_columns % args.to_rows, row = i % args.to_columns;
  T value = 0;
  if (row < args.rows && column < args.columns)
    value = args.from.as<const T>().load((matrix * args.rows + row) * args.columns + column);
  args.to.as<T>().store(i, value);
}

KERNEL(layout_box_2, BoxArgs, 256, 1) { box<uint16_t>(args); }
KERNEL(layout_box_4, BoxArgs, 256, 1) { box<uint32_t>(args); }
KERNEL(layout_box_16, BoxArgs, 256, 1) { box<Vec<uint32_t, 4>>(args); }
KERNEL(layout_transpose_2, TransposeArgs, 256, 1) { transpose<uint16_t>(args); }
KERNEL(layout_transpose_4, TransposeArgs, 256, 1) { transpose<uint32_t>(args); }

}  // namespace layout_cu
