//! `transformer/config.json` with the defaults of diffusers' `CogVideoXTransformer3DModel.__init__`.
//!
//! The published 2B file was written by an older diffusers and lacks the later keys, so every key has its default.
//! Must not know weights.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::pipeline_config::read_config;
use crate::{Error, Result};

/// The transformer's configuration. Sizes are of latents, frames are of pixels.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "the keys are diffusers'")]
pub struct TransformerConfig {
    /// Heads; the inner width is `num_attention_heads * attention_head_dim`.
    pub num_attention_heads: usize,
    /// Width of a head.
    pub attention_head_dim: usize,
    /// Channels of the input: twice the latents' for image-to-video.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Cosines before sines in the timestep's embedding.
    pub flip_sin_to_cos: bool,
    /// Subtracted from the number of frequencies in the timestep's embedding.
    pub freq_shift: i64,
    /// Width of the timestep's embedding.
    pub time_embed_dim: usize,
    /// Width of the `ofs` embedding; 1.5 image-to-video only.
    pub ofs_embed_dim: Option<usize>,
    /// Width of the text encoder's output.
    pub text_embed_dim: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Biases of q, k and v.
    pub attention_bias: bool,
    /// Latent columns that the model was trained with.
    pub sample_width: usize,
    /// Latent rows that the model was trained with.
    pub sample_height: usize,
    /// Frames that the model was trained with.
    pub sample_frames: usize,
    /// Rows and columns of a patch.
    pub patch_size: usize,
    /// Latent frames of a patch; 1.5 only.
    pub patch_size_t: Option<usize>,
    /// Frames of a latent frame.
    pub temporal_compression_ratio: usize,
    /// Text tokens.
    pub max_text_seq_length: usize,
    /// Of the feed-forward layers.
    pub activation_fn: String,
    /// Of the timestep's embedding.
    pub timestep_activation_fn: String,
    /// Weights and biases of the `LayerNorm`s.
    pub norm_elementwise_affine: bool,
    /// Of the `LayerNorm`s over the inner width.
    pub norm_eps: f64,
    /// Rows and columns are divided by it in the sincos table.
    pub spatial_interpolation_scale: f64,
    /// Frames are divided by it in the sincos table.
    pub temporal_interpolation_scale: f64,
    /// Rotary positions (5B, 1.5) instead of the sincos table (2B).
    pub use_rotary_positional_embeddings: bool,
    /// A learned table on top of the rotary positions (5B image-to-video).
    pub use_learned_positional_embeddings: bool,
    /// Bias of the patch convolution; the 1.5 patch layer always has one.
    pub patch_bias: bool,
}

impl Default for TransformerConfig {
    fn default() -> Self {
        Self {
            num_attention_heads: 30,
            attention_head_dim: 64,
            in_channels: 16,
            out_channels: 16,
            flip_sin_to_cos: true,
            freq_shift: 0,
            time_embed_dim: 512,
            ofs_embed_dim: None,
            text_embed_dim: 4096,
            num_layers: 30,
            attention_bias: true,
            sample_width: 90,
            sample_height: 60,
            sample_frames: 49,
            patch_size: 2,
            patch_size_t: None,
            temporal_compression_ratio: 4,
            max_text_seq_length: 226,
            activation_fn: "gelu-approximate".to_owned(),
            timestep_activation_fn: "silu".to_owned(),
            norm_elementwise_affine: true,
            norm_eps: 1e-5,
            spatial_interpolation_scale: 1.875,
            temporal_interpolation_scale: 1.0,
            use_rotary_positional_embeddings: false,
            use_learned_positional_embeddings: false,
            patch_bias: true,
        }
    }
}

impl TransformerConfig {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// [`Error::Config`] for another class, or a value that this crate does not know.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let config = read_config::<Self>(path, &["CogVideoXTransformer3DModel"])?.config;
        config.check().map_err(|message| Error::config(path, message))?;
        Ok(config)
    }

    /// Width of the token stream.
    pub fn inner_dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Latent frames of a patch, 1 where patches do not span time.
    pub(crate) fn patch_frames(&self) -> usize {
        self.patch_size_t.unwrap_or(1)
    }

    /// Values of a patch of `channels` channels.
    pub(crate) fn patch_values(&self, channels: usize) -> usize {
        channels * self.patch_frames() * self.patch_size * self.patch_size
    }

    /// What diffusers' constructor or first forward would refuse, or this crate does not implement, with the key.
    fn check(&self) -> std::result::Result<(), String> {
        let positive = [
            ("num_attention_heads", self.num_attention_heads),
            ("attention_head_dim", self.attention_head_dim),
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("time_embed_dim", self.time_embed_dim),
            ("text_embed_dim", self.text_embed_dim),
            ("patch_size", self.patch_size),
            ("patch_size_t", self.patch_frames()),
            ("temporal_compression_ratio", self.temporal_compression_ratio),
            ("max_text_seq_length", self.max_text_seq_length),
            ("sample_frames", self.sample_frames),
            ("sample_width / patch_size", self.sample_width / self.patch_size.max(1)),
            ("sample_height / patch_size", self.sample_height / self.patch_size.max(1)),
        ];
        if let Some((key, value)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(format!("{key}: expected at least 1, found {value}"));
        }
        if self.activation_fn != "gelu-approximate" {
            return Err(format!("activation_fn: expected gelu-approximate, found {}", self.activation_fn));
        }
        if self.timestep_activation_fn != "silu" {
            return Err(format!(
                "timestep_activation_fn: expected silu, found {}",
                self.timestep_activation_fn
            ));
        }
        if self.use_learned_positional_embeddings && !self.use_rotary_positional_embeddings {
            return Err("use_learned_positional_embeddings: expected use_rotary_positional_embeddings with it, as in \
                        every published model"
                .to_owned());
        }
        // A quarter of the width for time, three eighths for rows and columns each, all even.
        if self.use_rotary_positional_embeddings && !self.attention_head_dim.is_multiple_of(16) {
            let found = self.attention_head_dim;
            return Err(format!(
                "attention_head_dim: expected a multiple of 16 for rotary positions, found {found}"
            ));
        }
        let has_table = !self.use_rotary_positional_embeddings || self.use_learned_positional_embeddings;
        if has_table && !self.inner_dim().is_multiple_of(16) {
            let found = self.inner_dim();
            return Err(format!(
                "num_attention_heads * attention_head_dim: expected a multiple of 16, found {found}"
            ));
        }
        Ok(())
    }
}
