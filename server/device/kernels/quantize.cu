// Rows of numbers as 8-bit ones with a scale for each row, and back.
#include "rows.h"

namespace quantize_cu {

struct ToArgs {
  // [rows, size]
  Global<void_t> x;
  Global<void_t> values;
  // [rows]
  Global<float> scales;
  uint32_t size;
  uint32_t unused;
};

template <class E> DEVICE float largest();
template <> DEVICE float largest<int8_t>() { return 127.0f; }
template <> DEVICE float largest<e4m3>() { return 448.0f; }

// A block for each row: its largest magnitude becomes the format's.
template <class T, class E>
DEVICE void to_8bit(const ToArgs& args) {
  Shared<float> scratch = shared_array<float>(0, 32);
  Global<const T> x = args.x.as<const T>();
  Global<E> values = args.values.as<E>();
  uint64_t first = uint64_t(blockIdx.x) * args.size;
  float magnitude = 0.0f;
  for (uint32_t i = threadIdx.x; i < args.size; i += blockDim.x) magnitude = fmaxf(magnitude, fabsf(to_f32(x.load(first + i))));
  magnitude = block_max(magnitude, scratch);
  // A row of zeros has any scale.
  float scale = magnitude > 0.0f ? magnitude / largest<E>() : 1.0f;
  for (uint32_t i = threadIdx.x; i < args.size; i += blockDim.x)
    values.store(first + i, from_f32<E>(to_f32(x.load(first + i)) / scale));
  if (threadIdx.x == 0) args.scales.store(blockIdx.x, scale);
}

template <class T> DEVICE void to_i8(const ToArgs& args) { to_8bit<T, int8_t>(args); }
template <class T> DEVICE void to_f8(const ToArgs& args) { to_8bit<T, e4m3>(args); }
KERNEL_FOR_FLOATS(quantize_i8, ToArgs, 256, 1, to_i8)
KERNEL_FOR_FLOATS(quantize_f8e4m3, ToArgs, 256, 1, to_f8)

struct FromArgs {
  // [rows, size], i8
  Global<const int8_t> values;
  Global<const float> scales;
  Global<void_t> out;
  uint32_t size;
  uint32_t unused;
};

template <class T>
DEVICE void from_i8(const FromArgs& args) {
  uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= args.values.len) return;
  args.out.as<T>().store(i, from_f32<T>(float(args.values.load(i)) * args.scales.load(i / args.size)));
}
KERNEL_FOR_FLOATS(dequantize_i8, FromArgs, 256, 1, from_i8)

}  // namespace quantize_cu
