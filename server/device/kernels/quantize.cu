// Rows as signed bytes or 8-bit floats with one f32 scale each, and back.
//
// A row's scale is its largest magnitude over the format's largest value. What is not a number counts as infinite, so
// that a row with either has an infinite scale and cannot pass for a finite one.
#include "rows.h"

namespace quantize_cu {

struct QuantizeArgs {
  // (rows, size)
  Global<void_t> x;
  Global<void_t> out;
  Global<float> scales;
  uint32_t size;
  uint32_t vectors;
};

template <class Q> DEVICE float largest();
template <> DEVICE float largest<int8_t>() { return 127.0f; }
template <> DEVICE float largest<e4m3>() { return 448.0f; }

// A block for each row.
template <class T, class Q, int N>
DEVICE void quantize_some(const QuantizeArgs& args) {
  Shared<float> scratch = shared_array<float>(0, 32);
  Global<T> x = args.x.as<T>();
  Global<Q> out = args.out.as<Q>();
  uint64_t begin = uint64_t(blockIdx.x) * args.size;
  float v[N];
  float magnitude = 0.0f;
  for (uint32_t column = threadIdx.x * N; column < args.size; column += blockDim.x * N) {
    load_floats(v, x, begin + column);
    for (int n = 0; n < N; n++) magnitude = fmaxf(magnitude, v[n] == v[n] ? fabsf(v[n]) : INFINITY);
  }
  float scale = block_max(magnitude, scratch) / largest<Q>();
  if (threadIdx.x == 0) args.scales.store(blockIdx.x, scale);
  for (uint32_t column = threadIdx.x * N; column < args.size; column += blockDim.x * N) {
    load_floats(v, x, begin + column);
    // A row of zeros has no scale.
    for (int n = 0; n < N; n++) v[n] = scale == 0.0f ? 0.0f : v[n] / scale;
    store_floats(out, begin + column, v);
  }
}
template <class T, class Q>
DEVICE void quantize(const QuantizeArgs& args) {
  if (args.vectors) quantize_some<T, Q, 8>(args);
  else quantize_some<T, Q, 1>(args);
}
template <class T> DEVICE void quantize_i8(const QuantizeArgs& args) { quantize<T, int8_t>(args); }
template <class T> DEVICE void quantize_f8(const QuantizeArgs& args) { quantize<T, e4m3>(args); }
KERNEL_FOR_FLOATS(quantize_i8, QuantizeArgs, 256, 1, quantize_i8)
KERNEL_FOR_FLOATS(quantize_f8e4m3, QuantizeArgs, 256, 1, quantize_f8)

struct DequantizeArgs {
  // (rows, size)
  Global<void_t> x;
  Global<float> scales;
  Global<void_t> out;
  uint32_t size;
  uint32_t blocks_per_row;
  uint32_t vectors;
};

template <class Q, class T, int N>
DEVICE void dequantize_some(const DequantizeArgs& args) {
  Place at = place<N>(args.blocks_per_row);
  if (at.column >= args.size) return;
  uint64_t i = uint64_t(at.row) * args.size + at.column;
  float v[N], scale = args.scales.load(at.row);
  load_floats(v, args.x.as<Q>(), i);
  for (int n = 0; n < N; n++) v[n] *= scale;
  store_floats(args.out.as<T>(), i, v);
}
template <class Q, class T>
DEVICE void dequantize(const DequantizeArgs& args) {
  if (args.vectors) dequantize_some<Q, T, 8>(args);
  else dequantize_some<Q, T, 1>(args);
}
template <class T> DEVICE void dequantize_i8(const DequantizeArgs& args) { dequantize<int8_t, T>(args); }
template <class T> DEVICE void dequantize_f8(const DequantizeArgs& args) { dequantize<e4m3, T>(args); }
KERNEL_FOR_FLOATS(dequantize_i8, DequantizeArgs, 128, 1, dequantize_i8)
KERNEL_FOR_FLOATS(dequantize_f8e4m3, DequantizeArgs, 128, 1, dequantize_f8)

}  // namespace quantize_cu
