//! A small picture of a run's latents, without the VAE's cost.
//!
//! A latent pixel's channels nearly fix the colour of the pixels that it decodes to. The map from one to the other is
//! linear here, and fitted to the pipeline's own decoder, so that it suits any VAE: a mosaic of random patches is
//! decoded once, and the patches' colours are regressed on their channels. Must not know the loop.

use std::ops::ControlFlow;

use candle_core::{DType, Device, Tensor};

use super::postprocess::scaled;
use super::{Autoencoder, CogVideoXPipeline};
use crate::noise::Generator;
use crate::ops::with_f32;
use crate::vae::Check;
use crate::{Error, Result};

/// Latent pixels of a patch's side: what a patch decodes to is mixed with its neighbours', yet more patches on the
/// same area make a better map than wider ones (measured on held-out mosaics).
const PATCH: usize = 2;
/// Patches for each number that is fitted to them; 16 channels take 11x11 patches, a picture of 176x176 pixels.
const PATCHES_PER_UNKNOWN: usize = 6;

/// A picture of the middle of a video, one pixel for each latent pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// `(height, width, 3)`, 8 bits a channel.
    pub rgb: Vec<u8>,
    /// Pixels, an eighth of the video's.
    pub width: usize,
    /// Pixels, an eighth of the video's.
    pub height: usize,
}

/// Colour of a latent pixel: one row of three weights for each channel, and a last one that is added as it is.
#[derive(Debug)]
pub(super) struct RgbMap(Vec<[f32; 3]>);

impl CogVideoXPipeline {
    /// A picture of the middle frame of latents `(1, f, c, h, w)`, noisy or clean.
    ///
    /// The first call on a pipeline fits the map from latents to colours, which takes a VAE decode of one small frame:
    /// seconds with the published VAEs, between parts of which `check` is asked whether to go on. Every call after it
    /// takes less than a millisecond and asks nothing.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] for another number of channels than the VAE's, or no frame; [`Error::Interrupted`] when
    /// `check` broke off, after which the next call fits anew.
    pub fn preview(&self, latents: &Tensor, check: &mut dyn FnMut() -> ControlFlow<()>) -> Result<Preview> {
        let (_, frames, channels, height, width) = latents.dims5()?;
        let expected = self.components.vae.config().latent_channels;
        if channels != expected || latents.elem_count() == 0 {
            let found = latents.dims();
            let message = format!("expected latents of {expected} channels, found {found:?}");
            return Err(Error::invalid("latents", message));
        }
        let map = self.rgb_map(&mut |_| match check() {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        })?;
        let middle = latents.get(0)?.get(frames / 2)?.to_device(&Device::Cpu)?;
        let rgb = with_f32(&middle, |planes| Ok(map.apply(planes)))?;
        Ok(Preview { rgb, width, height })
    }

    /// Fits the map from latents to colours now, so that no later call of [`Self::preview`] has to.
    ///
    /// # Errors
    /// Those of a VAE decode.
    pub fn prepare_previews(&self) -> Result<()> {
        self.rgb_map(&mut |_| Ok(())).map(|_| ())
    }

    fn rgb_map(&self, check: Check<'_>) -> Result<&RgbMap> {
        if let Some(map) = self.rgb_map.get() {
            return Ok(map);
        }
        let map = RgbMap::fit(self.components.vae.as_ref(), self.dtype, &self.device, check)?;
        Ok(self.rgb_map.get_or_init(|| map))
    }
}

impl RgbMap {
    /// Bytes of the pixels of `(c, h, w)` values.
    fn apply(&self, planes: &[f32]) -> Vec<u8> {
        let (weights, bias) = self.0.split_at(self.0.len() - 1);
        let pixels = planes.len() / weights.len();
        let mut rgb = Vec::with_capacity(3 * pixels);
        for pixel in 0..pixels {
            let mut colour = bias[0];
            for (plane, weights) in planes.chunks_exact(pixels).zip(weights) {
                for (sum, weight) in colour.iter_mut().zip(weights) {
                    *sum += plane[pixel] * weight;
                }
            }
            rgb.extend(colour.map(|x| ((x * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8));
        }
        rgb
    }

    /// Least squares over the patches of one decoded mosaic.
    fn fit(vae: &dyn Autoencoder, dtype: DType, device: &Device, check: Check<'_>) -> Result<Self> {
        let channels = vae.config().latent_channels;
        let side = ((PATCHES_PER_UNKNOWN * (channels + 1)) as f64).sqrt().ceil() as usize;
        // Latents of a pipeline have about unit variance. The seed only has to be the same every time.
        let patches = Generator::seed(0).randn((channels, side, side), DType::F32)?.to_dtype(dtype)?;
        let colours = patch_colours(vae, &patches.to_device(device)?, check)?;
        let patches: Vec<f64> = patches.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        let count = side * side;
        let samples = (0..count).map(|patch| {
            let channels = (0..channels).map(|channel| patches[channel * count + patch]);
            let row: Vec<f64> = channels.chain([1.0]).collect();
            (row, [colours[patch], colours[count + patch], colours[2 * count + patch]])
        });
        let solution = least_squares(samples, channels + 1);
        Ok(Self(solution.into_iter().map(|row| row.map(|x| x as f32)).collect()))
    }
}

/// Mean decoded values of patches `(c, side, side)`, laid out as `(3, side, side)`.
fn patch_colours(vae: &dyn Autoencoder, patches: &Tensor, check: Check<'_>) -> Result<Vec<f64>> {
    let side = patches.dim(1)?;
    let mosaic = patches.unsqueeze(0)?.upsample_nearest2d(side * PATCH, side * PATCH)?.unsqueeze(2)?;
    let mosaic = scaled(&mosaic, 1.0 / vae.config().scaling_factor)?;
    let picture = vae.decode(&mosaic, None, check)?.to_dtype(DType::F64)?;
    let patch = PATCH * vae.config().spatial_compression_ratio();
    let picture = picture.get(0)?.narrow(1, 0, 1)?.contiguous()?;
    let colours = picture.reshape((3, side, patch, side, patch))?.mean((2, 4))?;
    Ok(colours.flatten_all()?.to_vec1()?)
}

/// The weights, one row for each of `unknowns`, with which rows of as many values come closest to their targets.
fn least_squares(samples: impl Iterator<Item = (Vec<f64>, [f64; 3])>, unknowns: usize) -> Vec<[f64; 3]> {
    // The normal equations, with the right-hand sides as further columns.
    let mut system = vec![vec![0.0; unknowns + 3]; unknowns];
    for (row, target) in samples {
        for (equation, factor) in system.iter_mut().zip(&row) {
            for (sum, value) in equation.iter_mut().zip(row.iter().chain(&target)) {
                *sum += factor * value;
            }
        }
    }
    // Random patches, more of them than unknowns, make it positive definite: no pivot is searched for.
    for pivot in 0..unknowns {
        let scale = 1.0 / system[pivot][pivot];
        system[pivot].iter_mut().for_each(|x| *x *= scale);
        let pivot_row = system[pivot].clone();
        for (index, equation) in system.iter_mut().enumerate() {
            let factor = equation[pivot];
            if index != pivot {
                equation.iter_mut().zip(&pivot_row).for_each(|(x, p)| *x -= factor * p);
            }
        }
    }
    system.iter().map(|row| [row[unknowns], row[unknowns + 1], row[unknowns + 2]]).collect()
}
