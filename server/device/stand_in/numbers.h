// Elements of the types that the stand-ins compute in, widened and rounded as the emulated kernels do.
#pragma once
#include "../kernels/kernel.h"

namespace stand_in {

enum class Type { F32, F16, BF16, E4M3, I8, I32 };

inline uint64_t bytes_of(Type type) {
  switch (type) {
    case Type::E4M3:
    case Type::I8: return 1;
    case Type::F16:
    case Type::BF16: return 2;
    default: return 4;
  }
}

inline float element(const void* data, Type type, int64_t index) {
  switch (type) {
    case Type::F16: return to_f32(static_cast<const f16*>(data)[index]);
    case Type::BF16: return to_f32(static_cast<const bf16*>(data)[index]);
    case Type::E4M3: return to_f32(static_cast<const e4m3*>(data)[index]);
    case Type::I8: return static_cast<const int8_t*>(data)[index];
    default: return static_cast<const float*>(data)[index];
  }
}

inline float rounded_to(Type type, float value) {
  return type == Type::F16 ? rounded<f16>(value) : type == Type::BF16 ? rounded<bf16>(value) : value;
}

inline void put(void* data, Type type, int64_t index, float value) {
  switch (type) {
    case Type::F16: static_cast<f16*>(data)[index] = from_f32<f16>(value); break;
    case Type::BF16: static_cast<bf16*>(data)[index] = from_f32<bf16>(value); break;
    default: static_cast<float*>(data)[index] = value;
  }
}

}  // namespace stand_in
