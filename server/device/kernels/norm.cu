// The gated residual, LayerNorm and its modulation in one pass over a row: a block for each row.
//
// Rows of a joint sequence belong to one of two streams, which differ in their gate, shift and scale. Every step that
// PyTorch rounds is rounded: the gated product, the sum, the norm, `1 + scale`, the product, the sum.
#include "rows.h"

namespace norm_cu {

const uint32_t THREADS = 512;

struct NormArgs {
  // In and, if there is a `y`, out: x + gate * y.
  Global<void_t> x;
  Global<void_t> y;
  // The norm of x; absent if only the sum is wanted. May be y.
  Global<void_t> out;
  Global<void_t> weight;
  Global<void_t> bias;
  // Where the gates are, and the shifts and scales.
  Global<void_t> gates;
  Global<void_t> modulation;
  // First elements in these, video's and text's.
  uint32_t gate[2];
  uint32_t shift[2];
  uint32_t scale[2];
  uint32_t size;
  // Of a sequence, and how many of them, at its head, are text.
  uint32_t tokens;
  uint32_t text_len;
  uint32_t vectors;
  float eps;
};

struct Row {
  uint64_t begin;
  bool text;
};
DEVICE Row row_of(const NormArgs& args) {
  return {uint64_t(blockIdx.x) * args.size, blockIdx.x % args.tokens < args.text_len};
}
DEVICE uint32_t chosen(const uint32_t (&of)[2], Row row) { return row.text ? of[1] : of[0]; }

// The row's elements from `column` on, with the gated y added and stored if there is one.
template <class T, int N>
DEVICE void load(float (&v)[N], const NormArgs& args, Row row, uint32_t column) {
  Global<T> x = args.x.as<T>();
  load_floats(v, x, row.begin + column);
  if (!args.y.present()) return;
  float y[N], gate[N];
  load_floats(y, args.y.as<T>(), row.begin + column);
  load_floats(gate, args.gates.as<T>(), chosen(args.gate, row) + column);
  for (int n = 0; n < N; n++) v[n] = rounded<T>(v[n] + rounded<T>(gate[n] * y[n]));
  store_floats(x, row.begin + column, v);
}

// Normalises, modulates if asked to, and stores.
template <class T, int N>
DEVICE void finish(float (&v)[N], const NormArgs& args, Row row, uint32_t column, float mean, float reciprocal) {
  float factor[N], added[N];
  for (int n = 0; n < N; n++) factor[n] = 1.0f, added[n] = 0.0f;
  if (args.weight.present()) load_floats(factor, args.weight.as<T>(), column);
  if (args.bias.present()) load_floats(added, args.bias.as<T>(), column);
  for (int n = 0; n < N; n++) v[n] = rounded<T>(fmaf((v[n] - mean) * reciprocal, factor[n], added[n]));
  if (args.modulation.present()) {
    load_floats(factor, args.modulation.as<T>(), chosen(args.scale, row) + column);
    load_floats(added, args.modulation.as<T>(), chosen(args.shift, row) + column);
    for (int n = 0; n < N; n++) v[n] = rounded<T>(v[n] * rounded<T>(1.0f + factor[n])) + added[n];
  }
  store_floats(args.out.as<T>(), row.begin + column, v);
}

DEVICE float reciprocal_deviation(float squares, const NormArgs& args) {
  return 1.0f / sqrtf(squares / float(args.size) + args.eps);
}

// The row stays in registers: at most K groups of 8 elements a thread.
template <class T, int K>
DEVICE void in_registers(const NormArgs& args) {
  constexpr uint32_t N = 8;
  Shared<float> scratch = shared_array<float>(0, 32);
  Row row = row_of(args);
  float v[K][N];
  float sum = 0.0f, squares = 0.0f;
  for (int k = 0; k < K; k++) {
    uint32_t column = (threadIdx.x + k * blockDim.x) * N;
    if (column >= args.size) continue;
    load<T>(v[k], args, row, column);
    for (uint32_t n = 0; n < N; n++) sum += v[k][n];
  }
  if (!args.out.present()) return;
  float mean = block_sum(sum, scratch) / float(args.size);
  for (int k = 0; k < K; k++) {
    uint32_t column = (threadIdx.x + k * blockDim.x) * N;
    if (column >= args.size) continue;
    for (uint32_t n = 0; n < N; n++) squares += (v[k][n] - mean) * (v[k][n] - mean);
  }
  float reciprocal = reciprocal_deviation(block_sum(squares, scratch), args);
  for (int k = 0; k < K; k++) {
    uint32_t column = (threadIdx.x + k * blockDim.x) * N;
    if (column < args.size) finish<T>(v[k], args, row, column, mean, reciprocal);
  }
}

// The row is read anew in each pass, by the thread that wrote it: any length.
template <class T>
DEVICE void from_memory(const NormArgs& args) {
  Shared<float> scratch = shared_array<float>(0, 32);
  Row row = row_of(args);
  Global<T> x = args.x.as<T>();
  float v[1];
  float sum = 0.0f, squares = 0.0f;
  for (uint32_t column = threadIdx.x; column < args.size; column += blockDim.x) {
    load<T>(v, args, row, column);
    sum += v[0];
  }
  if (!args.out.present()) return;
  float mean = block_sum(sum, scratch) / float(args.size);
  for (uint32_t column = threadIdx.x; column < args.size; column += blockDim.x) {
    float deviation = to_f32(x.load(row.begin + column)) - mean;
    squares += deviation * deviation;
  }
  float reciprocal = reciprocal_deviation(block_sum(squares, scratch), args);
  for (uint32_t column = threadIdx.x; column < args.size; column += blockDim.x) {
    v[0] = to_f32(x.load(row.begin + column));
    finish<T>(v, args, row, column, mean, reciprocal);
  }
}

template <class T>
DEVICE void norm_rows(const NormArgs& args) {
  if (args.vectors) in_registers<T, 2>(args);
  else from_memory<T>(args);
}

KERNEL_FOR_FLOATS(norm_rows, NormArgs, THREADS, 2, norm_rows)

}  // namespace norm_cu
