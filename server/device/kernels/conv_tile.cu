// Convolution of any size in any floating-point dtype: an implicit matrix product on tiles in shared memory.
//
// A block computes a tile of pixels times output channels; sixteen products deep, input and weights are widened into
// shared memory, each thread keeps four pixels' sums in registers. The narrow shape is for few output channels.
#include "conv.h"

namespace conv_tile_cu {

using conv::Args;

const uint32_t THREADS = 256, DEPTH = 16;

// OUTS in a tile, of which a thread has COLUMNS.
template <class T, int PIXELS, int OUTS, int COLUMNS>
DEVICE void tile(const Args& args) {
  const uint32_t ACROSS = OUTS / COLUMNS, DOWN = THREADS / ACROSS;
  const int ROWS = PIXELS / DOWN, LOADS = PIXELS * DEPTH / THREADS;
  // One column more keeps the threads that store one pixel's channels out of each other's banks.
  const uint32_t PITCH = PIXELS + 1;
  Shared<float> pixels = shared_array<float>(0, DEPTH * PITCH);
  Shared<float> weights = shared_array<float>(DEPTH * PITCH * 4, DEPTH * OUTS);
  Global<const T> input = args.input.as<const T>(), weight = args.weight.as<const T>();

  uint32_t out_tiles = (args.outs + OUTS - 1) / OUTS;
  uint32_t first_out = blockIdx.x % out_tiles * OUTS, first_pixel = blockIdx.x / out_tiles * PIXELS;
  uint32_t k = threadIdx.x % DEPTH, load_row = threadIdx.x / DEPTH;
  conv::Place places[LOADS];
  for (int i = 0; i < LOADS; i++) places[i] = conv::place_of(args, first_pixel + load_row + THREADS / DEPTH * i);

  float sums[ROWS][COLUMNS] = {};
  uint32_t column = threadIdx.x % ACROSS, row = threadIdx.x / ACROSS;
  uint32_t products = args.kt * args.kh * args.kw * args.channels;
  for (uint32_t first = 0; first < products; first += DEPTH) {
    uint32_t tap = (first + k) / args.channels, channel = (first + k) % args.channels;
    conv::Tap at = {tap / args.kw / args.kh, tap / args.kw % args.kh, tap % args.kw};
    for (int i = 0; i < LOADS; i++) {
      conv::Source source = conv::source_of(args, places[i], at);
      float x = source.inside ? to_f32(input.load(uint64_t(source.pixel) * args.channels + channel)) : 0.0f;
      pixels[k * PITCH + load_row + THREADS / DEPTH * i] = x;
    }
    for (uint32_t out = load_row; out < OUTS; out += THREADS / DEPTH) {
      bool inside = first_out + out < args.outs && first + k < products;
      weights[k * OUTS + out] = inside ? to_f32(weight.load(uint64_t(first_out + out) * products + first + k)) : 0.0f;
    }
    sync_threads();
    for (uint32_t depth = 0; depth < DEPTH; depth++) {
      float x[ROWS], w[COLUMNS];
      for (int i = 0; i < ROWS; i++) x[i] = pixels[depth * PITCH + row + DOWN * i];
      for (int j = 0; j < COLUMNS; j++) w[j] = weights[depth * OUTS + column + ACROSS * j];
      for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLUMNS; j++) sums[i][j] += x[i] * w[j];
    }
    sync_threads();
  }
  for (int i = 0; i < ROWS; i++) {
    uint32_t pixel = first_pixel + row + DOWN * i;
    for (int j = 0; j < COLUMNS; j++) {
      uint32_t out = first_out + column + ACROSS * j;
      if (pixel >= conv::out_pixels(args) || out >= args.outs) continue;
      uint64_t index = uint64_t(pixel) * args.outs + out;
      args.out.as<T>().store(index, from_f32<T>(conv::finished<T>(args, sums[i][j], out, index)));
    }
  }
}

template <class T>
DEVICE void wide(const Args& args) { tile<T, 64, 64, 4>(args); }
template <class T>
DEVICE void narrow(const Args& args) { tile<T, 128, 8, 1>(args); }

KERNEL_FOR_FLOATS(conv_wide, Args, 256, 2, wide)
KERNEL_FOR_FLOATS(conv_narrow, Args, 256, 2, narrow)

}  // namespace conv_tile_cu
