// The autoencoder's work on pictures: means of neighbouring frames, tiles faded into each other, bytes.
#include "kernel.h"

namespace video_cu {

struct MeanArgs {
  Global<void_t> x, out;
  // Elements of a frame.
  uint64_t frame_len;
  // 1 where the first frame stands alone.
  uint32_t single_first;
};

// Grid: elements of a frame, frames of the output.
template <class T>
DEVICE void mean_of_pairs(const MeanArgs& args) {
  Global<const T> x = args.x.as<const T>();
  uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= args.frame_len) return;
  uint32_t frame = blockIdx.y;
  T value;
  if (args.single_first && frame == 0) {
    value = x.load(i);
  } else {
    uint64_t first = uint64_t(2 * frame - args.single_first) * args.frame_len + i;
    value = from_f32<T>((to_f32(x.load(first)) + to_f32(x.load(first + args.frame_len))) * 0.5f);
  }
  args.out.as<T>().store(frame * args.frame_len + i, value);
}

struct FadeArgs {
  // [frames, height, width, channels] each: the finished neighbour, and the tile that is faded in, in place.
  Global<void_t> before, tile;
  uint32_t before_height, before_width, height, width, channels;
  // Where the overlap begins in the neighbour, and its columns.
  uint32_t before_y, before_x, columns;
  uint32_t extent;
  // 1 to fade along the width, 0 along the height.
  uint32_t across;
};

// Grid: elements of a row of the overlap, its rows, frames.
template <class T>
DEVICE void fade(const FadeArgs& args) {
  uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= args.columns * args.channels) return;
  uint32_t y = blockIdx.y, x = i / args.channels;
  uint64_t before_row = uint64_t(blockIdx.z) * args.before_height + args.before_y + y;
  uint64_t before = (before_row * args.before_width + args.before_x) * args.channels + i;
  uint64_t at = (uint64_t(blockIdx.z) * args.height + y) * args.width * args.channels + i;
  double t = double(args.across ? x : y) / args.extent;
  Global<T> tile = args.tile.as<T>();
  float from = rounded<T>(to_f32(args.before.as<const T>().load(before)) * float(1.0 - t));
  float to = rounded<T>(to_f32(tile.load(at)) * float(t));
  tile.store(at, from_f32<T>(from + to));
}

struct RgbArgs {
  // [pixels, channels], of which the first three are a colour in -1 to 1.
  Global<void_t> x;
  // [pixels, 3].
  Global<uint8_t> out;
  uint64_t pixels;
  uint32_t channels;
};

template <class T>
DEVICE void rgb(const RgbArgs& args) {
  uint64_t pixel = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (pixel >= args.pixels) return;
  for (uint32_t i = 0; i < 3; i++) {
    float x = to_f32(args.x.as<const T>().load(pixel * args.channels + i));
    float unit = rounded<T>(rounded<T>(x * 0.5f) + 0.5f);
    // Half to even, and 0 for what is not a number.
    args.out.store(pixel * 3 + i, uint8_t(rintf(fminf(fmaxf(unit, 0.0f), 1.0f) * 255.0f)));
  }
}

KERNEL_FOR_FLOATS(video_mean_of_pairs, MeanArgs, 256, 1, mean_of_pairs)
KERNEL_FOR_FLOATS(video_fade, FadeArgs, 256, 1, fade)
KERNEL_FOR_FLOATS(video_rgb, RgbArgs, 256, 1, rgb)

}  // namespace video_cu
