// What the matrix products `y = x W^T` share: their arguments, and what is done to a finished sum.
//
// The roundings are those of a CPU: scales and bias in f32, one rounding, and a second one after GELU.
#pragma once
#include "activation.h"

namespace gemm {

struct Args {
  Global<void_t> x;                    // [m, k]
  Global<void_t> weight;               // [n, k]
  Global<void_t> out;                  // [m, n]
  Global<void_t> bias;                 // [n] of the result's type, or absent
  Global<const float> row_scales;      // [m], or absent
  Global<const float> column_scales;   // [n], or absent
  uint32_t m, n, k;
  uint32_t gelu;
  uint32_t accumulate;                 // whether what is in the result is added before GELU
};

// What all sums of a column get.
struct Column { float scale, bias; };

template <class T>
DEVICE Column column_of(const Args& args, uint32_t column) {
  return {args.column_scales.present() ? args.column_scales.load(column) : 1.0f,
          args.bias.present() ? to_f32(args.bias.as<const T>().load(column)) : 0.0f};
}

DEVICE float row_scale(const Args& args, uint32_t row) {
  return args.row_scales.present() ? args.row_scales.load(row) : 1.0f;
}

// What the result holds, if that is to be added to.
template <class T>
DEVICE float held(const Args& args, uint32_t row, uint32_t column) {
  return args.accumulate ? to_f32(args.out.as<const T>().load(uint64_t(row) * args.n + column)) : 0.0f;
}

template <class T>
DEVICE T finished(const Args& args, float sum, float row_scale, Column column, float held) {
  float y = sum * row_scale * column.scale + column.bias + held;
  return from_f32<T>(args.gelu ? gelu_tanh(rounded<T>(y)) : y);
}

// Which tile of the result a block makes. Blocks that run at the same time share rows of x and of W in the cache:
// they go down a group of eight tiles before they go to the right.
struct Tile { uint32_t row, column; };

DEVICE Tile tile_of_block(const Args& args, uint32_t size) {
  const uint32_t group = 8;
  uint32_t down = (args.m + size - 1) / size, across = (args.n + size - 1) / size;
  uint32_t first = blockIdx.x / (group * across) * group, within = blockIdx.x % (group * across);
  uint32_t height = down - first < group ? down - first : group;
  return {(first + within % height) * size, within / height * size};
}

}  // namespace gemm
