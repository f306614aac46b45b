// What the convolution kernels share: arguments, and where an output pixel's taps lie in the input.
//
// Input [frames, height, width, channels], weight [outs, kt, kh, kw, channels], output [frames, height, width, outs].
// The input holds its padding in time, `kt - 1` frames more than the output; around a frame there are zeros.
#pragma once
#include "kernel.h"

namespace conv {

struct Args {
  Global<void_t> input, weight, bias, residual, out;
  uint32_t height, width, channels;
  uint32_t out_frames, out_height, out_width, outs;
  uint32_t kt, kh, kw;
  uint32_t top, left, stride;
  // 1 to read the input as if every pixel stood twice in height and in width.
  uint32_t enlarged;
};

// An output pixel's first tap.
struct Place {
  uint32_t frame;
  int32_t y, x;
  bool inside;
};

struct Tap { uint32_t t, y, x; };

DEVICE uint32_t out_pixels(const Args& args) { return args.out_frames * args.out_height * args.out_width; }

DEVICE Place place_of(const Args& args, uint32_t pixel) {
  uint32_t row = pixel / args.out_width, frame = row / args.out_height;
  uint32_t x = pixel - row * args.out_width, y = row - frame * args.out_height;
  return {frame, int32_t(y * args.stride) - int32_t(args.top), int32_t(x * args.stride) - int32_t(args.left),
          pixel < out_pixels(args)};
}

// The input pixel under a tap, and whether there is one.
struct Source {
  uint32_t pixel;
  bool inside;
};

DEVICE Source source_of(const Args& args, const Place& place, const Tap& tap) {
  uint32_t y = uint32_t(place.y + int32_t(tap.y)), x = uint32_t(place.x + int32_t(tap.x)), e = args.enlarged;
  // What is above or left of the frame is a huge number.
  bool inside = place.inside && tap.t < args.kt && y < args.height << e && x < args.width << e;
  return {((place.frame + tap.t) * args.height + (y >> e)) * args.width + (x >> e), inside};
}

// A finished sum with bias and residual, rounded where the CPU rounds.
template <class T>
DEVICE float finished(const Args& args, float sum, uint32_t out, uint64_t index) {
  if (args.bias.present()) sum += to_f32(args.bias.as<const T>().load(out));
  sum = rounded<T>(sum);
  if (args.residual.present()) sum = rounded<T>(sum + to_f32(args.residual.as<const T>().load(index)));
  return sum;
}

}  // namespace conv
