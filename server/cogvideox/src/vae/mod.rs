//! The causal 3D autoencoder: videos to latents and back.
//!
//! [`AutoencoderKlCogVideoX`] computes what diffusers' class of that name computes, in chunks of time with the
//! convolution cache passed from one to the next, whole or in tiles. Relies on `ops` for arithmetic and on
//! `weights`; must not know the pipeline: scaling factors are the caller's to apply.

mod coder;
mod config;
mod decoder;
mod encoder;
mod geometry;
mod layers;
mod progress;
mod resample;
mod tiling;

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use self::coder::{Area, Coder, Video};
pub use self::config::VaeConfig;
use self::decoder::Decoder;
use self::encoder::Encoder;
pub(crate) use self::geometry::{Geometry, input_dims, split_moments};
pub(crate) use self::progress::Progress;
pub use self::tiling::Tiling;
pub(crate) use self::tiling::{Plan, Tile};
use crate::Result;
use crate::ops::{Rounding, from_f32, with_f32};
use crate::weights::{DIFFUSERS_STEM, WeightScope, Weights};

/// Asked between tiles, chunks, convolutions and the parts of large convolutions, with the fraction done so far; its
/// error, usually [`crate::Error::Interrupted`], stops the call and is passed on.
pub type Check<'a> = &'a mut dyn FnMut(f32) -> Result<()>;

/// The autoencoder with its weights.
pub struct AutoencoderKlCogVideoX {
    config: VaeConfig,
    encoder: Encoder,
    decoder: Decoder,
    dtype: DType,
}

impl AutoencoderKlCogVideoX {
    /// Loads `dir`, the pipeline's `vae` folder, to compute in `dtype` (f32, f16 or bf16).
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a configuration that this crate does not know, the errors of the weights, and
    /// [`crate::Error::Candle`] for a device other than the CPU.
    pub fn load(dir: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let config = VaeConfig::load(&dir.join("config.json"))?;
        let weights = Weights::open(dir, DIFFUSERS_STEM)?;
        let vae = Self::from_weights(config, &weights.root(dtype, device))?;
        weights.finish()?;
        Ok(vae)
    }

    pub(crate) fn from_weights(config: VaeConfig, scope: &WeightScope<'_>) -> Result<Self> {
        let encoder = Encoder::load(&scope.pp("encoder"), &config)?;
        let decoder = Decoder::load(&scope.pp("decoder"), &config)?;
        Ok(Self { config, encoder, decoder, dtype: scope.dtype() })
    }

    /// What `config.json` says.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The tiles that diffusers' `enable_tiling` takes by default.
    pub fn default_tiling(&self) -> Tiling {
        Tiling::for_sample_size(self.config.sample_height, self.config.sample_width)
    }

    /// Pictures for latents `z` (batch, channels, frames, height, width), in the same layout.
    ///
    /// A first latent frame gives one picture and every later one four; an even number of latent frames, whose first
    /// two make a chunk without such a first frame, four for each. With `tiling`, a picture larger than a tile is
    /// decoded in tiles.
    ///
    /// # Errors
    /// [`crate::Error::InvalidParams`] for a tensor or a tiling that does not fit; what `check` returns.
    pub fn decode(&self, z: &Tensor, tiling: Option<&Tiling>, check: Check<'_>) -> Result<Tensor> {
        self.code(&self.decoder, z, "latents", tiling, check)
    }

    /// Mean and logarithm of the variance of the latents of `x` (batch, channels, frames, height, width).
    ///
    /// # Errors
    /// [`crate::Error::InvalidParams`] for a tensor or a tiling that does not fit; what `check` returns.
    pub fn encode(&self, x: &Tensor, tiling: Option<&Tiling>, check: Check<'_>) -> Result<(Tensor, Tensor)> {
        let moments = self.code(&self.encoder, x, "sample", tiling, check)?;
        split_moments(&moments, self.config.latent_channels)
    }

    /// Runs the encoder or the decoder; `name` is what the caller calls the input.
    fn code(
        &self,
        coder: &impl Coder,
        input: &Tensor,
        name: &'static str,
        tiling: Option<&Tiling>,
        check: Check<'_>,
    ) -> Result<Tensor> {
        let [batch, dims @ ..] = input_dims(coder, self.dtype, input, name)?;
        let [_, frames, height, width] = dims;
        let ratio = self.config.spatial_compression_ratio();
        let plan = match tiling {
            Some(tiling) => Plan::new(tiling, [height, width], ratio, coder)?,
            None => None,
        };
        let rounding = Rounding::of(self.dtype)?;
        let videos = with_f32(input, |data| {
            let whole = Area::whole(data, dims);
            let work = match &plan {
                Some(plan) => plan.work(coder, [frames, height, width]),
                None => coder.video_work([frames, height, width]),
            };
            let mut progress = Progress::new(work * batch as u64, check);
            let videos = data.chunks_exact(data.len() / batch).map(|data| {
                let whole = Area { data, ..whole };
                match &plan {
                    Some(plan) => plan.code(coder, whole, rounding, &mut progress),
                    None => coder::code(coder, whole, &mut progress),
                }
            });
            Ok(videos.collect::<Result<Vec<Video>>>())
        })??;
        let Video { channels, frames, height, width, .. } = videos[0];
        let shape = [batch, channels, frames, height, width];
        let data = videos.into_iter().map(|video| video.data).reduce(|mut all, video| {
            all.extend(video);
            all
        });
        Ok(from_f32(data.unwrap_or_default(), &shape, self.dtype)?)
    }
}
