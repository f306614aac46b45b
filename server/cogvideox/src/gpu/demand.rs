//! What a model asks for: its tensors' names and shapes, and the memory of its plans.
//!
//! Both are found by building it on a device that computes nothing, so that they cannot differ from what loading does.
//! Must not know files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use candle_core::DType;
use candle_transformers::models::t5::Config as T5Config;
use device::{Capability, Device};

use super::Precision;
use super::load::{Configs, Placement, own_job};
use super::plan::{MemoryPlan, Planner, counting_device};
use super::source::{Asked, Names, Source};
use super::streaming::Residence;
use super::text_encoder::GpuTextEncoder;
use super::transformer::GpuTransformer;
use super::vae::GpuVae;
use crate::Result;
use crate::params::ModelDefaults;
use crate::transformer::TransformerConfig;
use crate::vae::VaeConfig;

/// Tensors and their shapes as the files are to hold them.
pub(crate) type Demand = BTreeMap<String, Vec<usize>>;

fn asked(build: impl FnOnce(Source, &Device) -> Result<()>) -> Result<Asked> {
    let names = Arc::new(Names::default());
    build(Source::Listed(names.clone()), &planned())?;
    Ok(names.take())
}

/// As an H100: others differ by a kernel's work space.
fn planned() -> Device {
    counting_device(Capability::HOPPER)
}

/// Of `CogVideoXTransformer3DModel`.
///
/// # Errors
/// Those of shapes that no device takes.
pub(crate) fn transformer(config: &TransformerConfig) -> Result<Demand> {
    Ok(asked_by_transformer(config)?.shapes)
}

/// The weights of `CogVideoXTransformer3DModel` that are computed with in 8 bits where that is asked for.
///
/// # Errors
/// Those of shapes that no device takes.
pub(crate) fn quantisable(config: &TransformerConfig) -> Result<BTreeSet<String>> {
    Ok(asked_by_transformer(config)?.quantisable)
}

fn asked_by_transformer(config: &TransformerConfig) -> Result<Asked> {
    asked(|source, device| {
        let memory = MemoryPlan::RESIDENT.transformer_memory();
        GpuTransformer::load(config.clone(), source, DType::F32, device, memory, Precision::Dense).map(drop)
    })
}

/// Of `AutoencoderKLCogVideoX`.
///
/// # Errors
/// Those of shapes that no device takes.
pub(crate) fn vae(config: &VaeConfig) -> Result<Demand> {
    let asked = asked(|source, device| GpuVae::load(config.clone(), &source, DType::F32, device).map(drop))?;
    Ok(asked.shapes)
}

/// Of `T5EncoderModel`.
///
/// # Errors
/// Those of shapes that no device takes.
pub(crate) fn text_encoder(config: &T5Config) -> Result<Demand> {
    let asked = asked(|source, device| {
        GpuTextEncoder::load(config.clone(), &source, DType::F32, device, Residence::Resident).map(drop)
    })?;
    Ok(asked.shapes)
}

/// Bytes of tensors at most, of the model's own video with each of `plans`, all parts on one device.
///
/// # Errors
/// Those of shapes that the model cannot run.
pub(crate) fn peaks(
    configs: &Configs,
    defaults: &ModelDefaults,
    dtype: DType,
    precision: Precision,
    plans: &[MemoryPlan],
) -> Result<Vec<usize>> {
    let planner = Planner { configs, dtype, precision, placement: Placement::single(planned()) };
    let job = own_job(configs, defaults)?;
    plans.iter().map(|plan| Ok(planner.needs(plan, &job)?.peak_bytes.into_iter().sum())).collect()
}
