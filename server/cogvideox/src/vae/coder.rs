//! What encoding and decoding have in common: a video is worked through in chunks of time.
//!
//! The first chunk takes the frames that are left over, each chunk's group norms see that chunk only, and causal
//! convolutions look back into the chunk before. Relies on a [`Coder`] for the layers; must not know what they are.

use super::geometry::Geometry;
use super::layers::{ConvCache, Run};
use super::progress::Progress;
use crate::Result;
use crate::ops::frame::{Frame, FramePool, FrameShape, Planes};

/// The encoder or the decoder.
pub(super) trait Coder: Geometry {
    /// Runs the layers over a chunk and hands out each output frame with its place in the chunk.
    fn forward(
        &self,
        chunk: &Chunk<'_>,
        run: &mut Run<'_, '_>,
        emit: &mut dyn FnMut(usize, &Frame),
    ) -> Result<()>;
}

/// A video, or a tile of one: for each channel, frame and row its pixels.
pub(super) struct Video {
    pub(super) channels: usize,
    pub(super) frames: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) data: Vec<f32>,
}

impl Video {
    pub(super) fn zeros(channels: usize, frames: usize, height: usize, width: usize) -> Self {
        Self { channels, frames, height, width, data: vec![0.0; channels * frames * height * width] }
    }
}

/// A rectangle of a video that lies somewhere else.
#[derive(Clone, Copy)]
pub(super) struct Area<'a> {
    /// Of the whole video: channels x frames x height x width.
    pub(super) data: &'a [f32],
    pub(super) channels: usize,
    pub(super) frames: usize,
    pub(super) full_height: usize,
    pub(super) full_width: usize,
    pub(super) top: usize,
    pub(super) left: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl<'a> Area<'a> {
    /// All of a video of (channels, frames, height, width).
    pub(super) fn whole(data: &'a [f32], [channels, frames, height, width]: [usize; 4]) -> Self {
        let (full_height, full_width) = (height, width);
        Self { data, channels, frames, full_height, full_width, top: 0, left: 0, height, width }
    }

    /// `frames` frames from `first` on.
    pub(super) fn chunk(self, first: usize, frames: usize) -> Chunk<'a> {
        Chunk { area: self, first, frames }
    }
}

/// Consecutive frames of an area.
pub(super) struct Chunk<'a> {
    area: Area<'a>,
    first: usize,
    pub(super) frames: usize,
}

impl Chunk<'_> {
    pub(super) fn shape(&self) -> FrameShape {
        FrameShape::new(self.area.channels, self.area.height, self.area.width)
    }

    pub(super) fn frame(&self, index: usize) -> Frame {
        self.read(index, self.shape(), 0)
    }

    /// With a border of zeros, as the first convolution reads it.
    pub(super) fn bordered_frame(&self, index: usize) -> Frame {
        self.read(index, self.shape().bordered(), 1)
    }

    fn read(&self, index: usize, shape: FrameShape, border: usize) -> Frame {
        let area = &self.area;
        let frame_len = area.full_height * area.full_width;
        let start = (self.first + index) * frame_len + area.top * area.full_width + area.left;
        let mut frame = Frame::zeros(shape);
        let planes = Planes {
            data: &area.data[start..],
            channel_stride: area.frames * frame_len,
            row_stride: area.full_width,
        };
        frame.read_planes(planes, border);
        frame
    }
}

/// Codes an area, chunk by chunk.
pub(super) fn code(coder: &impl Coder, area: Area<'_>, progress: &mut Progress<'_>) -> Result<Video> {
    let lens = coder.chunk_lens(area.frames);
    let [frames, height, width] = coder.output_size([area.frames, area.height, area.width]);
    let mut output = Video::zeros(coder.channels()[1], frames, height, width);
    let (plane, channel_stride) = (height * width, frames * height * width);
    let (mut cache, mut pool) = (ConvCache::default(), FramePool::default());
    let (mut first, mut output_first) = (0, 0);
    for (index, &len) in lens.iter().enumerate() {
        let mut run =
            Run { cache: &mut cache, pool: &mut pool, progress, fill_cache: index + 1 < lens.len() };
        coder.forward(&area.chunk(first, len), &mut run, &mut |frame, pixels| {
            pixels.write_planes(&mut output.data[(output_first + frame) * plane..], channel_stride);
        })?;
        pool.clear();
        first += len;
        output_first += coder.output_frames(len);
    }
    Ok(output)
}
