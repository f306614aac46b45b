//! A pipeline whose models compute on a device.

use std::path::Path;

use candle_core::DType;
use candle_transformers::models::t5::Config as T5Config;
use device::{Capability, Device};

use super::Precision;
use super::plan::{ChosenPlan, FreeMemory, Job, MemoryPlan, Planner, Plans};
use super::source::Source;
use super::text_encoder::GpuTextEncoder;
use super::transformer::{GpuTransformer, GuidanceParallel};
use super::vae::GpuVae;
use crate::description::ModelDescription;
use crate::params::{LatentShape, ModelDefaults};
use crate::pipeline::{CogVideoXPipeline, Components, Denoiser, GpuUse};
use crate::text_encoder::read_t5_config;
use crate::transformer::TransformerConfig;
use crate::vae::VaeConfig;
use crate::weights::{DIFFUSERS_STEM, EightBitDtype, TRANSFORMERS_STEM, Weights};
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

    /// Each device once, those of the transformer first.
    pub fn devices(&self) -> Vec<&Device> {
        let mut devices: Vec<&Device> = Vec::new();
        for device in self.transformer.iter().chain([&self.text_encoder, &self.vae]) {
            if !devices.iter().any(|known| known.same(device)) {
                devices.push(device);
            }
        }
        devices
    }

    /// The same parts together on other devices, of which there is one for each of [`Self::devices`].
    pub(super) fn on(&self, others: &[Device]) -> Self {
        let devices = self.devices();
        let other = |device: &Device| {
            let place = devices.iter().position(|known| known.same(device));
            others[place.expect("a device of the placement is among its devices")].clone()
        };
        Self {
            transformer: self.transformer.iter().map(other).collect(),
            text_encoder: other(&self.text_encoder),
            vae: other(&self.vae),
        }
    }
}

/// The configurations of a pipeline's parts.
pub(crate) struct Configs {
    pub(crate) text_encoder: T5Config,
    pub(crate) transformer: TransformerConfig,
    pub(crate) vae: VaeConfig,
}

impl Configs {
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        Ok(Self {
            text_encoder: read_t5_config(&dir.join("text_encoder/config.json"))?,
            transformer: TransformerConfig::load(&dir.join("transformer/config.json"))?,
            vae: VaeConfig::load(&dir.join("vae/config.json"))?,
        })
    }
}

/// The parts on their devices; `sources` of the text encoder, of each transformer's device, and of the VAE.
pub(super) struct Sources {
    pub(super) text_encoder: Source,
    pub(super) transformer: Vec<Source>,
    pub(super) vae: Source,
}

impl Sources {
    fn open(dir: &Path, placement: &Placement) -> Result<Self> {
        let transformer = placement
            .transformer
            .iter()
            .map(|device| Source::open(&dir.join("transformer"), DIFFUSERS_STEM, device));
        Ok(Self {
            text_encoder: Source::open(
                &dir.join("text_encoder"),
                TRANSFORMERS_STEM,
                &placement.text_encoder,
            )?,
            transformer: transformer.collect::<Result<_>>()?,
            vae: Source::open(&dir.join("vae"), DIFFUSERS_STEM, &placement.vae)?,
        })
    }

    pub(super) fn random(placement: &Placement) -> Self {
        let transformer = placement.transformer.iter().map(|_| Source::Random).collect();
        Self { text_encoder: Source::Random, transformer, vae: Source::Random }
    }
}

/// How a pipeline computes.
#[derive(Clone, Debug)]
pub struct GpuOptions {
    /// Where its parts lie.
    pub placement: Placement,
    /// Of the transformer's blocks.
    pub precision: Precision,
}

impl CogVideoXPipeline {
    /// Loads a pipeline's folder in diffusers' layout onto GPUs.
    ///
    /// # Errors
    /// Those of [`CogVideoXPipeline::load`]; [`Error::Device`].
    pub fn load_on_gpu(dir: &Path, dtype: DType, options: &GpuOptions, plan: MemoryPlan) -> Result<Self> {
        let description = ModelDescription::read(dir)?;
        Self::check_dtype(&description, dtype)?;
        check_capability(options)?;
        let configs = Configs::read(dir)?;
        let sources = Sources::open(dir, &options.placement)?;
        sources.transformer.iter().try_for_each(|source| source.check_precision(options.precision))?;
        let components = build(&configs, sources, dtype, options, &plan)?;
        // Latents come of the first; of two the other is like it. Versions of the libraries too: others may round
        // otherwise.
        let device = options.placement.devices()[0];
        let name = format!("{} {:?} {}", device.name(), options.precision, device.library_notes().join(", "));
        Self::assemble(dir, description, components, dtype, Some(GpuUse { plan, name }))
    }

