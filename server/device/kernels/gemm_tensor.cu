// `y = x W^T` on tensor cores: 128x128 of the result by a block of eight warps, 64x32 by a warp.
//
// Tiles of 64 bytes of k, 32 elements of 16 bits or 64 of 8, come by asynchronous copies, two tiles ahead. Weights of
// 8 bits beside an x of 16 are widened on their way into shared memory, by way of registers; integers of 8 bits are
// exact in both 16-bit types, so that their scales wait for the finished sum. Rows must be whole chunks of 16 bytes.
#include "gemm.h"

namespace gemm_tensor_cu {

constexpr uint32_t TILE = 128, THREADS = 256, STAGES = 3;
// In units of 16 bits, whatever they hold: a row of a tile, a copy at once, a tile.
constexpr uint32_t ROW = 32, CHUNK = 8, TILE_UNITS = TILE * ROW;

using Units = Global<const uint16_t>;

template <class E>
DEVICE Units units(Global<void_t> tensor) {
  return {static_cast<const uint16_t*>(tensor.data), tensor.len * sizeof(E) / 2};
}

// Where a tile keeps a chunk of a row: of eight neighbouring rows the same chunk lies in eight different banks.
DEVICE uint32_t place(uint32_t row, uint32_t chunk) { return row * ROW + (chunk ^ (row >> 1 & 3)) * CHUNK; }

// Starts to copy 128 rows of a matrix; zeros beyond its edges.
DEVICE void fetch(Shared<uint16_t> shared, uint32_t tile, Units from, uint32_t first_row, uint32_t rows, uint32_t first,
                  uint32_t row_units) {
  UNROLL for (uint32_t i = 0; i < TILE * ROW / CHUNK / THREADS; i++) {
    uint32_t index = i * THREADS + threadIdx.x, row = index / 4, chunk = index % 4, unit = first + chunk * CHUNK;
    bool inside = first_row + row < rows && unit < row_units;
    copy_async_16(shared, tile + place(row, chunk), from, uint64_t(first_row + row) * row_units + unit, inside);
  }
}

// Weights that the tensor cores take as they are.
template <class E>
struct Copied {
  Units from;
  DEVICE explicit Copied(const gemm::Args& args) : from(units<E>(args.weight)) {}
  DEVICE void start(Shared<uint16_t> shared, uint32_t tile, uint32_t first_row, uint32_t rows, uint32_t first, uint32_t row_units) {
    fetch(shared, tile, from, first_row, rows, first, row_units);
  }
  DEVICE void finish(Shared<uint16_t>, uint32_t) {}
};

// Bytes that are widened to T: a thread takes half a row of a tile.
template <class T>
struct Widened {
  Global<const int8_t> from;
  Vec<int8_t, 16> held;
  DEVICE explicit Widened(const gemm::Args& args) : from(args.weight.as<const int8_t>()) {}
  DEVICE void start(Shared<uint16_t>, uint32_t, uint32_t first_row, uint32_t rows, uint32_t first, uint32_t k) {
    uint32_t row = first_row + threadIdx.x / 2, column = first + threadIdx.x % 2 * 16;
    if (row < rows && column < k) held = from.template load_vec<16>(uint64_t(row) * k + column);
    else held = {};
  }
  DEVICE void finish(Shared<uint16_t> shared, uint32_t tile) {
    for (uint32_t half = 0; half < 2; half++) {
      Vec<uint32_t, 4> chunk;
      UNROLL for (int i = 0; i < 4; i++) {
        int first = int(half) * 8 + 2 * i;
        chunk[i] = pack(from_f32<T>(float(held[first])), from_f32<T>(float(held[first + 1])));
      }
      store(shared, tile + place(threadIdx.x / 2, threadIdx.x % 2 * 2 + half), chunk);
    }
  }
  DEVICE static void store(Shared<uint16_t> shared, uint32_t index, Vec<uint32_t, 4> chunk) {
    Vec<uint16_t, 8> values;
    UNROLL for (int i = 0; i < 4; i++) {
      values[2 * i] = uint16_t(chunk[i]);
      values[2 * i + 1] = uint16_t(chunk[i] >> 16);
    }
    shared.store_vec(index, values);
  }
};

DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], f16 x) { mma_16x8x16(d, a, b, x); }
DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bf16 x) { mma_16x8x16(d, a, b, x); }
DEVICE void multiply(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int8_t) { mma_16x8x32(d, a, b); }

// A warp's part of one pair of tiles: 32 bytes of k at a time.
template <class E, class Sum>
DEVICE void accumulate(Sum (&sums)[4][4][4], Shared<uint16_t> shared, uint32_t x_tile, uint32_t weight_tile) {
  uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint32_t x_row = warp / 4 * 64 + (lane & 15), weight_row = warp % 4 * 32 + 8 * (lane >> 4) + (lane & 7);
  UNROLL for (uint32_t step = 0; step < 2; step++) {
    uint32_t b[4][2];
    UNROLL for (uint32_t j = 0; j < 2; j++) {
      uint32_t r[4];
      load_matrices(r, shared, weight_tile + place(weight_row + 16 * j, 2 * step + (lane >> 3 & 1)));
      b[2 * j][0] = r[0], b[2 * j][1] = r[1], b[2 * j + 1][0] = r[2], b[2 * j + 1][1] = r[3];
    }
    UNROLL for (uint32_t i = 0; i < 4; i++) {
      uint32_t a[4];
      load_matrices(a, shared, x_tile + place(x_row + 16 * i, 2 * step + (lane >> 4)));
      UNROLL for (uint32_t j = 0; j < 4; j++) multiply(sums[i][j], a, b[j], E{});
    }
  }
}

