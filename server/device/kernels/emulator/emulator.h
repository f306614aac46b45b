// The other side of `kernel.h`: a GPU's block as plain C++, with every access checked.
//
// Each thread of a block runs on a stack of its own until a barrier or a warp's exchange; the scheduler in
// `emulator.cpp` takes them in either order, so that a barrier that is missing shows. Copies that are called
// asynchronous happen when they are waited for, at the latest moment that hardware may take. Slow, exact, for tests.
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <type_traits>

#include "launch.h"

#define DEVICE inline

namespace emulator {
// Of the thread that runs.
struct Current { Dim3 thread, block, block_dim, grid_dim; };
extern __thread Current current;

// Ends the launch with this message; does not return.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

void sync_threads();
// Gives `bytes` (at most SLOT_BYTES) to the warp and returns where lane `lane`'s may be read until the next exchange.
constexpr uint32_t SLOT_BYTES = 64;
struct Exchange {
  const unsigned char* slot(uint32_t lane) const { return first + lane * SLOT_BYTES; }
  const unsigned char* first;
};
Exchange exchange(const void* data, uint32_t bytes);
uint32_t lane();

unsigned char* shared_memory(uint32_t offset_bytes, uint64_t bytes);
// Copies 16 bytes, or zeros, when the group is waited for.
void copy_later(unsigned char* to, const unsigned char* from, bool valid);
void commit_copies();
void wait_copies(uint32_t groups);

typedef void (*Body)(const void* args);
struct Registration {
  Registration(const char* name, Body body, uint32_t args_bytes, uint32_t max_threads);
};

void check_aligned(const void* address, uint64_t bytes);
}  // namespace emulator

#define threadIdx (emulator::current.thread)
#define blockIdx (emulator::current.block)
#define blockDim (emulator::current.block_dim)
#define gridDim (emulator::current.grid_dim)

#define UNROLL

#define KERNEL(name, Args, threads, min_blocks)                                                             \
  static void name##_body(const Args& args);                                                                \
  static void name##_erased(const void* args) { name##_body(*static_cast<const Args*>(args)); }             \
  static emulator::Registration name##_registration(#name, name##_erased, sizeof(Args), threads);           \
  static void name##_body(const Args& args)

struct f16 { uint16_t bits; };
struct bf16 { uint16_t bits; };
struct e4m3 { uint8_t bits; };

template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T v[N];
  T& operator[](int i) {
    if (i < 0 || i >= N) emulator::fail("element %d of a vector of %d", i, N);
    return v[i];
  }
  const T& operator[](int i) const { return const_cast<Vec*>(this)->operator[](i); }
};

template <class T>
struct Global {
  T* data;
  uint64_t len;
  void check(uint64_t i, uint64_t n, const char* what) const {
    if (i > len || n > len - i)
      emulator::fail("%s element %llu (%llu at once) of a tensor of %llu", what, (unsigned long long)i,
                     (unsigned long long)n, (unsigned long long)len);
  }
  T load(uint64_t i) const { check(i, 1, "reads"); return data[i]; }
  void store(uint64_t i, T value) const { check(i, 1, "writes"); data[i] = value; }
  template <int N>
  auto load_vec(uint64_t i) const {
    check(i, N, "reads");
    emulator::check_aligned(data + i, sizeof(T) * N);
    Vec<std::remove_const_t<T>, N> value;
    memcpy(&value, data + i, sizeof value);
    return value;
  }
  template <int N>
  void store_vec(uint64_t i, Vec<T, N> value) const {
    check(i, N, "writes");
    emulator::check_aligned(data + i, sizeof(T) * N);
    memcpy(data + i, &value, sizeof value);
  }
  bool present() const { return data != nullptr; }
};

struct void_t {};
template <>
struct Global<void_t> {
  void* data;
  uint64_t len;
  template <class T>
  Global<T> as() const { return {static_cast<T*>(data), len}; }
  bool present() const { return data != nullptr; }
};

template <class T>
struct Shared {
  T* data;
  uint32_t count;
  void check(uint32_t i, uint32_t n) const {
    if (i > count || n > count - i) emulator::fail("shared element %u (%u at once) of an array of %u", i, n, count);
  }
  T& operator[](uint32_t i) const { check(i, 1); return data[i]; }
  template <int N>
  Vec<T, N> load_vec(uint32_t i) const {
    check(i, N);
    emulator::check_aligned(data + i, sizeof(T) * N);
    Vec<T, N> value;
    memcpy(&value, data + i, sizeof value);
    return value;
  }
  template <int N>
  void store_vec(uint32_t i, Vec<T, N> value) const {
    check(i, N);
    emulator::check_aligned(data + i, sizeof(T) * N);
    memcpy(data + i, &value, sizeof value);
  }
};

