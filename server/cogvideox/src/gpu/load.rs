//! A pipeline whose models compute on a device.

use std::path::Path;

use candle_core::DType;
use candle_transformers::models::t5::Config as T5Config;
use device::Device;

use super::Precision;
use super::plan::MemoryPlan;
use super::source::Source;
use super::text_encoder::GpuTextEncoder;
use super::transformer::GpuTransformer;
use crate::description::ModelDescription;
use crate::pipeline::{CogVideoXPipeline, Components};
use crate::pipeline_config::read_config;
use crate::text_encoder::read_t5_config;
use crate::transformer::TransformerConfig;
use crate::vae::{AutoencoderKlCogVideoX, VaeConfig};
use crate::weights::{DIFFUSERS_STEM, TRANSFORMERS_STEM, Weights};
use crate::{Error, Result};

/// Which device holds which part.
#[derive(Clone, Debug)]
pub struct Placement {
    /// One, or two that share the guidance: each computes one prompt of the batch.
    pub transformer: Vec<Device>,
    /// Prompts to embeddings.
    pub text_encoder: Device,
    /// Latents to pictures.
    pub vae: Device,
}

impl Placement {
    /// All parts on one device.
    pub fn single(device: Device) -> Self {
        Self { transformer: vec![device.clone()], text_encoder: device.clone(), vae: device }
    }
}

/// The configurations of a pipeline's parts.
pub(crate) struct Configs {
    pub(crate) text_encoder: T5Config,
    pub(crate) transformer: TransformerConfig,
    pub(crate) vae: VaeConfig,
}

impl Configs {
    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("transformer/config.json");
        let transformer = read_config::<TransformerConfig>(&path, &["CogVideoXTransformer3DModel"])?.config;
        transformer.check().map_err(|message| Error::config(&path, message))?;
        Ok(Self {
            text_encoder: read_t5_config(&dir.join("text_encoder/config.json"))?,
            transformer,
            vae: VaeConfig::load(&dir.join("vae/config.json"))?,
        })
    }
}