// Two neighbours of a row; at once where all rows are aligned for that.
template <class T>
DEVICE void store_pair(const gemm::Args& args, uint32_t row, uint32_t column, T left, T right) {
  Global<T> out = args.out.as<T>();
  uint64_t index = uint64_t(row) * args.n + column;
  if (args.n % 2 == 0) {
    out.store_vec(index, Vec<T, 2>{{left, right}});
  } else {
    out.store(index, left);
    if (column + 1 < args.n) out.store(index + 1, right);
  }
}

template <class T, class Sum>
DEVICE void finish(const gemm::Args& args, gemm::Tile tile, const Sum (&sums)[4][4][4]) {
  uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  UNROLL for (uint32_t j = 0; j < 4; j++) {
    uint32_t column = tile.column + warp % 4 * 32 + 8 * j + 2 * (lane & 3);
    if (column >= args.n) continue;
    gemm::Column left = gemm::column_of<T>(args, column);
    gemm::Column right = column + 1 < args.n ? gemm::column_of<T>(args, column + 1) : gemm::Column{};
    UNROLL for (uint32_t i = 0; i < 8; i++) {
      uint32_t row = tile.row + warp / 4 * 64 + 8 * i + (lane >> 2);
      if (row >= args.m) continue;
      float scale = gemm::row_scale(args, row);
      const Sum(&four)[4] = sums[i / 2][j];
      float held_left = gemm::held<T>(args, row, column);
      float held_right = column + 1 < args.n ? gemm::held<T>(args, row, column + 1) : 0.0f;
      store_pair<T>(args, row, column, gemm::finished<T>(args, float(four[i % 2 * 2]), scale, left, held_left),
                    gemm::finished<T>(args, float(four[i % 2 * 2 + 1]), scale, right, held_right));
    }
  }
}

// E: what the tensor cores multiply. T: the result's type.
template <class T, class E, class Sum, class Weight>
DEVICE void product(const gemm::Args& args) {
  Shared<uint16_t> shared = shared_array<uint16_t>(0, STAGES * 2 * TILE_UNITS);
  gemm::Tile tile = gemm::tile_of_block(args, TILE);
  Units x = units<E>(args.x);
  Weight weight(args);
  uint32_t row_units = args.k * sizeof(E) / 2, steps = (row_units + ROW - 1) / ROW;
  auto start = [&](uint32_t step, uint32_t stage) {
    if (step < steps) {
      fetch(shared, stage * 2 * TILE_UNITS, x, tile.row, args.m, step * ROW, row_units);
      weight.start(shared, (stage * 2 + 1) * TILE_UNITS, tile.column, args.n, step * ROW, row_units);
    }
    copy_async_commit();
  };
  auto finish_weight = [&](uint32_t step, uint32_t stage) {
    if (step < steps) weight.finish(shared, (stage * 2 + 1) * TILE_UNITS);
  };
  for (uint32_t stage = 0; stage < STAGES - 1; stage++) {
    start(stage, stage);
    finish_weight(stage, stage);
  }
  Sum sums[4][4][4] = {};
  uint32_t stage = 0, free = STAGES - 1;
  for (uint32_t step = 0; step < steps; step++) {
    copy_async_wait<STAGES - 2>();
    sync_threads();
    // The stage that was read in the last step is free now.
    start(step + STAGES - 1, free);
    accumulate<E>(sums, shared, stage * 2 * TILE_UNITS, (stage * 2 + 1) * TILE_UNITS);
    finish_weight(step + STAGES - 1, free);
    free = stage;
    stage = stage + 1 == STAGES ? 0 : stage + 1;
  }
  copy_async_wait<0>();
  finish<T>(args, tile, sums);
}

template <class T>
DEVICE void int8(const gemm::Args& args) { product<T, int8_t, int32_t, Copied<int8_t>>(args); }

KERNEL(gemm_tensor_f16, gemm::Args, 256, 2) { product<f16, f16, float, Copied<f16>>(args); }
KERNEL(gemm_tensor_bf16, gemm::Args, 256, 2) { product<bf16, bf16, float, Copied<bf16>>(args); }
KERNEL(gemm_tensor_weight8_f16, gemm::Args, 256, 2) { product<f16, f16, float, Widened<f16>>(args); }
KERNEL(gemm_tensor_weight8_bf16, gemm::Args, 256, 2) { product<bf16, bf16, float, Widened<bf16>>(args); }
KERNEL_FOR_FLOATS(gemm_tensor_int8, gemm::Args, 256, 2, int8)

}  // namespace gemm_tensor_cu
