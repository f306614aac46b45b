//! The layers that change the resolution between blocks, and the number of frames in those that change time.
//!
//! They have no memory of the chunk before. Must not know where in the encoder or decoder they stand.

use device::Tensor;
use device::ops::conv::{Conv3d, Window};
use device::ops::video;

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

    pub(super) fn forward(&self, x: Tensor, run: &mut Run<'_, '_>) -> Result<Tensor> {
        let [frames, height, width, _] = x.dims_n("upsampler")?;
        let output = self.conv.forward(&x, Window::DOUBLING, None)?;
        drop(x);
        run.progress.advance(self.work(frames, height, width))?;
        // The convolution has no taps in time: a frame that stands twice gives the same output twice.
        if self.frames(frames) == frames { Ok(output) } else { Ok(video::double_frames(&output)?) }
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

    pub(super) fn forward(&self, x: Tensor, run: &mut Run<'_, '_>) -> Result<Tensor> {
        let [frames, height, width, _] = x.dims_n("downsampler")?;
        let x = if self.frames(frames) == frames { x } else { video::halve_frames(&x)? };
        let output = self.conv.forward(&x, Window::HALVING, None)?;
        run.progress.advance(self.work(frames, height, width))?;
        Ok(output)
    }
}
