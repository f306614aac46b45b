// Rows of elements as kernels take them: some neighbours at once, widened to f32, or one at a time.
//
// `N` is 8 where a row's length and the tensors' alignment allow it and 1 otherwise; the caller decides. Must not know
// what is computed.
#pragma once
#include "kernel.h"

DEVICE float to_f32(int8_t x) { return float(x); }
DEVICE float to_f32(int32_t x) { return float(x); }
// To nearest even, at most 127 in magnitude; not a number becomes -127.
template <> DEVICE int8_t from_f32<int8_t>(float x) { return int8_t(fminf(fmaxf(rintf(x), -127.0f), 127.0f)); }

// N elements from `i` on, at most 16 bytes at once.
template <int N, class T>
DEVICE void load_floats(float (&v)[N], Global<T> from, uint64_t i) {
  static_assert(N == 1 || N == 8, "one element or eight");
  if constexpr (N == 1) {
    v[0] = to_f32(from.load(i));
  } else if constexpr (sizeof(T) == 4) {
    auto low = from.template load_vec<4>(i), high = from.template load_vec<4>(i + 4);
    for (int n = 0; n < 4; n++) v[n] = to_f32(low[n]), v[n + 4] = to_f32(high[n]);
  } else {
    auto all = from.template load_vec<8>(i);
    for (int n = 0; n < 8; n++) v[n] = to_f32(all[n]);
  }
}

// Rounds N values to T and stores them from `i` on.
template <int N, class T>
DEVICE void store_floats(Global<T> to, uint64_t i, const float (&v)[N]) {
  static_assert(N == 1 || N == 8, "one element or eight");
  if constexpr (N == 1) {
    to.store(i, from_f32<T>(v[0]));
  } else if constexpr (sizeof(T) == 4) {
    Vec<T, 4> low, high;
    for (int n = 0; n < 4; n++) low[n] = from_f32<T>(v[n]), high[n] = from_f32<T>(v[n + 4]);
    to.template store_vec<4>(i, low);
    to.template store_vec<4>(i + 4, high);
  } else {
    Vec<T, 8> all;
    for (int n = 0; n < 8; n++) all[n] = from_f32<T>(v[n]);
    to.template store_vec<8>(i, all);
  }
}

// What of a tensor of rows a thread has, where `blocks_per_row` blocks follow each other along a row.
struct Place {
  uint32_t row, column;
};
template <int N>
DEVICE Place place(uint32_t blocks_per_row) {
  uint32_t row = blockIdx.x / blocks_per_row;
  return {row, ((blockIdx.x - row * blocks_per_row) * blockDim.x + threadIdx.x) * N};
}
