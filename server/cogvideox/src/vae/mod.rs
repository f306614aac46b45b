//! The causal 3D autoencoder: videos to latents and back.
//!
//! [`AutoencoderKlCogVideoX`] computes what diffusers' class of that name computes, in chunks of time with the
//! convolution cache passed from one to the next, whole or in tiles. Relies on [`crate::ops`] for arithmetic and on
//! [`crate::weights`]; must not know the pipeline: scaling factors are the caller's to apply.

mod coder;
mod config;
mod decoder;
mod encoder;
mod layers;
mod progress;
mod tiling;

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use self::coder::{Area, Coder, Video};
pub use self::config::VaeConfig;
use self::decoder::Decoder;
use self::encoder::Encoder;
use self::progress::Progress;
pub use self::tiling::Tiling;
use crate::ops::{Rounding, from_f32, with_f32};
use crate::weights::{DIFFUSERS_STEM, WeightScope, Weights};
use crate::{Error, Result};

/// Asked between tiles, chunks, convolutions and the parts of large convolutions, with the fraction done so far; its
/// error, usually [`Error::Interrupted`], stops the call and is passed on.
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
    /// [`Error::Config`] for a configuration that this crate does not know, the errors of the weights, and
    /// [`Error::Candle`] for a device other than the CPU.
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
    /// [`Error::InvalidParams`] for a tensor or a tiling that does not fit; what `check` returns.
    pub fn decode(&self, z: &Tensor, tiling: Option<&Tiling>, check: Check<'_>) -> Result<Tensor> {
        self.code(&self.decoder, z, "latents", tiling, check)
    }

    /// Mean and logarithm of the variance of the latents of `x` (batch, channels, frames, height, width).
    ///
    /// # Errors
    /// [`Error::InvalidParams`] for a tensor or a tiling that does not fit; what `check` returns.
    pub fn encode(&self, x: &Tensor, tiling: Option<&Tiling>, check: Check<'_>) -> Result<(Tensor, Tensor)> {
        let moments = self.code(&self.encoder, x, "sample", tiling, check)?;
        let channels = self.config.latent_channels;
        let logvar = moments.narrow(1, channels, channels)?.clamp(-30f32, 20f32)?;
        Ok((moments.narrow(1, 0, channels)?.contiguous()?, logvar))
    }

    fn code(
        &self,
        coder: &impl Coder,
        input: &Tensor,
        name: &'static str,
        tiling: Option<&Tiling>,
        check: Check<'_>,
    ) -> Result<Tensor> {
        let [channels, output_channels] = coder.channels();
        let (batch, found, frames, height, width) = input.dims5().map_err(|_| {
            Error::invalid(
                name,
                format!("expected (batch, channels, frames, height, width), found {:?}", input.dims()),
            )
        })?;
        if found != channels || input.dtype() != self.dtype {
            let (expected, dtype) = (self.dtype, input.dtype());
            let message = format!("expected {channels} channels of {expected:?}, found {found} of {dtype:?}");
            return Err(Error::invalid(name, message));
        }
        if batch * frames * coder.output_len(height) * coder.output_len(width) == 0 {
            return Err(Error::invalid(name, format!("too small: {:?}", input.dims())));
        }
        let ratio = self.config.spatial_compression_ratio();
        let plan =
            tiling.map(|tiling| tiling::Plan::new(tiling, [height, width], ratio, coder)).transpose()?;
        let plan = plan.flatten();
        let rounding = Rounding::of(self.dtype)?;
        let coded = with_f32(input, |data| {
            let whole = Area {
                data,
                channels,
                frames,
                full_height: height,
                full_width: width,
                top: 0,
                left: 0,
                height,
                width,
            };
            let work =
                plan.as_ref().map_or_else(|| coder::work(coder, whole), |plan| plan.work(coder, whole));
            let mut progress = Progress::new(work * batch as u64, check);
            let items = data.chunks_exact(data.len() / batch).map(|data| {
                let whole = Area { data, ..whole };
                match &plan {
                    Some(plan) => plan.code(coder, whole, rounding, &mut progress),
                    None => coder::code(coder, whole, &mut progress),
                }
            });
            Ok(items.collect::<Result<Vec<Video>>>())
        })??;
        let (frames, height, width) = (coded[0].frames, coded[0].height, coded[0].width);
        let data = coded.into_iter().map(|video| video.data).reduce(|mut all, video| {
            all.extend(video);
            all
        });
        let shape = [batch, output_channels, frames, height, width];
        Ok(from_f32(data.unwrap_or_default(), &shape, self.dtype)?)
    }
}
