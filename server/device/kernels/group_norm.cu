// Group normalisation over a chunk of frames, fused with what follows it in the autoencoder.
//
// A chunk comes in pieces of some frames. First every block sums up its pixels, each thread its channels: `f32` sums of at most a hundred or so differences
// from one value of the group, so that little is lost, joined in `f64`. Then a block for each group makes a factor and
// a summand for each channel. Last, normalising, condition and SiLU are one pass, rounding where the CPU rounds.
// Sums are in a fixed order. All of it with V channels at once where channels are a multiple of V.
#include "kernel.h"

namespace group_norm_cu {

const uint32_t THREADS = 256;

// How a block's threads share pixels and vectors of channels: neighbours take neighbouring channels.
struct Share {
  uint32_t width, vector, lane, lanes;
  bool active;
};
DEVICE Share share_of(uint32_t vectors, uint32_t vector_block) {
  uint32_t width = vectors < THREADS ? vectors : THREADS, lanes = THREADS / width;
  uint32_t vector = vector_block * width + threadIdx.x % width, lane = threadIdx.x / width;
  return {width, vector, lane, lanes, lane < lanes && vector < vectors};
}

struct MomentsArgs {
  Global<void_t> x;
  // A pixel of the chunk's, from which differences are taken.
  Global<void_t> origin;
  // [blocks in x, channels, 2]: sums of the differences from the group's first value, and of their squares.
  Global<double> partial;
  uint32_t pixels, channels, group_len, pixels_per_block;
};

template <class T, int V>
DEVICE void moments(const MomentsArgs& args) {
  Global<const T> x = args.x.as<const T>();
  Shared<float> sums = shared_array<float>(0, THREADS * V * 2);
  Share share = share_of(args.channels / V, blockIdx.y);
  if (share.active) {
    float first[V], sum[V] = {}, squares[V] = {};
    for (int i = 0; i < V; i++)
      first[i] = to_f32(args.origin.as<const T>().load((share.vector * V + i) / args.group_len * args.group_len));
    uint32_t start = blockIdx.x * args.pixels_per_block, end = start + args.pixels_per_block;
    if (end > args.pixels) end = args.pixels;
    for (uint32_t pixel = start + share.lane; pixel < end; pixel += share.lanes) {
      Vec<T, V> values = x.template load_vec<V>(uint64_t(pixel) * args.channels + share.vector * V);
      for (int i = 0; i < V; i++) {
        float difference = to_f32(values[i]) - first[i];
        sum[i] += difference;
        squares[i] += difference * difference;
      }
    }
    for (int i = 0; i < V; i++) {
      sums[threadIdx.x * V * 2 + 2 * i] = sum[i];
      sums[threadIdx.x * V * 2 + 2 * i + 1] = squares[i];
    }
  }
  sync_threads();
  uint32_t first_value = blockIdx.y * share.width * V * 2;
  for (uint32_t i = threadIdx.x; i < share.width * V * 2 && first_value + i < args.channels * 2; i += THREADS) {
    double total = 0;
    for (uint32_t lane = 0; lane < share.lanes; lane++) total += sums[lane * share.width * V * 2 + i];
    args.partial.store(uint64_t(blockIdx.x) * args.channels * 2 + first_value + i, total);
  }
}

struct CoefficientsArgs {
  Global<void_t> origin, weight, bias;
  Global<double> partial;
  // [2, channels]: factors, then summands.
  Global<float> out;
  double eps;
  uint32_t blocks, pixels, channels, group_len;
};

// A block for each group.
template <class T>
DEVICE void coefficients(const CoefficientsArgs& args) {
  Shared<double> totals = shared_array<double>(0, THREADS * 2);
  uint32_t me = threadIdx.x, first = blockIdx.x * args.group_len;
  double sum = 0, squares = 0;
  for (uint64_t i = me; i < uint64_t(args.blocks) * args.group_len; i += THREADS) {
    uint64_t at = (i / args.group_len * args.channels + first + i % args.group_len) * 2;
    sum += args.partial.load(at);
    squares += args.partial.load(at + 1);
  }
  totals[me * 2] = sum;
  totals[me * 2 + 1] = squares;
  sync_threads();
  for (uint32_t half = THREADS / 2; half > 0; half /= 2) {
    if (me < half) {
      totals[me * 2] += totals[(me + half) * 2];
      totals[me * 2 + 1] += totals[(me + half) * 2 + 1];
    }
    sync_threads();
  }
  double count = double(args.pixels) * args.group_len, shifted = totals[0] / count;
  double mean = shifted + to_f32(args.origin.as<const T>().load(first));
  double variance = fmax(totals[1] / count - shifted * shifted, 0.0);
  double inverse_std = 1.0 / sqrt(variance + args.eps);
  for (uint32_t i = me; i < args.group_len; i += THREADS) {
    double factor = to_f32(args.weight.as<const T>().load(first + i)) * inverse_std;
    args.out.store(first + i, float(factor));
    args.out.store(args.channels + first + i,
                   float(fma(-mean, factor, double(to_f32(args.bias.as<const T>().load(first + i))))));
  }
}

struct ApplyArgs {
  Global<void_t> x;
  Global<const float> coefficients;
  // [frames, height, width, 2 * channels] of the latents: factors, then summands; or absent.
  Global<void_t> condition;
  Global<void_t> out;
  // The chunk's, and where in it x begins.
  uint32_t frames, first_frame;
  uint32_t height, width, channels;
  uint32_t latent_frames, latent_height, latent_width;
  // Blocks for a row, for all its pixels times for all its vectors of channels.
  uint32_t segments, pixels_per_thread;
};

// Nearest neighbour in time, where of an odd number of frames the first belongs to the first latent alone.
DEVICE uint32_t latent_of(uint32_t frame, uint32_t frames, uint32_t latents) {
  if (frames > 1 && frames % 2 == 1) return frame == 0 ? 0 : 1 + (frame - 1) * (latents - 1) / (frames - 1);
  return frame * latents / frames;
}

DEVICE float exponential(float x, float) { return expf(x); }
template <class T>
DEVICE float exponential(float x, T) { return fast_exp2(x * 1.44269504f); }

// Grid: segments of a row, rows, frames.
template <class T, int V>
DEVICE void apply(const ApplyArgs& args) {
  Share share = share_of(args.channels / V, blockIdx.x / args.segments);
  if (!share.active) return;
  uint32_t channel = share.vector * V, y = blockIdx.y, frame = blockIdx.z;
  float factor[V], summand[V];
  for (int i = 0; i < V; i++) {
    factor[i] = args.coefficients.load(channel + i);
    summand[i] = args.coefficients.load(args.channels + channel + i);
  }
  uint64_t row = (uint64_t(frame) * args.height + y) * args.width;
  uint64_t latent_row = 0;
  if (args.condition.present())
    latent_row = (uint64_t(latent_of(args.first_frame + frame, args.frames, args.latent_frames)) * args.latent_height +
                  y * args.latent_height / args.height) * args.latent_width;
  uint32_t first = blockIdx.x % args.segments * share.lanes * args.pixels_per_thread + share.lane;
  for (uint32_t i = 0; i < args.pixels_per_thread; i++) {
    uint32_t x = first + i * share.lanes;
    if (x >= args.width) break;
    uint64_t at = (row + x) * args.channels + channel;
    Vec<T, V> values = args.x.as<const T>().template load_vec<V>(at), scale, shift;
    if (args.condition.present()) {
      uint64_t latent = (latent_row + x * args.latent_width / args.width) * 2 * args.channels + channel;
      scale = args.condition.as<const T>().template load_vec<V>(latent);
      shift = args.condition.as<const T>().template load_vec<V>(latent + args.channels);
    }
    for (int j = 0; j < V; j++) {
      float value = rounded<T>(fmaf(to_f32(values[j]), factor[j], summand[j]));
      if (args.condition.present())
        value = rounded<T>(rounded<T>(value * to_f32(scale[j])) + to_f32(shift[j]));
      values[j] = from_f32<T>(value / (1.0f + exponential(-value, T())));
    }
    args.out.as<T>().template store_vec<V>(at, values);
  }
}

template <class T>
DEVICE void moments_1(const MomentsArgs& args) { moments<T, 1>(args); }
template <class T>
DEVICE void moments_vec(const MomentsArgs& args) { moments<T, 16 / sizeof(T)>(args); }
template <class T>
DEVICE void apply_1(const ApplyArgs& args) { apply<T, 1>(args); }
template <class T>
DEVICE void apply_vec(const ApplyArgs& args) { apply<T, 16 / sizeof(T)>(args); }

KERNEL_FOR_FLOATS(group_norm_moments, MomentsArgs, 256, 1, moments_1)
KERNEL_FOR_FLOATS(group_norm_moments_vec, MomentsArgs, 256, 1, moments_vec)
KERNEL_FOR_FLOATS(group_norm_coefficients, CoefficientsArgs, 256, 1, coefficients)
KERNEL_FOR_FLOATS(group_norm_apply, ApplyArgs, 256, 1, apply_1)
KERNEL_FOR_FLOATS(group_norm_apply_vec, ApplyArgs, 256, 1, apply_vec)

}  // namespace group_norm_cu
