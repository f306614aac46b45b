//! The layers that change the resolution between blocks.
//!
//! They have no memory of the chunk before. Relies on [`crate::ops`] for the arithmetic; must not know where in the
//! encoder or decoder they stand.

use super::layers::Run;
use crate::Result;
use crate::ops::Rounding;
use crate::ops::conv::{Conv, split_column, split_columns_shape};
use crate::ops::frame::{Frame, LANES};
use crate::weights::WeightScope;

/// Twice the size, and in the blocks that change time twice the frames, the first one aside.
pub(super) struct Upsampler {
    conv: Conv,
    doubles_frames: bool,
}

impl Upsampler {
    pub(super) fn load(scope: &WeightScope<'_>, channels: usize, doubles_frames: bool) -> Result<Self> {
        Ok(Self { conv: Conv::upsampling(&scope.pp("conv"), channels)?, doubles_frames })
    }

    /// Frames after, for frames before.
    pub(super) fn frames(&self, frames: usize) -> usize {
        if self.doubles_frames && frames > 1 { 2 * frames - frames % 2 } else { frames }
    }

    pub(super) fn work(&self, frames: usize, height: usize, width: usize) -> u64 {
        frames as u64 * self.conv.macs(2 * height, 2 * width)
    }

    pub(super) fn forward(&self, inputs: Vec<Frame>, run: &mut Run<'_, '_>) -> Result<Vec<Frame>> {
        run.pool.clear();
        let shape = inputs[0].shape();
        let odd = inputs.len() % 2 == 1;
        let mut bordered = Frame::zeros(shape.bordered());
        let mut outputs = Vec::with_capacity(self.frames(inputs.len()));
        let doubles = self.doubles_frames && inputs.len() > 1;
        for (index, input) in inputs.into_iter().enumerate() {
            bordered.read_inside(&input);
            drop(input);
            let mut output = Frame::zeros(self.conv.output_shape(shape.height, shape.width));
            self.conv.run(&[&bordered], &mut output, None, &mut |macs| run.progress.advance(macs))?;
            // The convolution has no taps in time: a frame that stands twice gives the same output twice.
            if doubles && !(odd && index == 0) {
                outputs.push(output.clone());
            }
            outputs.push(output);
        }
        Ok(outputs)
    }
}

/// Half the size, and in the blocks that change time the means of pairs of frames, an odd first one aside.
pub(super) struct Downsampler {
    conv: Conv,
    halves_frames: bool,
    rounding: Rounding,
}

impl Downsampler {
    pub(super) fn load(scope: &WeightScope<'_>, channels: usize, halves_frames: bool) -> Result<Self> {
        let rounding = Rounding::of(scope.dtype())?;
        Ok(Self { conv: Conv::downsampling(&scope.pp("conv"), channels)?, halves_frames, rounding })
    }

    /// Frames after, for frames before.
    pub(super) fn frames(&self, frames: usize) -> usize {
        if self.halves_frames { frames.div_ceil(2) } else { frames }
    }

    pub(super) fn work(&self, frames: usize, height: usize, width: usize) -> u64 {
        self.frames(frames) as u64 * self.conv.macs(height / 2, width / 2)
    }

    pub(super) fn forward(&self, inputs: Vec<Frame>, run: &mut Run<'_, '_>) -> Result<Vec<Frame>> {
        run.pool.clear();
        let shape = inputs[0].shape();
        let mut split = Frame::zeros(split_columns_shape(shape.channels, shape.height, shape.width));
        let mut outputs = Vec::with_capacity(self.frames(inputs.len()));
        let single_first = self.halves_frames && inputs.len() % 2 == 1;
        let mut inputs = inputs.into_iter();
        while let Some(first) = inputs.next() {
            let pairs = self.halves_frames && !(single_first && outputs.is_empty());
            let second = if pairs { inputs.next() } else { None };
            self.mean_into_split(&first, second.as_ref(), &mut split);
            drop((first, second));
            let mut output = Frame::zeros(self.conv.output_shape(shape.height, shape.width));
            self.conv.run(&[&split], &mut output, None, &mut |macs| run.progress.advance(macs))?;
            outputs.push(output);
        }
        Ok(outputs)
    }

    /// The frame, or the mean of two, as the convolution with stride 2 reads it.
    fn mean_into_split(&self, first: &Frame, second: Option<&Frame>, split: &mut Frame) {
        let (shape, row_len, split_width) = (first.shape(), split.shape().row_len(), split.shape().width);
        for (y, row) in split.rows_mut().chunks_exact_mut(row_len).take(shape.height).enumerate() {
            let second = second.map(|second| second.row(y));
            for (index, pixel) in first.row(y).iter().enumerate() {
                let (block, x) = (index / shape.width, index % shape.width);
                let mut mean = *pixel;
                if let Some(second) = second {
                    for lane in 0..LANES {
                        mean.0[lane] = self.rounding.round((mean.0[lane] + second[index].0[lane]) * 0.5);
                    }
                }
                row[block * split_width + split_column(x, split_width)] = mean;
            }
        }
    }
}
