// softmax(scale q k^T + bias) v of every head, not causal, without a mask, never holding the matrix of scores.
//
// The plain kernel takes any dtype, any head_dim up to 256 and a bias by distance. The one on tensor cores
// (FlashAttention-2, arXiv 2307.08691) takes f16 and bf16 with a head_dim of 64 and rows on 16-byte boundaries.
// Relies on what `ops/attention.rs` checks.
#include "kernel.h"

namespace attention_cu {

// One of q, k and v: head h of a token begins at `first + h * head_dim` in the token's row of `row` elements.
struct Heads {
  Global<void_t> data;
  uint64_t first, row;
};

struct AttentionArgs {
  Heads q, k, v;
  Global<void_t> out;
  // f32 (heads, 2 seq - 1), or absent.
  Global<const float> bias;
  uint32_t seq_q, seq_kv, head_dim;
  float scale;
  // Subtracted from the scores in units of log2 by the kernels that know a bound.
  float offset;
};

const float LOG2_E = 1.4426950408889634f;

// The rows of one head in one batch element.
template <class T>
struct HeadRows {
  Global<const T> data;
  uint64_t begin, row;
  uint32_t rows;
  DEVICE uint64_t at(uint32_t i) const { return begin + uint64_t(i) * row; }
};

template <class T>
DEVICE HeadRows<T> head_rows(const Heads& heads, uint32_t rows, uint32_t head_dim) {
  uint64_t begin = uint64_t(blockIdx.z) * rows * heads.row + heads.first + uint64_t(blockIdx.y) * head_dim;
  return {heads.data.as<const T>(), begin, heads.row, rows};
}

namespace plain {

const uint32_t THREADS = 128, WARPS = THREADS / 32, WARP_QUERIES = 4, QUERIES = WARPS * WARP_QUERIES, KEYS = 32;
// Elements of a head that a lane accumulates.
const uint32_t LANE_ELEMENTS = 8;

template <class T>
DEVICE void load_rows(Shared<float> to, uint32_t to_row, const HeadRows<T>& from, uint32_t first, uint32_t count,
                      uint32_t head_dim) {
  for (uint32_t i = threadIdx.x; i < count * head_dim; i += THREADS) {
    uint32_t row = i / head_dim, column = i % head_dim;
    bool valid = first + row < from.rows;
    to[row * to_row + column] = valid ? to_f32(from.data.load(from.at(first + row) + column)) : 0.0f;
  }
}

// Scores of the lane's key with the warp's queries; minus infinity past the last key.
template <class T>
DEVICE void score(float (&scores)[WARP_QUERIES], const AttentionArgs& args, Shared<float> queries, Shared<float> keys,
                  uint32_t first_query, uint32_t key) {
  uint32_t lane = threadIdx.x % 32, d = args.head_dim, own = threadIdx.x / 32 * WARP_QUERIES;
  for (float& score : scores) score = 0;
  for (uint32_t i = 0; i < d; i++) {
    float x = keys[lane * (d | 1) + i];
    UNROLL for (uint32_t r = 0; r < WARP_QUERIES; r++) scores[r] += queries[(own + r) * d + i] * x;
  }
  UNROLL for (uint32_t r = 0; r < WARP_QUERIES; r++) {
    uint32_t query = first_query + own + r;
    scores[r] *= args.scale;
    if (args.bias.present() && query < args.seq_q && key < args.seq_kv) {
      uint64_t zero = uint64_t(blockIdx.y) * (2 * args.seq_q - 1) + args.seq_q - 1;
      scores[r] = rounded<T>(rounded<T>(scores[r]) + args.bias.load(zero + key - query));
    }
    if (key >= args.seq_kv) scores[r] = -INFINITY;
  }
}

// Turns scores into weights by the running maximum; returns what earlier weights are to be multiplied by.
DEVICE float reweight(float& score, float& max, float& sum) {
  float new_max = fmaxf(max, warp_max(score)), factor = expf(max - new_max);
  score = expf(score - new_max);
  sum = sum * factor + warp_sum(score);
  max = new_max;
  return factor;
}

// A bias comes with T5's rounding: a weight is rounded after its division by the sum, which so has to be known, by a
// first pass over the keys, before any value is weighted. Without one a weight is rounded relative to the maximum.
template <class T>
DEVICE void attention(const AttentionArgs& args) {
  uint32_t d = args.head_dim, lane = threadIdx.x % 32, own = threadIdx.x / 32 * WARP_QUERIES;
  Shared<float> queries = shared_array<float>(0, QUERIES * d);
  Shared<float> keys = shared_array<float>(4 * QUERIES * d, KEYS * (d | 1));
  Shared<float> values = shared_array<float>(4 * (QUERIES * d + KEYS * (d | 1)), KEYS * d);
  HeadRows<T> k = head_rows<T>(args.k, args.seq_kv, d), v = head_rows<T>(args.v, args.seq_kv, d);
  uint32_t first_query = blockIdx.x * QUERIES;
  load_rows(queries, d, head_rows<T>(args.q, args.seq_q, d), first_query, QUERIES, d);

  bool biased = args.bias.present();
  float max[WARP_QUERIES], sum[WARP_QUERIES], scores[WARP_QUERIES], out[WARP_QUERIES][LANE_ELEMENTS] = {};
  UNROLL for (uint32_t r = 0; r < WARP_QUERIES; r++) {
    max[r] = -INFINITY;
    sum[r] = 0;
  }
  for (uint32_t first = 0; biased && first < args.seq_kv; first += KEYS) {
    load_rows(keys, d | 1, k, first, KEYS, d);
    sync_threads();
    score<T>(scores, args, queries, keys, first_query, first + lane);
    UNROLL for (uint32_t r = 0; r < WARP_QUERIES; r++) reweight(scores[r], max[r], sum[r]);
    sync_threads();
  }
  for (uint32_t first = 0; first < args.seq_kv; first += KEYS) {
    load_rows(keys, d | 1, k, first, KEYS, d);
    load_rows(values, d, v, first, KEYS, d);
    sync_threads();
    score<T>(scores, args, queries, keys, first_query, first + lane);
    UNROLL for (uint32_t r = 0; r < WARP_QUERIES; r++) {
      if (biased) {
        scores[r] = expf(scores[r] - max[r]) / sum[r];
      } else {
        float factor = reweight(scores[r], max[r], sum[r]);
        UNROLL for (uint32_t j = 0; j < LANE_ELEMENTS; j++) out[r][j] *= factor;
      }
      scores[r] = rounded<T>(scores[r]);
    }
    for (uint32_t key = 0; key < KEYS; key++) {
      float weights[WARP_QUERIES];
      UNROLL for (uint32_t r = 0; r < WARP_QUERIES; r++) weights[r] = shuffle(scores[r], int(key));
      UNROLL for (uint32_t j = 0; j < LANE_ELEMENTS; j++) {
        if (lane + 32 * j >= d) break;
        float value = values[key * d + lane + 32 * j];
        UNROLL for (uint32_t r = 0; r < WARP_QUERIES; r++) out[r][j] += weights[r] * value;
      }
    }
    sync_threads();
  }
  Global<T> to = args.out.as<T>();
  UNROLL for (uint32_t r = 0; r < WARP_QUERIES; r++) {
    uint32_t query = first_query + own + r;
    if (query >= args.seq_q) break;
    uint64_t begin = ((uint64_t(blockIdx.z) * args.seq_q + query) * gridDim.y + blockIdx.y) * d;
    UNROLL for (uint32_t j = 0; j < LANE_ELEMENTS; j++) {
      if (lane + 32 * j < d) to.store(begin + lane + 32 * j, from_f32<T>(biased ? out[r][j] : out[r][j] / sum[r]));
    }
  }
}

}  // namespace plain

KERNEL_FOR_FLOATS(attention_plain, AttentionArgs, plain::THREADS, 1, plain::attention)

// Four warps share 128 queries, 32 a warp, which are two of the tensor core's 16 rows; keys come by 64. What a lane
// holds of a product, `[i]` of row `lane / 4 + 8 (i / 2)`, is PTX' accumulator of m16n8k16.
namespace tensor_core {

const uint32_t THREADS = 128, D = 64, QUERIES = 128, KEYS = 64;
// In units of the mma: 16 rows, 8 columns, 16 in depth.
const uint32_t ROW_TILES = 2, KEY_TILES = KEYS / 8, OUT_TILES = D / 8, D_STEPS = D / 16, KEY_STEPS = KEYS / 16;

// Where 8 elements of a row lie in shared memory: moved within the row, so that no eight rows of a matrix that are
// read at once, nor the eight pieces of one row that are written at once, meet in a bank.
DEVICE uint32_t swizzled(uint32_t row, uint32_t chunk) { return row * D + ((chunk ^ (row & 7)) * 8); }

template <class T, uint32_t ROWS>
DEVICE void copy_rows(Shared<T> to, const HeadRows<T>& from, uint32_t first) {
  UNROLL for (uint32_t i = 0; i < ROWS * D / 8 / THREADS; i++) {
    uint32_t index = threadIdx.x + i * THREADS, row = index / (D / 8), chunk = index % (D / 8);
    copy_async_16(to, swizzled(row, chunk), from.data, from.at(first + row) + chunk * 8, first + row < from.rows);
  }
}

typedef float Scores[ROW_TILES][KEY_TILES][4];
typedef float Out[ROW_TILES][OUT_TILES][4];
template <uint32_t STEPS>
using Rows = uint32_t[ROW_TILES][STEPS][4];

template <class T>
DEVICE void load_queries(Rows<D_STEPS>& a, Shared<T> queries) {
  uint32_t lane = threadIdx.x % 32, own = threadIdx.x / 32 * 16 * ROW_TILES;
  UNROLL for (uint32_t t = 0; t < ROW_TILES; t++) {
    UNROLL for (uint32_t step = 0; step < D_STEPS; step++) {
      load_matrices(a[t][step], queries, swizzled(own + 16 * t + (lane & 15), 2 * step + (lane >> 4)));
    }
  }
}

template <class T>
DEVICE void multiply(float (&low)[4], float (&high)[4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
  const uint32_t b_low[2] = {b[0], b[1]}, b_high[2] = {b[2], b[3]};
  mma_16x8x16(low, a, b_low, T{});
  mma_16x8x16(high, a, b_high, T{});
}

// S = Q K^T. A load brings 16 keys by 16 elements: matrices by element first, then by key.
template <class T>
DEVICE void score(Scores& s, const Rows<D_STEPS>& q, Shared<T> keys) {
  uint32_t lane = threadIdx.x % 32;
  UNROLL for (uint32_t t = 0; t < ROW_TILES; t++) {
    UNROLL for (uint32_t n = 0; n < KEY_TILES; n++) {
      UNROLL for (uint32_t i = 0; i < 4; i++) s[t][n][i] = 0;
    }
  }
  UNROLL for (uint32_t step = 0; step < D_STEPS; step++) {
    UNROLL for (uint32_t n = 0; n < KEY_TILES; n += 2) {
      uint32_t b[4];
      load_matrices(b, keys, swizzled(8 * n + 8 * (lane >> 4) + (lane & 7), 2 * step + ((lane >> 3) & 1)));
      UNROLL for (uint32_t t = 0; t < ROW_TILES; t++) multiply<T>(s[t][n], s[t][n + 1], q[t][step], b);
    }
  }
}

DEVICE void mask(Scores& s, uint32_t first, uint32_t seq_kv) {
  uint32_t column = first + 2 * (threadIdx.x & 3);
  UNROLL for (uint32_t t = 0; t < ROW_TILES; t++) {
    UNROLL for (uint32_t n = 0; n < KEY_TILES; n++) {
      UNROLL for (uint32_t i = 0; i < 4; i++) {
        if (column + 8 * n + (i & 1) >= seq_kv) s[t][n][i] = -INFINITY;
      }
    }
  }
}

// O += P V, P being scores turned into weights and rounded: two neighbouring accumulators of S are one operand A.
template <class T>
DEVICE void weigh(Out& out, const Rows<KEY_STEPS>& p, Shared<T> values) {
  uint32_t lane = threadIdx.x % 32;
  UNROLL for (uint32_t step = 0; step < KEY_STEPS; step++) {
    UNROLL for (uint32_t n = 0; n < OUT_TILES; n += 2) {
      uint32_t b[4];
      load_matrices_transposed(b, values, swizzled(16 * step + (lane & 15), n + (lane >> 4)));
      UNROLL for (uint32_t t = 0; t < ROW_TILES; t++) multiply<T>(out[t][n], out[t][n + 1], p[t][step], b);
    }
  }
}

// Of a thread's two rows in each tile. The sum is the thread's own part: of the weights before they are rounded, as
// PyTorch's kernels keep it.
struct Softmax {
  float max[ROW_TILES][2], sum[ROW_TILES][2];
};

// To the maximum of these scores and all before; the four lanes of a row agree. Returns it in units of log2.
DEVICE float raise_maximum(Softmax& softmax, const Scores& s, Out& out, uint32_t t, uint32_t r, float scale_log2) {
  float max = softmax.max[t][r];
  UNROLL for (uint32_t n = 0; n < KEY_TILES; n++) max = fmaxf(max, fmaxf(s[t][n][2 * r], s[t][n][2 * r + 1]));
  max = fmaxf(max, shuffle_xor(max, 1));
  max = fmaxf(max, shuffle_xor(max, 2));
  // 0 at first, when the maximum was minus infinity.
  float factor = fast_exp2((softmax.max[t][r] - max) * scale_log2);
  softmax.max[t][r] = max;
  softmax.sum[t][r] *= factor;
  UNROLL for (uint32_t n = 0; n < OUT_TILES; n++) {
    out[t][n][2 * r] *= factor;
    out[t][n][2 * r + 1] *= factor;
  }
  return max * scale_log2;
}

// P = exp(S), relative to the running maximum, or to a fixed offset where scores have a bound: nothing then waits for
// a maximum, and nothing is rescaled.
template <class T, bool BOUNDED>
DEVICE void exponentiate(Rows<KEY_STEPS>& p, Softmax& softmax, Scores& s, Out& out, const AttentionArgs& args) {
  float scale_log2 = args.scale * LOG2_E;
  UNROLL for (uint32_t t = 0; t < ROW_TILES; t++) {
    UNROLL for (uint32_t r = 0; r < 2; r++) {
      float offset = BOUNDED ? args.offset : raise_maximum(softmax, s, out, t, r, scale_log2);
      UNROLL for (uint32_t n = 0; n < KEY_TILES; n++) {
        float low = fast_exp2(fmaf(s[t][n][2 * r], scale_log2, -offset));
        float high = fast_exp2(fmaf(s[t][n][2 * r + 1], scale_log2, -offset));
        softmax.sum[t][r] += low + high;
        p[t][n / 2][2 * (n & 1) + r] = pack_rounded(low, high, T{});
      }
    }
  }
}

template <class T>
DEVICE void store(const Out& out, const Softmax& softmax, const AttentionArgs& args) {
  Global<T> to = args.out.as<T>();
  uint32_t lane = threadIdx.x % 32, own = blockIdx.x * QUERIES + threadIdx.x / 32 * 16 * ROW_TILES;
  UNROLL for (uint32_t t = 0; t < ROW_TILES; t++) {
    UNROLL for (uint32_t r = 0; r < 2; r++) {
      float sum = softmax.sum[t][r];
      sum += shuffle_xor(sum, 1);
      sum += shuffle_xor(sum, 2);
      uint32_t query = own + 16 * t + (lane >> 2) + 8 * r;
      if (query >= args.seq_q) continue;
      uint64_t begin = ((uint64_t(blockIdx.z) * args.seq_q + query) * gridDim.y + blockIdx.y) * D + 2 * (lane & 3);
      UNROLL for (uint32_t n = 0; n < OUT_TILES; n++) {
        Vec<T, 2> pair = {{from_f32<T>(out[t][n][2 * r] / sum), from_f32<T>(out[t][n][2 * r + 1] / sum)}};
        to.store_vec(begin + 8 * n, pair);
      }
    }
  }
}

// Of the two steps whose keys and values are in shared memory, behind the queries.
template <class T>
DEVICE Shared<T> keys_of(uint32_t buffer) {
  return shared_array<T>(2 * D * (QUERIES + 2 * buffer * KEYS), KEYS * D);
}
template <class T>
DEVICE Shared<T> values_of(uint32_t buffer) {
  return shared_array<T>(2 * D * (QUERIES + (2 * buffer + 1) * KEYS), KEYS * D);
}

// Keys and values of the next step travel while this one computes.
template <class T, bool BOUNDED>
DEVICE void attention(const AttentionArgs& args) {
  Shared<T> queries = shared_array<T>(0, QUERIES * D);
  HeadRows<T> k = head_rows<T>(args.k, args.seq_kv, D), v = head_rows<T>(args.v, args.seq_kv, D);
  copy_rows<T, QUERIES>(queries, head_rows<T>(args.q, args.seq_q, D), blockIdx.x * QUERIES);
  copy_rows<T, KEYS>(keys_of<T>(0), k, 0);
  copy_rows<T, KEYS>(values_of<T>(0), v, 0);
  copy_async_commit();

  Out out = {};
  Softmax softmax;
  UNROLL for (uint32_t t = 0; t < ROW_TILES; t++) {
    UNROLL for (uint32_t r = 0; r < 2; r++) {
      softmax.max[t][r] = -INFINITY;
      softmax.sum[t][r] = 0;
    }
  }
  copy_async_wait<0>();
  sync_threads();
  Rows<D_STEPS> q;
  load_queries(q, queries);
  for (uint32_t first = 0; first < args.seq_kv; first += KEYS) {
    uint32_t buffer = first / KEYS % 2;
    if (first + KEYS < args.seq_kv) {
      copy_rows<T, KEYS>(keys_of<T>(buffer ^ 1), k, first + KEYS);
      copy_rows<T, KEYS>(values_of<T>(buffer ^ 1), v, first + KEYS);
      copy_async_commit();
    }
    Scores s;
    score(s, q, keys_of<T>(buffer));
    if (first + KEYS > args.seq_kv) mask(s, first, args.seq_kv);
    Rows<KEY_STEPS> p;
    exponentiate<T, BOUNDED>(p, softmax, s, out, args);
    weigh(out, p, values_of<T>(buffer));
    copy_async_wait<0>();
    sync_threads();
  }
  store<T>(out, softmax, args);
}

}  // namespace tensor_core

KERNEL(attention_f16, AttentionArgs, tensor_core::THREADS, 2) { tensor_core::attention<f16, false>(args); }
KERNEL(attention_bf16, AttentionArgs, tensor_core::THREADS, 2) { tensor_core::attention<bf16, false>(args); }
KERNEL(attention_bounded_f16, AttentionArgs, tensor_core::THREADS, 2) { tensor_core::attention<f16, true>(args); }
KERNEL(attention_bounded_bf16, AttentionArgs, tensor_core::THREADS, 2) { tensor_core::attention<bf16, true>(args); }

}  // namespace attention_cu
