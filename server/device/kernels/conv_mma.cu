// Convolution on tensor cores (mma.sync, from sm_80 on), f16 and bf16, channels in multiples of eight.
//
// An implicit matrix product: a block computes 128 pixels times 128 output channels, its eight warps 32 x 64 each.
// Sixteen bytes, eight channels under one tap, are copied asynchronously from where they lie, zeros where the frame
// has ended; three stages of 32 products are under way. Chunks are swizzled so that ldmatrix meets no bank twice.
#include "conv.h"

namespace conv_mma_cu {

using conv::Args;

const uint32_t PIXELS = 128, OUTS = 128, DEPTH = 32, STAGES = 3, CHUNK = 8;
const uint32_t STAGE = (PIXELS + OUTS) * DEPTH;

// Where chunk `chunk` of a row of 32 elements lies: two rows share 128 bytes.
DEVICE uint32_t swizzled(uint32_t row, uint32_t chunk) { return row * DEPTH + (chunk ^ (row >> 1 & 3)) * CHUNK; }

// What a thread copies in each step: the same chunk of two pixels and of two output channels.
template <class T>
struct Loader {
  Shared<T> shared;
  uint32_t row, chunk, first_out, products;
  conv::Place places[2];
  // The tap and the channel of this thread's chunk in the next step.
  conv::Tap tap;
  uint32_t channel, product;

  DEVICE void settle(const Args& args) {
    while (channel >= args.channels) {
      channel -= args.channels;
      if (++tap.x < args.kw) continue;
      tap.x = 0;
      if (++tap.y < args.kh) continue;
      tap.y = 0;
      tap.t++;
    }
  }

  DEVICE void step(const Args& args, uint32_t stage) {
    Global<const T> input = args.input.as<const T>(), weight = args.weight.as<const T>();
    uint32_t base = stage * STAGE;
    UNROLL
    for (uint32_t i = 0; i < 2; i++) {
      conv::Source source = conv::source_of(args, places[i], tap);
      copy_async_16(shared, base + swizzled(row + 64 * i, chunk), input,
                    uint64_t(source.pixel) * args.channels + channel, source.inside);
    }
    UNROLL
    for (uint32_t i = 0; i < 2; i++) {
      uint32_t out = first_out + row + 64 * i;
      copy_async_16(shared, base + PIXELS * DEPTH + swizzled(row + 64 * i, chunk), weight,
                    uint64_t(out) * products + product, out < args.outs && product < products);
    }
    product += DEPTH;
    channel += DEPTH;
    settle(args);
  }
};

// A warp's 32 pixels times 64 output channels in one stage.
template <class T>
DEVICE void multiply(float (&sums)[2][8][4], Shared<T> shared, uint32_t stage, uint32_t pixel, uint32_t out) {
  uint32_t lane = threadIdx.x % 32, pixels = stage * STAGE, weights = pixels + PIXELS * DEPTH;
  UNROLL
  for (uint32_t k = 0; k < DEPTH / 16; k++) {
    uint32_t a[2][4];
    UNROLL
    for (uint32_t i = 0; i < 2; i++)
      load_matrices(a[i], shared, pixels + swizzled(pixel + 16 * i + (lane & 15), 2 * k + (lane >> 4)));
    UNROLL
    for (uint32_t j = 0; j < 4; j++) {
      uint32_t b[4];
      uint32_t row = out + 16 * j + 8 * (lane >> 4) + (lane & 7);
      load_matrices(b, shared, weights + swizzled(row, 2 * k + (lane >> 3 & 1)));
      uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
      UNROLL
      for (uint32_t i = 0; i < 2; i++) {
        mma_16x8x16(sums[i][2 * j], a[i], low, T());
        mma_16x8x16(sums[i][2 * j + 1], a[i], high, T());
      }
    }
  }
}

// Two neighbouring output channels of a pixel.
template <class T>
DEVICE void store(const Args& args, uint32_t pixel, uint32_t out, float low, float high) {
  if (pixel >= conv::out_pixels(args) || out >= args.outs) return;
  uint64_t index = uint64_t(pixel) * args.outs + out;
  Vec<T, 2> pair;
  pair[0] = from_f32<T>(conv::finished<T>(args, low, out, index));
  pair[1] = from_f32<T>(conv::finished<T>(args, high, out + 1, index + 1));
  args.out.as<T>().template store_vec<2>(index, pair);
}

template <class T>
DEVICE void product(const Args& args) {
  uint32_t out_tiles = (args.outs + OUTS - 1) / OUTS;
  uint32_t first_out = blockIdx.x % out_tiles * OUTS, first_pixel = blockIdx.x / out_tiles * PIXELS;
  Loader<T> loader;
  loader.shared = shared_array<T>(0, STAGES * STAGE);
  loader.row = threadIdx.x / 4;
  loader.chunk = threadIdx.x % 4;
  loader.first_out = first_out;
  loader.products = args.kt * args.kh * args.kw * args.channels;
  for (uint32_t i = 0; i < 2; i++) loader.places[i] = conv::place_of(args, first_pixel + loader.row + 64 * i);
  loader.tap = {0, 0, 0};
  loader.channel = loader.product = loader.chunk * CHUNK;
  loader.settle(args);

  uint32_t steps = (loader.products + DEPTH - 1) / DEPTH;
  for (uint32_t stage = 0; stage < STAGES - 1; stage++) {
    if (stage < steps) loader.step(args, stage);
    copy_async_commit();
  }
  uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint32_t pixel = warp % 4 * 32, out = warp / 4 * 64;
  float sums[2][8][4] = {};
  uint32_t stage = 0, filled = STAGES - 1;
  for (uint32_t step = 0; step < steps; step++) {
    copy_async_wait<STAGES - 2>();
    sync_threads();
    // The stage that was multiplied last: all threads are past it.
    if (step + STAGES - 1 < steps) loader.step(args, filled);
    copy_async_commit();
    multiply<T>(sums, loader.shared, stage, pixel, out);
    stage = stage + 1 == STAGES ? 0 : stage + 1;
    filled = filled + 1 == STAGES ? 0 : filled + 1;
  }
  copy_async_wait<0>();
  UNROLL
  for (uint32_t i = 0; i < 2; i++) {
    UNROLL
    for (uint32_t j = 0; j < 8; j++) {
      uint32_t at = first_pixel + pixel + 16 * i + (lane >> 2), column = first_out + out + 8 * j + 2 * (lane & 3);
      store<T>(args, at, column, sums[i][j][0], sums[i][j][1]);
      store<T>(args, at + 8, column, sums[i][j][2], sums[i][j][3]);
    }
  }
}

KERNEL(conv_mma_f16, Args, 256, 2) { product<f16>(args); }
KERNEL(conv_mma_bf16, Args, 256, 2) { product<bf16>(args); }

}  // namespace conv_mma_cu
