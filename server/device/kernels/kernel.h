// What every kernel is written with: element types, checked views of memory, warps, barriers, tensor cores.
//
// The same source is compiled twice: by nvcc for a GPU, and as plain C++ against `emulator/emulator.h`, where every
// access is checked. A kernel takes one plain struct of arguments, whose twin in Rust is `#[repr(C)]`, uses no static
// shared memory, and touches memory through `Global` and `Shared` only. Each file keeps its code in a namespace of
// its own name. Must not know the model.
#pragma once
#include <stdint.h>

#ifdef EMULATOR
#include "emulator/emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <type_traits>

#define DEVICE __device__ __forceinline__

using f16 = __half;
using bf16 = __nv_bfloat16;
struct e4m3 { uint8_t bits; };

// A 16-byte (or smaller) group of elements that is read or written at once.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T v[N];
  DEVICE T& operator[](int i) { return v[i]; }
  DEVICE const T& operator[](int i) const { return v[i]; }
};

// A tensor in the device's memory: its elements and how many there are.
template <class T>
struct Global {
  T* data;
  uint64_t len;
  DEVICE T load(uint64_t i) const { return data[i]; }
  DEVICE void store(uint64_t i, T value) const { data[i] = value; }
  template <int N>
  DEVICE Vec<std::remove_const_t<T>, N> load_vec(uint64_t i) const {
    return *reinterpret_cast<const Vec<std::remove_const_t<T>, N>*>(data + i);
  }
  template <int N>
  DEVICE void store_vec(uint64_t i, Vec<T, N> value) const { *reinterpret_cast<Vec<T, N>*>(data + i) = value; }
  DEVICE bool present() const { return data != nullptr; }
};

// A tensor whose element type the kernel's name tells.
struct void_t {};
template <>
struct Global<void_t> {
  void* data;
  uint64_t len;
  template <class T>
  DEVICE Global<T> as() const { return {static_cast<T*>(data), len}; }
  DEVICE bool present() const { return data != nullptr; }
};

extern __shared__ __align__(1024) unsigned char dynamic_shared[];

// An array within the block's dynamic shared memory.
template <class T>
struct Shared {
  T* data;
  DEVICE T& operator[](uint32_t i) const { return data[i]; }
  template <int N>
  DEVICE Vec<T, N> load_vec(uint32_t i) const { return *reinterpret_cast<const Vec<T, N>*>(data + i); }
  template <int N>
  DEVICE void store_vec(uint32_t i, Vec<T, N> value) const { *reinterpret_cast<Vec<T, N>*>(data + i) = value; }
};

// `count` elements of shared memory from `offset_bytes` on.
template <class T>
DEVICE Shared<T> shared_array(uint32_t offset_bytes, uint32_t count) {
  return {reinterpret_cast<T*>(dynamic_shared + offset_bytes)};
}

// Before a loop over an array that must stay in registers.
#define UNROLL _Pragma("unroll")

#define KERNEL(name, Args, threads, min_blocks) \
  extern "C" __global__ void __launch_bounds__(threads, min_blocks) name(const __grid_constant__ Args args)

DEVICE void sync_threads() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DEVICE float shuffle(float x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }

DEVICE float to_f32(float x) { return x; }
DEVICE float to_f32(f16 x) { return __half2float(x); }
DEVICE float to_f32(bf16 x) { return __bfloat162float(x); }
DEVICE float to_f32(e4m3 x) {
  __nv_fp8_e4m3 y;
  y.__x = x.bits;
  return static_cast<float>(y);
}
template <class T> DEVICE T from_f32(float x);
template <> DEVICE float from_f32<float>(float x) { return x; }
template <> DEVICE f16 from_f32<f16>(float x) { return __float2half_rn(x); }
template <> DEVICE bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }
// Saturates at 448.
template <> DEVICE e4m3 from_f32<e4m3>(float x) { return {__nv_fp8_e4m3(x).__x}; }

