//! The published models' shapes, for benchmarks and memory plans without files.
//!
//! From the `config.json`s of THUDM/CogVideoX-2b, CogVideoX-5b and CogVideoX1.5-5B. Must not know weights.

use std::str::FromStr;

use candle_core::DType;
use candle_transformers::models::t5::Config as T5Config;

use super::load::Configs;
use super::plan::Job;
use crate::transformer::TransformerConfig;
use crate::vae::VaeConfig;
use crate::{Error, Result};

/// A published model's shapes and its own video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// CogVideoX-2B: 720x480, 49 frames, f16.
    Cogvideox2b,
    /// CogVideoX-5B: 720x480, 49 frames, bf16.
    Cogvideox5b,
    /// CogVideoX1.5-5B: 1360x768, 81 frames, bf16.
    Cogvideox15,
    /// The 5B's layers at a hundredth of its width, two of them, and a small video: for machines without a GPU.
    Tiny,
}

impl FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "2b" => Ok(Self::Cogvideox2b),
            "5b" => Ok(Self::Cogvideox5b),
            "1.5-5b" => Ok(Self::Cogvideox15),
            "tiny" => Ok(Self::Tiny),
            other => Err(Error::invalid("preset", format!("expected 2b, 5b, 1.5-5b or tiny, found {other}"))),
        }
    }
}

impl Preset {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cogvideox2b => "2b",
            Self::Cogvideox5b => "5b",
            Self::Cogvideox15 => "1.5-5b",
            Self::Tiny => "tiny",
        }
    }

    /// What the model was published in.
    pub fn dtype(self) -> DType {
        match self {
            Self::Cogvideox2b => DType::F16,
            Self::Tiny => DType::F32,
            Self::Cogvideox5b | Self::Cogvideox15 => DType::BF16,
        }
    }

    /// Its own video, in 50 steps.
    pub fn job(self) -> Job {
        let latents = match self {
            Self::Cogvideox2b | Self::Cogvideox5b => [13, 60, 90],
            // 81 frames are 21 of latents, one more for patches of two.
            Self::Cogvideox15 => [22, 96, 170],
            Self::Tiny => [3, 12, 20],
        };
        let text_tokens = self.configs().transformer.max_text_seq_length;
        Job { latents, text_tokens, num_inference_steps: 50, guidance: true }
    }

    pub(super) fn configs(self) -> Configs {
        let transformer =
            TransformerConfig { use_rotary_positional_embeddings: true, ..TransformerConfig::default() };
        let wide = TransformerConfig { num_attention_heads: 48, num_layers: 42, ..transformer.clone() };
        match self {
            Self::Cogvideox2b => {
                Configs { transformer: TransformerConfig::default(), ..published(1.152_584_26) }
            }
            Self::Cogvideox5b => Configs { transformer: wide, ..published(0.7) },
            Self::Cogvideox15 => Configs {
                transformer: TransformerConfig {
                    patch_size_t: Some(2),
                    sample_frames: 81,
                    sample_height: 300,
                    sample_width: 300,
                    patch_bias: false,
                    ..wide
                },
                ..published(0.7)
            },
            Self::Tiny => Configs {
                text_encoder: crate::text_encoder::tiny_t5_config(64),
                transformer: TransformerConfig {
                    num_attention_heads: 2,
                    attention_head_dim: 16,
                    time_embed_dim: 32,
                    text_embed_dim: 64,
                    num_layers: 2,
                    sample_height: 12,
                    sample_width: 20,
                    sample_frames: 9,
                    ..transformer
                },
                vae: tiny_vae(),
            },
        }
    }
}

/// T5-XXL and the published VAE, whose scaling factor differs between the models.
fn published(scaling_factor: f64) -> Configs {
    let text_encoder = T5Config {
        d_model: 4096,
        d_kv: 64,
        d_ff: 10_240,
        num_heads: 64,
        num_layers: 24,
        ..crate::text_encoder::tiny_t5_config(4096)
    };
    let mut vae = VaeConfig::default();
    vae.scaling_factor = scaling_factor;
    Configs { text_encoder, transformer: TransformerConfig::default(), vae }
}

fn tiny_vae() -> VaeConfig {
    let mut vae = VaeConfig::default();
    vae.block_out_channels = vec![8, 8, 16, 16];
    vae.layers_per_block = 1;
    vae.norm_num_groups = 4;
    // The least with tiles of half that size whose overlaps, a sixth and a fifth, are whole latents.
    vae.sample_height = 96;
    vae.sample_width = 160;
    vae
}