    /// Loads it with the first plan that fits the memory that is free now, or the next smaller one as long as a device
    /// turns out to have less than it told.
    ///
    /// # Errors
    /// Those of [`CogVideoXPipeline::load_on_gpu`]; [`Error::NoPlan`] with the numbers, before anything is loaded, if
    /// none fits.
    pub fn load_where_it_fits(dir: &Path, dtype: DType, options: &GpuOptions) -> Result<(Self, Plans)> {
        let (configs, job) = checked(dir, dtype, options)?;
        let planner = planner(&configs, dtype, options);
        planner.load(&FreeMemory::now(&options.placement)?, &job, |plan| {
            Self::load_on_gpu(dir, dtype, options, plan)
        })
    }

    /// The first plan that fits the memory that is free now, for the model's own video.
    ///
    /// # Errors
    /// Those of [`CogVideoXPipeline::load_where_it_fits`] before it loads weights.
    pub fn choose_plan(dir: &Path, dtype: DType, options: &GpuOptions) -> Result<ChosenPlan> {
        let (configs, job) = checked(dir, dtype, options)?;
        planner(&configs, dtype, options).plan(&FreeMemory::now(&options.placement)?, &job)
    }

    /// What the weights of a folder's transformer are stored in.
    ///
    /// # Errors
    /// The file that is not as the model needs it.
    pub fn stored_precision(dir: &Path) -> Result<Precision> {
        let weights = Weights::open(&dir.join("transformer"), DIFFUSERS_STEM)?;
        Ok(match weights.eight_bit_dtype() {
            None => Precision::Dense,
            Some(EightBitDtype::Int8) => Precision::Int8,
            Some(EightBitDtype::Fp8) => Precision::Fp8,
        })
    }
}

/// The configurations of a folder and its own video, if it can be computed so.
fn checked(dir: &Path, dtype: DType, options: &GpuOptions) -> Result<(Configs, Job)> {
    let description = ModelDescription::read(dir)?;
    CogVideoXPipeline::check_dtype(&description, dtype)?;
    check_capability(options)?;
    let configs = Configs::read(dir)?;
    let job = own_job(&configs, &description.defaults)?;
    Ok((configs, job))
}

fn planner<'a>(configs: &'a Configs, dtype: DType, options: &GpuOptions) -> Planner<'a> {
    let GpuOptions { placement, precision } = options.clone();
    Planner { configs, dtype, precision, placement }
}

/// The model's own video.
pub(super) fn own_job(configs: &Configs, defaults: &ModelDefaults) -> Result<Job> {
    let latents =
        LatentShape::of_size([defaults.num_frames, defaults.height, defaults.width], &configs.transformer)?;
    Ok(Job {
        latents: [latents.frames, latents.height, latents.width],
        text_tokens: configs.transformer.max_text_seq_length,
        num_inference_steps: defaults.num_inference_steps,
        guidance: true,
    })
}

/// Without tensor cores for them, 8-bit floats would be multiplied as f32, some twenty times as slowly.
fn check_capability(options: &GpuOptions) -> Result<()> {
    let mut capabilities = options.placement.transformer.iter().map(Device::capability);
    match capabilities.find(|found| options.precision == Precision::Fp8 && *found < Capability::ADA) {
        None => Ok(()),
        Some(Capability { major, minor }) => Err(Error::UnsupportedDtype(format!(
            "fp8: expected a GPU of compute capability 8.9 (Ada) or more, found {major}.{minor}; take int8"
        ))),
    }
}

/// Loads the parts in the order in which a job uses them.
pub(super) fn build(
    configs: &Configs,
    sources: Sources,
    dtype: DType,
    options: &GpuOptions,
    plan: &MemoryPlan,
) -> Result<Components> {
    let placement = &options.placement;
    let text_encoder = GpuTextEncoder::load(
        configs.text_encoder.clone(),
        &sources.text_encoder,
        dtype,
        &placement.text_encoder,
        plan.text_encoder,
    )?;
    let transformers = placement.transformer.iter().zip(sources.transformer).map(|(device, source)| {
        let (config, memory) = (configs.transformer.clone(), plan.transformer_memory());
        GpuTransformer::load(config, source, dtype, device, memory, options.precision)
    });
    let transformers = transformers.collect::<Result<Vec<_>>>()?;
    let vae = GpuVae::load(configs.vae.clone(), &sources.vae, dtype, &placement.vae)?;
    let mut transformers = transformers.into_iter();
    let transformer: Box<dyn Denoiser> = match (transformers.next(), transformers.next(), transformers.next())
    {
        (Some(only), None, _) => Box::new(only),
        (Some(first), Some(second), None) => Box::new(GuidanceParallel([first, second])),
        _ => {
            let found = placement.transformer.len();
            return Err(Error::invalid("devices", format!("expected 1 or 2 for one video, found {found}")));
        }
    };
    Ok(Components { text_encoder: Box::new(text_encoder), transformer, vae: Box::new(vae) })
}
