// What T5 computes differently from the transformer, rounded where transformers' modules round.
#include "activation.h"
#include "rows.h"

namespace t5_cu {

struct EmbeddingArgs {
  // (vocabulary, size)
  Global<void_t> table;
  Global<int32_t> ids;
  Global<void_t> out;
  uint32_t size;
  uint32_t blocks_per_row;
  uint32_t vectors;
};

template <class T, int N>
DEVICE void embedding_some(const EmbeddingArgs& args) {
  Place at = place<N>(args.blocks_per_row);
  if (at.column >= args.size) return;
  float v[N];
  load_floats(v, args.table.as<T>(), uint64_t(args.ids.load(at.row)) * args.size + at.column);
  store_floats(args.out.as<T>(), uint64_t(at.row) * args.size + at.column, v);
}
template <class T>
DEVICE void embedding(const EmbeddingArgs& args) {
  if (args.vectors) embedding_some<T, 8>(args);
  else embedding_some<T, 1>(args);
}
KERNEL_FOR_FLOATS(embedding, EmbeddingArgs, 128, 1, embedding)

struct RmsNormArgs {
  Global<void_t> x;
  Global<void_t> weight;
  Global<void_t> out;
  uint32_t size;
  uint32_t vectors;
  float eps;
};

// A block for each row; the normed value is rounded to the weight's dtype, and so is its product with the weight.
template <class From, class T, int N>
DEVICE void rms_norm_some(const RmsNormArgs& args) {
  Shared<float> scratch = shared_array<float>(0, 32);
  Global<From> x = args.x.as<From>();
  uint64_t begin = uint64_t(blockIdx.x) * args.size;
  float v[N], weight[N];
  float squares = 0.0f;
  for (uint32_t column = threadIdx.x * N; column < args.size; column += blockDim.x * N) {
    load_floats(v, x, begin + column);
    for (int n = 0; n < N; n++) squares += v[n] * v[n];
  }
  float reciprocal = 1.0f / sqrtf(block_sum(squares, scratch) / float(args.size) + args.eps);
  for (uint32_t column = threadIdx.x * N; column < args.size; column += blockDim.x * N) {
    load_floats(v, x, begin + column);
    load_floats(weight, args.weight.as<T>(), column);
    for (int n = 0; n < N; n++) v[n] = weight[n] * rounded<T>(v[n] * reciprocal);
    store_floats(args.out.as<T>(), begin + column, v);
  }
}
template <class From, class T>
DEVICE void rms_norm(const RmsNormArgs& args) {
  if (args.vectors) rms_norm_some<From, T, 8>(args);
  else rms_norm_some<From, T, 1>(args);
}
template <class T> DEVICE void rms_norm_from_f32(const RmsNormArgs& args) { rms_norm<float, T>(args); }
KERNEL_FOR_FLOATS(rms_norm_from_f32, RmsNormArgs, 256, 1, rms_norm_from_f32)
KERNEL(rms_norm_f16, RmsNormArgs, 256, 1) { rms_norm<f16, f16>(args); }
KERNEL(rms_norm_bf16, RmsNormArgs, 256, 1) { rms_norm<bf16, bf16>(args); }

struct GatedGeluArgs {
  Global<void_t> gate;
  Global<void_t> x;
  // May be either.
  Global<void_t> out;
  uint32_t vectors;
};

// transformers' `gelu_new`, a chain of operations each of which rounds.
template <class T>
DEVICE float gelu_new(float x) {
  float cube = rounded<T>(rounded<T>(x * x) * x);
  float sum = rounded<T>(x + rounded<T>(0.044715f * cube));
  float u = rounded<T>(0.7978846f * sum);
  float tanh = rounded<T>(1.0f - 2.0f / (expf(2.0f * u) + 1.0f));
  return rounded<T>(rounded<T>(0.5f * x) * rounded<T>(1.0f + tanh));
}
// Without roundings the chain is this formula, which does not cancel.
template <>
DEVICE float gelu_new<float>(float x) { return gelu_tanh(x); }

template <class T, int N>
DEVICE void gated_gelu_some(const GatedGeluArgs& args) {
  Global<T> out = args.out.as<T>();
  uint64_t i = (uint64_t(blockIdx.x) * blockDim.x + threadIdx.x) * N;
  if (i >= out.len) return;
  float gate[N], v[N];
  load_floats(gate, args.gate.as<T>(), i);
  load_floats(v, args.x.as<T>(), i);
  for (int n = 0; n < N; n++) v[n] *= gelu_new<T>(gate[n]);
  store_floats(out, i, v);
}
template <class T>
DEVICE void gated_gelu(const GatedGeluArgs& args) {
  if (args.vectors) gated_gelu_some<T, 8>(args);
  else gated_gelu_some<T, 1>(args);
}
KERNEL_FOR_FLOATS(gated_gelu, GatedGeluArgs, 256, 1, gated_gelu)

struct ClampArgs {
  Global<f16> x;
  // Whether there is an infinity; 0 before.
  Global<int32_t> overflowed;
  float bound;
};

KERNEL(find_infinity, ClampArgs, 256, 1) {
  uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= args.x.len) return;
  // Whoever writes, writes the same.
  if (fabsf(to_f32(args.x.load(i))) == INFINITY) args.overflowed.store(0, 1);
}

// Leaves what is not a number.
KERNEL(clamp_if_infinite, ClampArgs, 256, 1) {
  uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= args.x.len || args.overflowed.load(0) == 0) return;
  float x = to_f32(args.x.load(i));
  if (fabsf(x) > args.bound) args.x.store(i, from_f32<f16>(copysignf(args.bound, x)));
}

}  // namespace t5_cu
