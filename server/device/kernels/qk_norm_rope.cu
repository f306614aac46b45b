// LayerNorm of each head's query and key, and their rotation by position, in place in a fused qkv. A warp takes the
// query and the key of one head of one token.
#include "kernel.h"

namespace qk_norm_rope_cu {

struct NormArgs {
  Global<void_t> weight, bias;
};

struct QkNormRopeArgs {
  // (b, seq, 3 heads head_dim)
  Global<void_t> qkv;
  NormArgs q, k;
  // (seq - text_len, head_dim), or absent.
  Global<const float> cos, sin;
  uint64_t items;
  uint32_t seq, heads, head_dim, text_len;
  float eps;
};

const uint32_t THREADS = 256;

// One head of one token, in order of memory.
struct Item {
  // Of the query's first element, and of that of its row in the rotary tables.
  uint64_t query, table;
  uint32_t inner;
  bool exists, rotated;
};

DEVICE Item item(const QkNormRopeArgs& args) {
  uint64_t i = uint64_t(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32;
  uint64_t token = i / args.heads;
  uint32_t head = uint32_t(i % args.heads), position = uint32_t(token % args.seq);
  Item item;
  item.inner = args.heads * args.head_dim;
  item.query = token * 3 * item.inner + head * args.head_dim;
  item.exists = i < args.items;
  item.rotated = args.cos.present() && position >= args.text_len;
  item.table = item.rotated ? uint64_t(position - args.text_len) * args.head_dim : 0;
  return item;
}

// Turns neighbours by their angle; every angle stands twice in the tables.
template <class T>
DEVICE void rotate(float (&x)[2], const Vec<float, 2>& cos, const Vec<float, 2>& sin) {
  float a = x[0], b = x[1];
  x[0] = rounded<T>(a * cos[0] - b * sin[0]);
  x[1] = rounded<T>(b * cos[1] + a * sin[1]);
}

// Any head_dim: a lane takes every 32nd pair, and reads it three times.
namespace plain {

template <class T>
DEVICE void in_place(const QkNormRopeArgs& args, const Item& item, uint64_t begin, const NormArgs& norm) {
  Global<T> x = args.qkv.as<T>();
  Global<const T> weight = norm.weight.as<const T>(), bias = norm.bias.as<const T>();
  uint32_t lane = threadIdx.x % 32, d = args.head_dim;
  float sum = 0, squares = 0;
  for (uint32_t i = lane; i < d; i += 32) sum += to_f32(x.load(begin + i));
  float mean = warp_sum(sum) / float(d);
  for (uint32_t i = lane; i < d; i += 32) {
    float deviation = to_f32(x.load(begin + i)) - mean;
    squares += deviation * deviation;
  }
  float reciprocal = 1.0f / sqrtf(warp_sum(squares) / float(d) + args.eps);
  for (uint32_t first = 2 * lane; first < d; first += 64) {
    float y[2] = {0, 0};
    UNROLL for (uint32_t i = 0; i < 2; i++) {
      if (first + i >= d) break;
      float normed = (to_f32(x.load(begin + first + i)) - mean) * reciprocal;
      y[i] = rounded<T>(fmaf(normed, to_f32(weight.load(first + i)), to_f32(bias.load(first + i))));
    }
    if (item.rotated) {
      uint64_t at = item.table + first;
      Vec<float, 2> cos = {{args.cos.load(at), args.cos.load(at + 1)}}, sin = {{args.sin.load(at), args.sin.load(at + 1)}};
      rotate<T>(y, cos, sin);
    }
    UNROLL for (uint32_t i = 0; i < 2; i++) {
      if (first + i < d) x.store(begin + first + i, from_f32<T>(y[i]));
    }
  }
}

template <class T>
DEVICE void qk_norm_rope(const QkNormRopeArgs& args) {
  Item head = item(args);
  if (!head.exists) return;
  in_place<T>(args, head, head.query, args.q);
  in_place<T>(args, head, head.query + head.inner, args.k);
}

}  // namespace plain

KERNEL_FOR_FLOATS(qk_norm_rope, QkNormRopeArgs, THREADS, 1, plain::qk_norm_rope)

// A head_dim of 64: a lane holds one pair.
namespace pairs {

const uint32_t D = 64;

template <class T>
DEVICE void normalise(float (&x)[2], const NormArgs& norm, float eps) {
  uint32_t first = 2 * (threadIdx.x % 32);
  Vec<T, 2> weight = norm.weight.as<const T>().template load_vec<2>(first);
  Vec<T, 2> bias = norm.bias.as<const T>().template load_vec<2>(first);
  float mean = warp_sum(x[0] + x[1]) / float(D);
  float a = x[0] - mean, b = x[1] - mean;
  float reciprocal = 1.0f / sqrtf(warp_sum(a * a + b * b) / float(D) + eps);
  x[0] = rounded<T>(fmaf(a * reciprocal, to_f32(weight[0]), to_f32(bias[0])));
  x[1] = rounded<T>(fmaf(b * reciprocal, to_f32(weight[1]), to_f32(bias[1])));
}

template <class T>
DEVICE void qk_norm_rope(const QkNormRopeArgs& args) {
  Item head = item(args);
  if (!head.exists) return;
  Global<T> qkv = args.qkv.as<T>();
  uint32_t first = 2 * (threadIdx.x % 32);
  uint64_t q_at = head.query + first, k_at = q_at + head.inner;
  // Everything is asked for before anything is waited for.
  Vec<T, 2> q_pair = qkv.template load_vec<2>(q_at), k_pair = qkv.template load_vec<2>(k_at);
  Vec<float, 2> cos = {{1, 1}}, sin = {{0, 0}};
  if (head.rotated) {
    cos = args.cos.template load_vec<2>(head.table + first);
    sin = args.sin.template load_vec<2>(head.table + first);
  }
  float q[2] = {to_f32(q_pair[0]), to_f32(q_pair[1])}, k[2] = {to_f32(k_pair[0]), to_f32(k_pair[1])};
  normalise<T>(q, args.q, args.eps);
  normalise<T>(k, args.k, args.eps);
  if (head.rotated) {
    rotate<T>(q, cos, sin);
    rotate<T>(k, cos, sin);
  }
  qkv.store_vec(q_at, Vec<T, 2>{{from_f32<T>(q[0]), from_f32<T>(q[1])}});
  qkv.store_vec(k_at, Vec<T, 2>{{from_f32<T>(k[0]), from_f32<T>(k[1])}});
}

}  // namespace pairs

KERNEL_FOR_FLOATS(qk_norm_rope_64, QkNormRopeArgs, THREADS, 1, pairs::qk_norm_rope)

}  // namespace qk_norm_rope_cu
