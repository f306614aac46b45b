//! The layers that change the resolution between blocks, and the number of frames in those that change time.
//!
//! They have no memory of the chunk before. Must not know where in the encoder or decoder they stand.

use device::Tensor;
use device::ops::conv::{Conv3d, Window};
use device::ops::video;

use super::chunk::Chunk;
use super::layers::{Run, load_conv};
use crate::Result;
use crate::gpu::source::Scope;

/// The 3 x 3 convolution of each frame that both have.
fn load(scope: &Scope<'_>, channels: usize) -> Result<Conv3d> {
    load_conv(&scope.pp("conv"), &[channels, channels, 3, 3], [channels; 2], [1, 3, 3])
}

/// Twice the size, and in the blocks that change time twice the frames, an odd first one aside.
pub(super) struct Upsampler {
    conv: Conv3d,
    doubles_frames: bool,
}

impl Upsampler {
    pub(super) fn load(scope: &Scope<'_>, channels: usize, doubles_frames: bool) -> Result<Self> {
        Ok(Self { conv: load(scope, channels)?, doubles_frames })
    }

    /// Frames after, for frames before.
    pub(super) fn frames(&self, frames: usize) -> usize {
        if self.doubles_frames && frames > 1 { 2 * frames - frames % 2 } else { frames }
    }

    pub(super) fn work(&self, frames: usize, height: usize, width: usize) -> u64 {
        frames as u64 * self.conv.macs(2 * height, 2 * width)
    }

    pub(super) fn forward(&self, x: Chunk, run: &mut Run<'_, '_>) -> Result<Chunk> {
        let [frames, height, width, _] = x.size()?;
        let doubles = self.frames(frames) != frames;
        let mut output = Vec::with_capacity(frames);
        for (first, piece) in x.into_pieces() {
            let piece_frames = piece.dims()[0];
            if doubles {
                for index in 0..piece_frames {
                    let alone = first + index < frames % 2;
                    output.push(self.repeated(&piece.slice(index, 1)?, if alone { 1 } else { 2 })?);
                }
            } else {
                output.push(self.conv.forward(&piece, Window::DOUBLING, None)?);
            }
            run.progress.advance(self.work(piece_frames, height, width))?;
        }
        Ok(Chunk::new(output))
    }

    /// The convolution has no taps in time: a frame that stands twice gives the same output twice.
    fn repeated(&self, frame: &Tensor, count: usize) -> Result<Tensor> {
        let [_, height, width, _] = frame.dims_n("upsampler")?;
        let dims = [count, 2 * height, 2 * width, self.conv.outs()];
        let output = Tensor::empty(frame.device(), &dims, frame.dtype())?;
        let first = output.slice(0, 1)?;
        self.conv.forward_into(frame, Window::DOUBLING, None, &first)?;
        (1..count).try_for_each(|index| output.slice(index, 1)?.copy_from(&first))?;
        Ok(output)
    }
}

/// Half the size, and in the blocks that change time the means of pairs of frames, an odd first one aside.
pub(super) struct Downsampler {
    conv: Conv3d,
    halves_frames: bool,
}

impl Downsampler {
    pub(super) fn load(scope: &Scope<'_>, channels: usize, halves_frames: bool) -> Result<Self> {
        Ok(Self { conv: load(scope, channels)?, halves_frames })
    }

    /// Frames after, for frames before.
    pub(super) fn frames(&self, frames: usize) -> usize {
        if self.halves_frames { frames.div_ceil(2) } else { frames }
    }

    pub(super) fn work(&self, frames: usize, height: usize, width: usize) -> u64 {
        self.frames(frames) as u64 * self.conv.macs(height / 2, width / 2)
    }

    pub(super) fn forward(&self, x: Chunk, run: &mut Run<'_, '_>) -> Result<Chunk> {
        let [frames, height, width, _] = x.size()?;
        let halves = self.frames(frames) != frames;
        let x = if halves { x.into_pairs()? } else { x };
        let mut output = Vec::with_capacity(frames);
        for (_, piece) in x.into_pieces() {
            let work = self.work(piece.dims()[0], height, width);
            let piece = if halves { video::halve_frames(&piece)? } else { piece };
            output.push(self.conv.forward(&piece, Window::HALVING, None)?);
            run.progress.advance(work)?;
        }
        Ok(Chunk::new(output))
    }
}
