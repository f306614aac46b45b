//! The three models of a pipeline as the pipeline sees them, whatever computes them.
//!
//! Tensors at this seam are the host's, in the pipeline's dtype: prompts, latents and pictures are small beside the
//! work on them, and so schedulers, checkpoints and previews are the same for every device.

use candle_core::Tensor;

use super::{VideoFrames, postprocess};
use crate::Result;
use crate::text_encoder::T5EncoderModel;
use crate::transformer::{CogVideoXTransformer3DModel, Positions, TransformerConfig, TransformerInput};
use crate::vae::{AutoencoderKlCogVideoX, Check, Tiling, VaeConfig};

/// The parts that hold weights.
pub(crate) struct Components {
    pub(crate) text_encoder: Box<dyn TextEncoder>,
    pub(crate) transformer: Box<dyn Denoiser>,
    pub(crate) vae: Box<dyn Autoencoder>,
}

/// Prompts to embeddings.
pub(crate) trait TextEncoder: Send {
    /// Width of an embedding.
    fn d_model(&self) -> usize;

    /// One padded prompt's embeddings, `(1, ids, d_model)`; `check` is called between blocks.
    fn forward(&self, ids: &[u32], check: &mut dyn FnMut() -> Result<()>) -> Result<Tensor>;
}

/// Latents to the predicted velocity.
pub(crate) trait Denoiser: Send {
    /// As read from `config.json`.
    fn config(&self) -> &TransformerConfig;

    /// Of a video's size, in latents.
    fn positions(&self, frames: usize, height: usize, width: usize) -> Result<Positions>;

    /// Told before a run which timesteps it will ask for, and the value of `ofs`.
    fn prepare(&self, _timesteps: &[usize], _ofs: f32) -> Result<()> {
        Ok(())
    }

    /// `(b, f, out_channels, h, w)`; `check` is called between blocks.
    fn forward(&self, input: &TransformerInput<'_>, check: &mut dyn FnMut() -> Result<()>) -> Result<Tensor>;
}

/// Pictures to latents and back.
pub(crate) trait Autoencoder: Send {
    /// As read from `config.json`.
    fn config(&self) -> &VaeConfig;

    /// Pictures `(b, 3, frames, height, width)` of latents `(b, c, f, h, w)`.
    fn decode(&self, z: &Tensor, tiling: Option<&Tiling>, check: Check<'_>) -> Result<Tensor>;

    /// The same, of one video, as 8-bit frames.
    fn decode_frames(&self, z: &Tensor, tiling: Option<&Tiling>, check: Check<'_>) -> Result<VideoFrames> {
        postprocess::frames(&self.decode(z, tiling, check)?)
    }

    /// Mean and logarithm of the variance of the latents of pictures.
    fn encode(&self, x: &Tensor, tiling: Option<&Tiling>, check: Check<'_>) -> Result<(Tensor, Tensor)>;

    /// The tiles that diffusers' `enable_tiling` takes by default.
    fn default_tiling(&self) -> Tiling {
        Tiling::for_sample_size(self.config().sample_height, self.config().sample_width)
    }
}

impl TextEncoder for T5EncoderModel {
    fn d_model(&self) -> usize {
        self.d_model()
    }

    fn forward(&self, ids: &[u32], check: &mut dyn FnMut() -> Result<()>) -> Result<Tensor> {
        self.forward(ids, check)
    }
}

impl Denoiser for CogVideoXTransformer3DModel {
    fn config(&self) -> &TransformerConfig {
        self.config()
    }

    fn positions(&self, frames: usize, height: usize, width: usize) -> Result<Positions> {
        self.positions(frames, height, width)
    }

    fn forward(&self, input: &TransformerInput<'_>, check: &mut dyn FnMut() -> Result<()>) -> Result<Tensor> {
        self.forward(input, check)
    }
}

impl Autoencoder for AutoencoderKlCogVideoX {
    fn config(&self) -> &VaeConfig {
        self.config()
    }

    fn decode(&self, z: &Tensor, tiling: Option<&Tiling>, check: Check<'_>) -> Result<Tensor> {
        self.decode(z, tiling, check)
    }

    fn encode(&self, x: &Tensor, tiling: Option<&Tiling>, check: Check<'_>) -> Result<(Tensor, Tensor)> {
        self.encode(x, tiling, check)
    }
}
