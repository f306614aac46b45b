// LayerNorm of each head's query and key, and their rotation by position, in place in a fused qkv. Some lanes of a warp
// take the query and the key of one head of one token.
#include "kernel.h"
#include "rows.h"

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
  // b seq heads.
  uint32_t items, seq, heads, head_dim, text_len;
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

template <uint32_t LANES>
DEVICE Item item(const QkNormRopeArgs& args) {
  uint32_t i = blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
  uint32_t token = i / args.heads, head = i - token * args.heads, position = token % args.seq;
  Item item;
  item.inner = args.heads * args.head_dim;
  item.query = uint64_t(token) * 3 * item.inner + head * args.head_dim;
  item.exists = i < args.items;
  item.rotated = item.exists && args.cos.present() && position >= args.text_len;
  item.table = item.rotated ? uint64_t(position - args.text_len) * args.head_dim : 0;
  return item;
}

// Turns two neighbours by their angle, which stands twice in the tables.
template <class T>
DEVICE void rotate(float (&x)[2], float cos, float sin) {
  float a = x[0], b = x[1];
  x[0] = rounded<T>(a * cos - b * sin);
  x[1] = rounded<T>(b * cos + a * sin);
}

// Any head_dim: a warp for each, a lane for every 32nd pair, which it reads three times.
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
      rotate<T>(y, args.cos.load(item.table + first), args.sin.load(item.table + first));
    }
    UNROLL for (uint32_t i = 0; i < 2; i++) {
      if (first + i < d) x.store(begin + first + i, from_f32<T>(y[i]));
    }
  }
}

template <class T>
DEVICE void qk_norm_rope(const QkNormRopeArgs& args) {
  Item head = item<32>(args);
  if (!head.exists) return;
  in_place<T>(args, head, head.query, args.q);
  in_place<T>(args, head, head.query + head.inner, args.k);
}

}  // namespace plain

KERNEL_FOR_FLOATS(qk_norm_rope, QkNormRopeArgs, THREADS, 1, plain::qk_norm_rope)

// A head_dim of 64: eight lanes for each, which hold eight neighbours each.
namespace eights {

const uint32_t D = 64, LANES = D / 8;

template <class T>
DEVICE void normalise(float (&x)[8], const NormArgs& norm, float eps) {
  uint32_t first = threadIdx.x % LANES * 8;
  float weight[8], bias[8];
  load_floats<8>(weight, norm.weight.as<const T>(), first);
  load_floats<8>(bias, norm.bias.as<const T>(), first);
  float sum = 0, squares = 0;
  UNROLL for (int n = 0; n < 8; n++) sum += x[n];
  float mean = lanes_sum<LANES>(sum) / float(D);
  UNROLL for (int n = 0; n < 8; n++) {
    x[n] -= mean;
    squares += x[n] * x[n];
  }
  float reciprocal = 1.0f / sqrtf(lanes_sum<LANES>(squares) / float(D) + eps);
  UNROLL for (int n = 0; n < 8; n++) x[n] = rounded<T>(fmaf(x[n] * reciprocal, weight[n], bias[n]));
}

template <class T>
DEVICE void rotate_all(float (&x)[8], const float (&cos)[8], const float (&sin)[8]) {
  UNROLL for (int n = 0; n < 8; n += 2) {
    float pair[2] = {x[n], x[n + 1]};
    rotate<T>(pair, cos[n], sin[n]);
    x[n] = pair[0], x[n + 1] = pair[1];
  }
}

template <class T>
DEVICE void qk_norm_rope(const QkNormRopeArgs& args) {
  Item head = item<LANES>(args);
  Global<T> qkv = args.qkv.as<T>();
  uint32_t first = threadIdx.x % LANES * 8;
  uint64_t q_at = head.query + first, k_at = q_at + head.inner;
  float q[8] = {}, k[8] = {}, cos[8] = {}, sin[8] = {};
  // Everything is asked for before anything is waited for. Lanes without a head stay: the others' sums go past them.
  if (head.exists) {
    load_floats<8>(q, qkv, q_at);
    load_floats<8>(k, qkv, k_at);
  }
  if (head.rotated) {
    load_floats<8>(cos, args.cos, head.table + first);
    load_floats<8>(sin, args.sin, head.table + first);
  }
  normalise<T>(q, args.q, args.eps);
  normalise<T>(k, args.k, args.eps);
  if (head.rotated) {
    rotate_all<T>(q, cos, sin);
    rotate_all<T>(k, cos, sin);
  }
  if (!head.exists) return;
  store_floats<8>(qkv, q_at, q);
  store_floats<8>(qkv, k_at, k);
}

}  // namespace eights

KERNEL_FOR_FLOATS(qk_norm_rope_64, QkNormRopeArgs, THREADS, 1, eights::qk_norm_rope)

}  // namespace qk_norm_rope_cu