template <class T>
inline Shared<T> shared_array(uint32_t offset_bytes, uint32_t count) {
  unsigned char* memory = emulator::shared_memory(offset_bytes, uint64_t(count) * sizeof(T));
  emulator::check_aligned(memory, sizeof(T));
  return {reinterpret_cast<T*>(memory), count};
}

inline void sync_threads() { emulator::sync_threads(); }
inline void sync_warp() { emulator::exchange(nullptr, 0); }
inline float shuffle(float x, int lane) {
  float y;
  memcpy(&y, emulator::exchange(&x, sizeof x).slot(uint32_t(lane) % 32), sizeof y);
  return y;
}
inline float shuffle_xor(float x, int mask) { return shuffle(x, int(emulator::lane()) ^ mask); }

inline float bits_to_f32(uint32_t bits) { float x; memcpy(&x, &bits, sizeof x); return x; }
inline uint32_t f32_to_bits(float x) { uint32_t bits; memcpy(&bits, &x, sizeof bits); return bits; }

// To nearest even, of a float with `mantissa` bits below an implicit one, the smallest exponent `min_exponent`.
inline float to_nearest(float x, int mantissa, int min_exponent) {
  if (x == 0.0f || !isfinite(x)) return x;
  int exponent;
  frexpf(x, &exponent);
  int lowest = (exponent - 1 < min_exponent ? min_exponent : exponent - 1) - mantissa;
  return ldexpf(nearbyintf(ldexpf(x, -lowest)), lowest);
}

inline float to_f32(float x) { return x; }
inline float to_f32(bf16 x) { return bits_to_f32(uint32_t(x.bits) << 16); }
inline float to_f32(f16 x) {
  // The exponent's bias is moved by a factor, which is exact; what has no exponent bits is a subnormal of f32 before.
  uint32_t sign = uint32_t(x.bits & 0x8000) << 16, magnitude = uint32_t(x.bits & 0x7fff) << 13;
  if (magnitude >= 0x0f800000u) return bits_to_f32(sign | 0x7f800000u | (magnitude & 0x007fe000u));
  return bits_to_f32(sign | f32_to_bits(bits_to_f32(magnitude) * 0x1p112f));
}
inline float to_f32(e4m3 x) {
  uint32_t exponent = (x.bits >> 3) & 15, fraction = x.bits & 7;
  if ((x.bits & 127) == 127) return NAN;
  float magnitude = exponent == 0 ? ldexpf(float(fraction), -9) : ldexpf(float(fraction | 8), int(exponent) - 10);
  return x.bits & 128 ? -magnitude : magnitude;
}
template <class T> T from_f32(float x);
template <> inline float from_f32<float>(float x) { return x; }
template <> inline bf16 from_f32<bf16>(float x) {
  uint32_t bits = f32_to_bits(x);
  if (isnan(x)) return {0x7fff};
  return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
template <> inline f16 from_f32<f16>(float x) {
  uint32_t bits = f32_to_bits(x), magnitude = bits & 0x7fffffffu;
  uint16_t sign = bits >> 16 & 0x8000;
  if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7fff)};
  // From 65520, half way to what would be 65536, on.
  if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00)};
  // Below 2^-14: a sum with 0.5 has a subnormal's last bit for its own.
  if (magnitude < 0x38800000u)
    return {uint16_t(sign | (f32_to_bits(bits_to_f32(magnitude) + 0.5f) - f32_to_bits(0.5f)))};
  return {uint16_t(sign | ((magnitude - 0x38000000u + 0xfff + (magnitude >> 13 & 1)) >> 13))};
}
template <> inline e4m3 from_f32<e4m3>(float x) {
  uint8_t sign = f32_to_bits(x) >> 24 & 0x80;
  if (isnan(x)) return {uint8_t(sign | 0x7f)};
  float magnitude = fminf(to_nearest(fabsf(x), 3, -6), 448.0f);
  if (magnitude < ldexpf(1, -6)) return {uint8_t(sign | uint8_t(ldexpf(magnitude, 9)))};
  uint32_t bits = f32_to_bits(magnitude);
  return {uint8_t(sign | (((bits >> 23) - 120) << 3) | ((bits >> 20) & 7))};
}

inline uint32_t pack(f16 low, f16 high) { return uint32_t(low.bits) | uint32_t(high.bits) << 16; }
inline uint32_t pack(bf16 low, bf16 high) { return uint32_t(low.bits) | uint32_t(high.bits) << 16; }

inline float cospif(float x) { return float(cos(3.14159265358979323846 * double(x))); }
template <class T>
inline uint32_t pack_rounded(float low, float high, T) { return pack(from_f32<T>(low), from_f32<T>(high)); }