// Two neighbours as a tensor core takes them: `low` in the lower half.
DEVICE uint32_t pack(f16 low, f16 high) {
  return static_cast<uint32_t>(__half_as_ushort(low)) | static_cast<uint32_t>(__half_as_ushort(high)) << 16;
}
DEVICE uint32_t pack(bf16 low, bf16 high) {
  return static_cast<uint32_t>(__bfloat16_as_ushort(low)) | static_cast<uint32_t>(__bfloat16_as_ushort(high)) << 16;
}

// Two floats rounded to the type of the last argument, `low` in the lower half.
DEVICE uint32_t pack_rounded(float low, float high, f16) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
DEVICE uint32_t pack_rounded(float low, float high, bf16) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// 2^x by the special function unit: 2 ulp, 0 for arguments below -126.
DEVICE float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// D += A B for one warp: A 16x16 by rows, B 16x8 by columns, in the fragments of PTX' m16n8k16 (f16 or bf16).
DEVICE void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], f16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEVICE void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bf16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// The same for signed bytes, A 16x32 and B 32x8: register i of a lane holds four neighbours in k.
DEVICE void mma_16x8x32(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8x8 matrices of 16-bit elements: lane L gives the index of row L & 7 of matrix L >> 3, eight elements long.
template <class T>
DEVICE void load_matrices(uint32_t (&r)[4], Shared<T> from, uint32_t index) {
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(from.data + index));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
// The same, each matrix transposed.
template <class T>
DEVICE void load_matrices_transposed(uint32_t (&r)[4], Shared<T> from, uint32_t index) {
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(from.data + index));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// Starts to copy 16 bytes; zeros instead where `valid` is false (the source is then not read).
template <class T>
DEVICE void copy_async_16(Shared<T> to, uint32_t to_index, Global<const T> from, uint64_t from_index, bool valid) {
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(to.data + to_index));
  const T* source = valid ? from.data + from_index : from.data;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(source), "r"(valid ? 16 : 0)
               : "memory");
}
// Ends a group of copies.
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `N` groups of this thread are under way. Others see the data after a barrier only.
template <int N>
DEVICE void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
#endif

// Rounds to what T can hold.
template <class T>
DEVICE float rounded(float x) { return to_f32(from_f32<T>(x)); }

// Sum over each LANES neighbouring lanes of a warp, in every one of them.
template <int LANES>
DEVICE float lanes_sum(float x) {
  for (int mask = LANES / 2; mask > 0; mask >>= 1) x += shuffle_xor(x, mask);
  return x;
}
// Sum and maximum over the 32 lanes of a warp, in every lane.
DEVICE float warp_sum(float x) { return lanes_sum<32>(x); }
DEVICE float warp_max(float x) {
  for (int mask = 16; mask > 0; mask >>= 1) x = fmaxf(x, shuffle_xor(x, mask));
  return x;
}

// Sum over a block of whole warps, in every thread. `scratch` holds 32 elements; free to be used again at once.
DEVICE float block_sum(float x, Shared<float> scratch) {
  uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  x = warp_sum(x);
  if (lane == 0) scratch[warp] = x;
  sync_threads();
  x = warp_sum(lane < blockDim.x / 32 ? scratch[lane] : 0.0f);
  sync_threads();
  return x;
}
DEVICE float block_max(float x, Shared<float> scratch) {
  uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  x = warp_max(x);
  if (lane == 0) scratch[warp] = x;
  sync_threads();
  x = warp_max(lane < blockDim.x / 32 ? scratch[lane] : -INFINITY);
  sync_threads();
  return x;
}

// One kernel for each floating-point dtype, `name_f32`, `name_f16`, `name_bf16`, from a template of the body.
#define KERNEL_FOR_FLOATS(name, Args, threads, min_blocks, body) \
  KERNEL(name##_f32, Args, threads, min_blocks) { body<float>(args); } \
  KERNEL(name##_f16, Args, threads, min_blocks) { body<f16>(args); } \
  KERNEL(name##_bf16, Args, threads, min_blocks) { body<bf16>(args); }
