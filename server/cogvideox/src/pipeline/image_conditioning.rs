//! The image of an image-to-video run as latents.
//!
//! diffusers' `CogVideoXImageToVideoPipeline.prepare_latents`: the image is one frame for the VAE, its posterior is
//! sampled, and zeros stand for the frames to come. Must not know the denoising loop.

use candle_core::{DType, Tensor};

use super::postprocess::scaled;
use super::{CogVideoXPipeline, Event, OnEvent, notify};
use crate::Result;
use crate::image::RgbImage;
use crate::noise::Generator;
use crate::params::{GenerationParams, LatentShape};
use crate::vae::Tiling;

impl CogVideoXPipeline {
    /// `(1, f, c, h, w)`, the first frame being the image's.
    pub(super) fn image_latents(
        &self,
        image: &RgbImage,
        params: &GenerationParams,
        shape: LatentShape,
        tiling: Option<&Tiling>,
        generator: &mut Generator,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Tensor> {
        let pixels = image.preprocess(params.width, params.height)?.to_dtype(self.dtype)?;
        let pixels = pixels.unsqueeze(2)?.to_device(&self.device)?;
        let mut check = |_| notify(on_event, Event::CheckPoint);
        let (mean, logvar) = self.components.vae.encode(&pixels, tiling, &mut check)?;
        let noise = generator.randn(mean.shape().clone(), self.dtype)?.to_device(&self.device)?;
        // std = exp(0.5 * logvar), each step in the VAE's dtype.
        let std = scaled(&logvar, 0.5)?.to_dtype(DType::F32)?.exp()?.to_dtype(self.dtype)?;
        let sample = (mean + (std * noise)?)?.permute((0, 2, 1, 3, 4))?.contiguous()?;

        let config = self.components.vae.config();
        let factor =
            if config.invert_scale_latents { 1.0 / config.scaling_factor } else { config.scaling_factor };
        let image_latents = scaled(&sample, factor)?;
        let [b, frames, c, h, w] = shape.dims();
        if frames == 1 {
            return Ok(image_latents);
        }
        let padding = Tensor::zeros((b, frames - 1, c, h, w), self.dtype, &self.device)?;
        Ok(Tensor::cat(&[&image_latents, &padding], 1)?)
    }
}
