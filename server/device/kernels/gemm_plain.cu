// `y = x W^T` for any type and size, without tensor cores: 64x64 of the result by a block, 4x4 by a thread.
#include "gemm.h"

namespace gemm_plain_cu {

constexpr uint32_t TILE = 64, DEPTH = 16, THREADS = 256;
// From one k to the next; the two elements of padding keep a warp's writes in different banks.
constexpr uint32_t STRIDE = TILE + 2;

template <class Sum, class E>
DEVICE Sum widened(E x) { return to_f32(x); }
template <>
DEVICE float widened<float, int8_t>(int8_t x) { return float(x); }
template <>
DEVICE int32_t widened<int32_t, int8_t>(int8_t x) { return x; }

// 64 rows and 16 columns of a matrix, transposed; zeros beyond its edges.
template <class Sum, class E>
DEVICE void fetch(Shared<Sum> tile, Global<const E> from, uint32_t first_row, uint32_t rows, uint32_t first_k, uint32_t k) {
  for (uint32_t i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
    uint32_t row = first_row + i / DEPTH, column = first_k + i % DEPTH;
    bool inside = row < rows && column < k;
    tile[i % DEPTH * STRIDE + i / DEPTH] = inside ? widened<Sum>(from.load(uint64_t(row) * k + column)) : Sum(0);
  }
}

template <class T, class X, class W, class Sum>
DEVICE void product(const gemm::Args& args) {
  Shared<Sum> x = shared_array<Sum>(0, STRIDE * DEPTH);
  Shared<Sum> weight = shared_array<Sum>(STRIDE * DEPTH * sizeof(Sum), STRIDE * DEPTH);
  gemm::Tile tile = gemm::tile_of_block(args, TILE);
  uint32_t down = threadIdx.x / 16, right = threadIdx.x % 16;
  Sum sums[4][4] = {};
  for (uint32_t k = 0; k < args.k; k += DEPTH) {
    fetch(x, args.x.as<const X>(), tile.row, args.m, k, args.k);
    fetch(weight, args.weight.as<const W>(), tile.column, args.n, k, args.k);
    sync_threads();
    UNROLL for (uint32_t step = 0; step < DEPTH; step++) {
      Sum a[4], b[4];
      UNROLL for (uint32_t i = 0; i < 4; i++) {
        a[i] = x[step * STRIDE + down + 16 * i];
        b[i] = weight[step * STRIDE + right + 16 * i];
      }
      UNROLL for (uint32_t i = 0; i < 4; i++)
        UNROLL for (uint32_t j = 0; j < 4; j++) sums[i][j] += a[i] * b[j];
    }
    sync_threads();
  }
  Global<T> out = args.out.as<T>();
  UNROLL for (uint32_t j = 0; j < 4; j++) {
    uint32_t column = tile.column + right + 16 * j;
    if (column >= args.n) continue;
    gemm::Column finish = gemm::column_of<T>(args, column);
    UNROLL for (uint32_t i = 0; i < 4; i++) {
      uint32_t row = tile.row + down + 16 * i;
      if (row >= args.m) continue;
      float scale = gemm::row_scale(args, row);
      float held = gemm::held<T>(args, row, column);
      out.store(uint64_t(row) * args.n + column, gemm::finished<T>(args, float(sums[i][j]), scale, finish, held));
    }
  }
}

template <class T>
DEVICE void dense(const gemm::Args& args) { product<T, T, T, float>(args); }
template <class T>
DEVICE void weight8(const gemm::Args& args) { product<T, T, int8_t, float>(args); }
template <class T>
DEVICE void int8(const gemm::Args& args) { product<T, int8_t, int8_t, int32_t>(args); }
template <class T>
DEVICE void fp8(const gemm::Args& args) { product<T, e4m3, e4m3, float>(args); }

KERNEL_FOR_FLOATS(gemm_plain, gemm::Args, 256, 2, dense)
KERNEL_FOR_FLOATS(gemm_plain_weight8, gemm::Args, 256, 2, weight8)
KERNEL_FOR_FLOATS(gemm_plain_int8, gemm::Args, 256, 2, int8)
KERNEL_FOR_FLOATS(gemm_plain_fp8, gemm::Args, 256, 2, fp8)

}  // namespace gemm_plain_cu
