//! How sizes follow from each other in encoding and decoding, whatever computes them.
//!
//! Knows chunks of time, frames and pixels; must not know layers or where they run.

use candle_core::{DType, Tensor};

use crate::{Error, Result};

/// The sizes of the encoder or the decoder.
pub(crate) trait Geometry {
    /// Channels of the input and of the output.
    fn channels(&self) -> [usize; 2];
    /// Frames of a chunk. Fixed by training.
    fn chunk_frames(&self) -> usize;
    /// Output frames for a chunk of `frames`.
    fn output_frames(&self, frames: usize) -> usize;
    /// Whether the input is latents and the output pictures.
    fn decodes(&self) -> bool;
    /// Output height or width.
    fn output_len(&self, len: usize) -> usize;
    /// Multiply-adds of a chunk, for the progress.
    fn work(&self, frames: usize, height: usize, width: usize) -> u64;

    /// The lengths of the chunks of `frames` frames: the first takes those that are left over.
    fn chunk_lens(&self, frames: usize) -> Vec<usize> {
        let chunk_frames = self.chunk_frames();
        let count = (frames / chunk_frames).max(1);
        let rest = frames % chunk_frames;
        (0..count)
            .map(|index| if index == 0 { frames.min(chunk_frames + rest) } else { chunk_frames })
            .collect()
    }

    /// Multiply-adds of a video, or of a tile of one.
    fn video_work(&self, [frames, height, width]: [usize; 3]) -> u64 {
        self.chunk_lens(frames).into_iter().map(|len| self.work(len, height, width)).sum()
    }

    /// Frames, height and width of the output.
    fn output_size(&self, [frames, height, width]: [usize; 3]) -> [usize; 3] {
        let frames = self.chunk_lens(frames).into_iter().map(|len| self.output_frames(len)).sum();
        [frames, self.output_len(height), self.output_len(width)]
    }
}

/// Batch, channels, frames, height and width of an input that fits; `name` is what the caller calls it.
///
/// # Errors
/// [`Error::InvalidParams`] for one that does not.
pub(crate) fn input_dims(
    geometry: &impl Geometry,
    dtype: DType,
    input: &Tensor,
    name: &'static str,
) -> Result<[usize; 5]> {
    let dims = input.dims();
    let &[batch, channels, frames, height, width] = dims else {
        let message = format!("expected (batch, channels, frames, height, width), found {dims:?}");
        return Err(Error::invalid(name, message));
    };
    let expected = geometry.channels()[0];
    if channels != expected || input.dtype() != dtype {
        let found = input.dtype();
        let message = format!("expected {expected} channels of {dtype:?}, found {channels} of {found:?}");
        return Err(Error::invalid(name, message));
    }
    if batch * frames * geometry.output_len(height) * geometry.output_len(width) == 0 {
        return Err(Error::invalid(name, format!("nothing comes out of {dims:?}")));
    }
    Ok([batch, channels, frames, height, width])
}

/// Mean and logarithm of the variance, `channels` each, of what the encoder gives; the latter bounded as diffusers
/// bounds it.
pub(crate) fn split_moments(moments: &Tensor, channels: usize) -> Result<(Tensor, Tensor)> {
    let logvar = moments.narrow(1, channels, channels)?.clamp(-30f32, 20f32)?;
    Ok((moments.narrow(1, 0, channels)?.contiguous()?, logvar))
}
