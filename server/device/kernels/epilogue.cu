// What follows a matrix product: scales of its rows and columns, the bias, an activation.
//
// In f32 until the bias is added, then rounded once; GELU starts from the rounded value and is rounded again.
#include "activation.h"
#include "rows.h"

namespace epilogue_cu {

struct EpilogueArgs {
  // (rows, size)
  Global<void_t> product;
  // f32; absent together.
  Global<void_t> row_scales;
  Global<void_t> column_scales;
  // Of the result's dtype, or absent.
  Global<void_t> bias;
  // May be the product.
  Global<void_t> out;
  uint32_t size;
  uint32_t blocks_per_row;
  uint32_t gelu_tanh;
  uint32_t vectors;
};

template <class From, class T, int N>
DEVICE void finish_some(const EpilogueArgs& args) {
  Place at = place<N>(args.blocks_per_row);
  if (at.column >= args.size) return;
  uint64_t i = uint64_t(at.row) * args.size + at.column;
  float v[N];
  load_floats(v, args.product.as<From>(), i);
  if (args.row_scales.present()) {
    float column_scale[N], row_scale = args.row_scales.as<float>().load(at.row);
    load_floats(column_scale, args.column_scales.as<float>(), at.column);
    for (int n = 0; n < N; n++) v[n] = v[n] * row_scale * column_scale[n];
  }
  if (args.bias.present()) {
    float bias[N];
    load_floats(bias, args.bias.as<T>(), at.column);
    for (int n = 0; n < N; n++) v[n] += bias[n];
  }
  if (args.gelu_tanh) {
    for (int n = 0; n < N; n++) v[n] = gelu_tanh(rounded<T>(v[n]));
  }
  store_floats(args.out.as<T>(), i, v);
}
template <class From, class T>
DEVICE void finish(const EpilogueArgs& args) {
  if (args.vectors) finish_some<From, T, 8>(args);
  else finish_some<From, T, 1>(args);
}

template <class T> DEVICE void from_f32_to(const EpilogueArgs& args) { finish<float, T>(args); }
template <class T> DEVICE void from_i32_to(const EpilogueArgs& args) { finish<int32_t, T>(args); }
KERNEL_FOR_FLOATS(epilogue_from_f32, EpilogueArgs, 128, 1, from_f32_to)
KERNEL_FOR_FLOATS(epilogue_from_i32, EpilogueArgs, 128, 1, from_i32_to)
KERNEL(epilogue_in_place_f16, EpilogueArgs, 128, 1) { finish<f16, f16>(args); }
KERNEL(epilogue_in_place_bf16, EpilogueArgs, 128, 1) { finish<bf16, bf16>(args); }

}  // namespace epilogue_cu