inline float fast_exp2(float x) { return x < -126.0f ? 0.0f : exp2f(x); }

// A lane's registers of PTX' m16n8k16: which rows and columns they hold is in shared knowledge with the hardware
// (PTX ISA, "Matrix fragments for mma.m16n8k16").
template <class T>
inline void mma_16x8x16_of(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  uint32_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  float mine[12];
  for (uint32_t i = 0; i < 12; i++) mine[i] = to_f32(T{uint16_t(words[i / 2] >> (16 * (i & 1)))});
  emulator::Exchange all = emulator::exchange(mine, sizeof mine);
  // A row of a or column of b: four lanes have two of its first eight elements each, and in register + step two of the rest.
  auto gather = [&](float (&to)[16], uint32_t lane, uint32_t reg, uint32_t step) {
    for (uint32_t pair = 0; pair < 4; pair++) {
      memcpy(to + 2 * pair, all.slot(lane + pair) + 8 * reg, 8);
      memcpy(to + 8 + 2 * pair, all.slot(lane + pair) + 8 * (reg + step), 8);
    }
  };
  uint32_t lane = emulator::lane();
  float rows[2][16], columns[2][16];
  for (uint32_t i = 0; i < 2; i++) {
    gather(rows[i], (lane >> 2) * 4, i, 2);
    gather(columns[i], (2 * (lane & 3) + i) * 4, 4, 1);
  }
  for (uint32_t i = 0; i < 4; i++) {
    float sum = 0;
    for (uint32_t k = 0; k < 16; k++) sum += rows[i >> 1][k] * columns[i & 1][k];
    d[i] += sum;
  }
}
inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], f16) {
  mma_16x8x16_of<f16>(d, a, b);
}
inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bf16) {
  mma_16x8x16_of<bf16>(d, a, b);
}
inline void mma_16x8x32(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  emulator::Exchange all = emulator::exchange(mine, sizeof mine);
  auto element = [&](uint32_t lane, uint32_t reg, uint32_t byte) {
    return int32_t(int8_t(all.slot(lane)[4 * reg + byte]));
  };
  uint32_t lane = emulator::lane();
  for (uint32_t i = 0; i < 4; i++) {
    uint32_t row = (lane >> 2) + 8 * (i >> 1), column = 2 * (lane & 3) + (i & 1);
    for (uint32_t k = 0; k < 32; k++) {
      uint32_t quad = (k & 15) >> 2, upper = k >> 4;
      d[i] += element((row & 7) * 4 + quad, (row >> 3) + 2 * upper, k & 3) *
              element(column * 4 + quad, 4 + upper, k & 3);
    }
  }
}

template <class T>
inline void load_matrices_of(uint32_t (&r)[4], Shared<T> from, uint32_t index, bool transposed) {
  static_assert(sizeof(T) == 2, "matrices of 16-bit elements");
  from.check(index, 8);
  emulator::check_aligned(from.data + index, 16);
  const T* mine = from.data + index;
  emulator::Exchange all = emulator::exchange(&mine, sizeof mine);
  uint32_t lane = emulator::lane();
  for (uint32_t matrix = 0; matrix < 4; matrix++) {
    uint16_t pair[2];
    for (uint32_t i = 0; i < 2; i++) {
      uint32_t row = transposed ? 2 * (lane & 3) + i : lane >> 2;
      uint32_t column = transposed ? lane >> 2 : 2 * (lane & 3) + i;
      const T* address;
      memcpy(&address, all.slot(matrix * 8 + row), sizeof address);
      memcpy(&pair[i], address + column, 2);
    }
    r[matrix] = uint32_t(pair[0]) | uint32_t(pair[1]) << 16;
  }
}
template <class T>
inline void load_matrices(uint32_t (&r)[4], Shared<T> from, uint32_t index) {
  load_matrices_of(r, from, index, false);
}
template <class T>
inline void load_matrices_transposed(uint32_t (&r)[4], Shared<T> from, uint32_t index) {
  load_matrices_of(r, from, index, true);
}

template <class T>
inline void copy_async_16(Shared<T> to, uint32_t to_index, Global<const T> from, uint64_t from_index, bool valid) {
  const uint32_t elements = 16 / sizeof(T);
  to.check(to_index, elements);
  emulator::check_aligned(to.data + to_index, 16);
  if (valid) {
    from.check(from_index, elements, "copies");
    emulator::check_aligned(from.data + from_index, 16);
  }
  emulator::copy_later(reinterpret_cast<unsigned char*>(to.data + to_index),
                       reinterpret_cast<const unsigned char*>(valid ? from.data + from_index : nullptr), valid);
}
inline void copy_async_commit() { emulator::commit_copies(); }
template <int N>
inline void copy_async_wait() { emulator::wait_copies(N); }
