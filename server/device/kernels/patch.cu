// Latents as patches, patches and text as one sequence, and back.
#include "rows.h"

namespace patch_cu {

struct PatchArgs {
  // (b, frames * patch_frames, channels, rows * patch, columns * patch)
  Global<void_t> video;
  // (b, frames * rows * columns, channels * patch_frames * patch * patch), the channel slowest within a patch.
  Global<void_t> tokens;
  uint32_t frames;
  uint32_t rows;
  uint32_t columns;
  uint32_t channels;
  uint32_t patch_frames;
  uint32_t patch;
  // Which of the two is written.
  uint32_t to_video;
};

// The last coordinate of `i` in a dimension of `size`; `i` goes on to the next one.
DEVICE uint64_t taken(uint64_t& i, uint32_t size) {
  uint64_t coordinate = i % size;
  i /= size;
  return coordinate;
}

template <class T>
DEVICE void patches(const PatchArgs& args) {
  Global<T> video = args.video.as<T>(), tokens = args.tokens.as<T>();
  uint64_t token_index = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (token_index >= tokens.len) return;
  uint64_t rest = token_index;
  uint64_t x = taken(rest, args.patch), y = taken(rest, args.patch), t = taken(rest, args.patch_frames);
  uint64_t channel = taken(rest, args.channels);
  x += taken(rest, args.columns) * args.patch;
  y += taken(rest, args.rows) * args.patch;
  t += taken(rest, args.frames) * args.patch_frames;
  // What is left is the video's number in the batch.
  uint64_t frame = rest * args.frames * args.patch_frames + t;
  uint64_t line = (frame * args.channels + channel) * args.rows * args.patch + y;
  uint64_t video_index = line * args.columns * args.patch + x;
  if (args.to_video) video.store(video_index, tokens.load(token_index));
  else tokens.store(token_index, video.load(video_index));
}

KERNEL_FOR_FLOATS(patches, PatchArgs, 256, 1, patches)

struct JoinArgs {
  // (b, text_len, size), (b, tokens - text_len, size), (b, tokens, size)
  Global<void_t> text;
  Global<void_t> video;
  Global<void_t> out;
  // (tokens, size), added, or absent.
  Global<void_t> positions;
  uint32_t tokens;
  uint32_t text_len;
  uint32_t size;
  uint32_t blocks_per_row;
  uint32_t vectors;
};

template <class T, int N>
DEVICE void join_some(const JoinArgs& args) {
  Place at = place<N>(args.blocks_per_row);
  if (at.column >= args.size) return;
  uint32_t batch = at.row / args.tokens, token = at.row % args.tokens, video_len = args.tokens - args.text_len;
  float v[N];
  if (token < args.text_len) {
    load_floats(v, args.text.as<T>(), (uint64_t(batch) * args.text_len + token) * args.size + at.column);
  } else {
    uint64_t row = uint64_t(batch) * video_len + token - args.text_len;
    load_floats(v, args.video.as<T>(), row * args.size + at.column);
  }
  if (args.positions.present()) {
    float position[N];
    load_floats(position, args.positions.as<T>(), uint64_t(token) * args.size + at.column);
    for (int n = 0; n < N; n++) v[n] += position[n];
  }
  store_floats(args.out.as<T>(), uint64_t(at.row) * args.size + at.column, v);
}
template <class T>
DEVICE void join(const JoinArgs& args) {
  if (args.vectors) join_some<T, 8>(args);
  else join_some<T, 1>(args);
}
KERNEL_FOR_FLOATS(join_tokens, JoinArgs, 128, 1, join)

struct VideoPartArgs {
  // (b, tokens, size), (b, tokens - text_len, size)
  Global<void_t> x;
  Global<void_t> out;
  uint32_t tokens;
  uint32_t text_len;
  uint32_t size;
  uint32_t blocks_per_row;
  uint32_t vectors;
};

template <class T, int N>
DEVICE void video_part_some(const VideoPartArgs& args) {
  Place at = place<N>(args.blocks_per_row);
  if (at.column >= args.size) return;
  uint32_t video_len = args.tokens - args.text_len, batch = at.row / video_len;
  uint64_t row = uint64_t(at.row) + uint64_t(batch + 1) * args.text_len;
  float v[N];
  load_floats(v, args.x.as<T>(), row * args.size + at.column);
  store_floats(args.out.as<T>(), uint64_t(at.row) * args.size + at.column, v);
}
template <class T>
DEVICE void video_part(const VideoPartArgs& args) {
  if (args.vectors) video_part_some<T, 8>(args);
  else video_part_some<T, 1>(args);
}
KERNEL_FOR_FLOATS(video_part, VideoPartArgs, 128, 1, video_part)

}  // namespace patch_cu
