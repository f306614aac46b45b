//! The built-in demo model: a tiny text-to-video pipeline with random weights.
//!
//! It lets a fresh machine run the whole server before any weights are there. Its videos are coloured noise in
//! motion and show nothing of the prompt; whoever offers it must say so. Relies on every component's constructor;
//! must not read files.

use candle_core::{DType, Device};

use crate::Result;
use crate::description::ModelDescription;
use crate::pipeline::{CogVideoXPipeline, Components};
use crate::pipeline_config::PipelineClass;
use crate::scheduler::{PredictionType, Scheduler, SchedulerConfig, SchedulerKind, TimestepSpacing};
use crate::text_encoder::{T5EncoderModel, tiny_t5_config};
use crate::tokenizer::Tokenizer;
use crate::transformer::{CogVideoXTransformer3DModel, TransformerConfig};
use crate::vae::{AutoencoderKlCogVideoX, VaeConfig};
use crate::weights::Weights;

/// The tokenizer as published with CogVideoX (google/t5-v1_1-xxl, Apache-2.0).
const SPIECE_MODEL: &[u8] = include_bytes!("../assets/spiece.model");

/// Width of the text encoder.
const TEXT_EMBED_DIM: usize = 64;

fn transformer_config() -> TransformerConfig {
    // 240x160, 17 frames: large enough to look at, small enough for fifty steps on one core in seconds.
    TransformerConfig {
        num_attention_heads: 4,
        attention_head_dim: 16,
        time_embed_dim: 64,
        text_embed_dim: TEXT_EMBED_DIM,
        num_layers: 2,
        sample_width: 30,
        sample_height: 20,
        sample_frames: 17,
        ..TransformerConfig::default()
    }
}

fn vae_config() -> VaeConfig {
    let mut config = VaeConfig::default();
    config.block_out_channels = vec![16, 16, 32, 32];
    config.layers_per_block = 1;
    config.norm_num_groups = 4;
    config.sample_height = 160;
    config.sample_width = 240;
    config
}

fn scheduler_config() -> SchedulerConfig {
    // As published with CogVideoX-2B.
    SchedulerConfig {
        prediction_type: PredictionType::VPrediction,
        timestep_spacing: TimestepSpacing::Trailing,
        rescale_betas_zero_snr: true,
        snr_shift_scale: 3.0,
        ..SchedulerConfig::default()
    }
}

impl ModelDescription {
    /// Of the built-in demo model.
    ///
    /// # Errors
    /// None in a correct build: the tokenizer is part of the program.
    pub fn demo() -> Result<Self> {
        let tokenizer = Tokenizer::from_bytes(SPIECE_MODEL)?;
        let scheduler = Scheduler::new(SchedulerKind::Ddim, scheduler_config());
        Ok(Self::new(PipelineClass::TextToVideo, &transformer_config(), tokenizer, scheduler))
    }
}

impl CogVideoXPipeline {
    /// The built-in demo model, the same on every machine.
    ///
    /// # Errors
    /// None in a correct build.
    pub fn demo(dtype: DType, device: &Device) -> Result<Self> {
        let text_weights = Weights::random(1);
        let transformer_weights = Weights::random(2);
        let vae_weights = Weights::random(3);
        let text_config = tiny_t5_config(TEXT_EMBED_DIM);
        let components = Components {
            text_encoder: Box::new(T5EncoderModel::from_weights(
                text_config,
                &text_weights.root(dtype, device),
            )?),
            transformer: Box::new(CogVideoXTransformer3DModel::from_weights(
                transformer_config(),
                &transformer_weights.root(dtype, device),
            )?),
            vae: Box::new(AutoencoderKlCogVideoX::from_weights(
                vae_config(),
                &vae_weights.root(dtype, device),
            )?),
        };
        Ok(Self::new(ModelDescription::demo()?, components, dtype, device, "demo".to_owned()))
    }
}
