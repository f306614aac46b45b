//! From the VAE's output to 8-bit frames.
//!
//! diffusers' `VaeImageProcessor`: `x * 0.5 + 0.5`, clamped, in the VAE's dtype (in bf16 the steps near white are one
//! 256th), then rounded half to even as PIL's path does. Knows pixels only.

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::VideoFrames;
use crate::Result;
use crate::ops::{Rounding, with_f32};

/// A factor times a tensor, multiplied in `f32` and rounded to the tensor's dtype, as PyTorch multiplies by a number.
pub(super) fn scaled(x: &Tensor, factor: f64) -> Result<Tensor> {
    Ok(x.to_dtype(DType::F32)?.affine(factor, 0.0)?.to_dtype(x.dtype())?)
}

/// `(1, 3, f, h, w)` in [-1, 1] to `(f, h, w, 3)` bytes.
pub(super) fn frames(video: &Tensor) -> Result<VideoFrames> {
    let (_, _, num_frames, height, width) = video.dims5()?;
    let rounding = Rounding::of(video.dtype())?;
    let plane = height * width;
    let mut rgb = vec![0; num_frames * plane * 3];
    with_f32(video, |video| {
        rgb.par_chunks_mut(plane * 3).enumerate().for_each(|(frame, rgb)| {
            for (channel, source) in video.chunks_exact(num_frames * plane).enumerate() {
                let source = &source[frame * plane..(frame + 1) * plane];
                for (pixel, x) in rgb.chunks_exact_mut(3).zip(source) {
                    let unit = rounding.round(rounding.round(x * 0.5) + 0.5).clamp(0.0, 1.0);
                    pixel[channel] = (unit * 255.0).round_ties_even() as u8;
                }
            }
        });
        Ok(())
    })?;
    Ok(VideoFrames { rgb, num_frames, height, width })
}
