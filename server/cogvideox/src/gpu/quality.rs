//! What 8 bits cost: the same video denoised in a model's own dtype and with quantised blocks, compared step by step.
//!
//! Both runs start from the same noise, walk the same schedule and have the same weights before they are quantised. They
//! follow each other, so that one model at a time is on the device; what is kept of each step is on the host. Must not
//! know how results are shown.

use std::path::Path;

use candle_core::{DType, Tensor};
use device::Device;

use super::load::Configs;
use super::plan::{Job, MemoryPlan};
use super::source::Source;
use super::text_encoder::GpuTextEncoder;
use super::transformer::GpuTransformer;
use super::{Precision, Preset};
use crate::description::ModelDescription;
use crate::noise::Generator;
use crate::params::LatentShape;
use crate::pipeline::{Denoiser, TextEncoder};
use crate::scheduler::{
    PredictionType, Schedule, Scheduler, SchedulerConfig, SchedulerKind, SchedulerState, TimestepSpacing,
};
use crate::transformer::TransformerInput;
use crate::weights::{DIFFUSERS_STEM, TRANSFORMERS_STEM};
use crate::{Error, Result, guidance, ops};

/// As the model card's example has it.
const GUIDANCE_SCALE: f64 = 6.0;
/// diffusers' `ofs` of an image's video; models without that embedding do not read it.
const OFS: f32 = 2.0;
/// What a model folder's run shows.
const PROMPT: &str = "A panda plays an acoustic guitar in a bamboo forest, with sunlight between the leaves.";

/// Whose blocks are quantised.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// Random weights and prompt embeddings at a published model's shapes.
    Preset(Preset),
    /// A pipeline's folder in diffusers' layout, with a prompt.
    Folder(&'a Path),
}

/// What is compared, and on what.
pub struct Quality<'a> {
    /// The model.
    pub subject: Subject<'a>,
    /// Of the run without quantisation, and of everything but the blocks in the other.
    pub dtype: DType,
    /// How memory is used, in both runs.
    pub plan: MemoryPlan,
    /// Where.
    pub device: Device,
    /// Of the denoising.
    pub num_inference_steps: usize,
    /// Of the first noise.
    pub seed: u64,
}

/// How far the latents are apart after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepError {
    /// Counted from 1.
    pub step: usize,
    /// `||a - b|| / ||b||`, b being those without quantisation.
    pub relative: f64,
    /// `max |a - b|`.
    pub max_abs: f64,
}

/// What both runs share.
struct Setting {
    configs: Configs,
    scheduler: Scheduler,
    latents: [usize; 3],
    /// `(2, tokens, d)`.
    prompt_embeds: Tensor,
}

impl Quality<'_> {
    /// Denoises twice; `report` is told of each step of the second run as soon as it is done.
    ///
    /// # Errors
    /// The device's and the weights'; [`Error::InvalidParams`] for a model that continues images, or a number of steps
    /// that its schedule cannot be divided into; [`Error::NanLatents`]; what `report` returns.
    pub fn compare(
        &self,
        precision: Precision,
        report: &mut dyn FnMut(StepError) -> Result<()>,
    ) -> Result<()> {
        let setting = self.setting()?;
        let mut dense = Vec::with_capacity(self.num_inference_steps);
        self.denoise(&setting, Precision::Dense, &mut |_, latents| {
            dense.push(latents.clone());
            Ok(())
        })?;
        self.denoise(&setting, precision, &mut |step, latents| {
            report(StepError { step, ..difference(latents, &dense[step - 1])? })
        })
    }

    fn setting(&self) -> Result<Setting> {
        let setting = match self.subject {
            Subject::Preset(preset) => {
                let configs = preset.configs();
                let Job { latents, text_tokens, .. } = preset.job();
                let dims = (2, text_tokens, configs.transformer.text_embed_dim);
                let prompt_embeds = Generator::seed(!self.seed).randn(dims, self.dtype)?;
                Setting { scheduler: published_scheduler(preset), configs, latents, prompt_embeds }
            }
            Subject::Folder(dir) => {
                let configs = Configs::read(dir)?;
                let description = ModelDescription::read(dir)?;
                let defaults = &description.defaults;
                let size = [defaults.num_frames, defaults.height, defaults.width];
                let shape = LatentShape::of_size(size, &configs.transformer)?;
                let prompt_embeds = self.encode(dir, &configs, &description)?;
                let latents = [shape.frames, shape.height, shape.width];
                Setting { configs, scheduler: description.scheduler, latents, prompt_embeds }
            }
        };
        let config = &setting.configs.transformer;
        if config.in_channels != config.out_channels {
            return Err(Error::invalid("model", "expected one of text to video, found image to video"));
        }
        Ok(setting)
    }

    /// The empty prompt and [`PROMPT`]; the text encoder is gone afterwards.
    fn encode(&self, dir: &Path, configs: &Configs, description: &ModelDescription) -> Result<Tensor> {
        let source = Source::open(&dir.join("text_encoder"), TRANSFORMERS_STEM, &self.device)?;
        let (config, residence) = (configs.text_encoder.clone(), self.plan.text_encoder);
        let encoder = GpuTextEncoder::load(config, &source, self.dtype, &self.device, residence)?;
        let embeds = ["", PROMPT].map(|prompt| {
            let ids = description.tokenizer.encode(prompt, description.max_prompt_tokens).ids;
            encoder.forward(&ids, &mut || Ok(()))
        });
        Ok(Tensor::cat(&embeds.into_iter().collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// `step_end` is given the latents after each step.
    fn denoise(
        &self,
        setting: &Setting,
        precision: Precision,
        step_end: &mut dyn FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let schedule = setting.scheduler.schedule(self.num_inference_steps)?;
        let source = match self.subject {
            Subject::Preset(_) => Source::Random,
            Subject::Folder(dir) => Source::open(&dir.join("transformer"), DIFFUSERS_STEM, &self.device)?,
        };
        let (config, memory) = (setting.configs.transformer.clone(), self.plan.transformer_memory());
        let model = GpuTransformer::load(config, source, self.dtype, &self.device, memory, precision)?;
        model.prepare(schedule.timesteps(), OFS)?;
        self.walk(setting, &schedule, &model, step_end)
    }

    fn walk(
        &self,
        setting: &Setting,
        schedule: &Schedule<'_>,
        model: &GpuTransformer,
        step_end: &mut dyn FnMut(usize, &Tensor) -> Result<()>,
    ) -> Result<()> {
        let [frames, height, width] = setting.latents;
        let positions = model.positions(frames, height, width)?;
        let mut generator = Generator::seed(self.seed);
        let dims = (1, frames, setting.configs.transformer.in_channels, height, width);
        let mut latents = generator.randn(dims, self.dtype)?;
        let mut state = SchedulerState::default();
        for (index, &timestep) in schedule.timesteps().iter().enumerate() {
            let input = TransformerInput {
                hidden_states: &Tensor::cat(&[&latents, &latents], 0)?,
                encoder_hidden_states: &setting.prompt_embeds,
                timestep,
                ofs: OFS,
                positions: &positions,
                lora: &[],
            };
            let output = model.forward(&input, &mut || Ok(()))?;
            let noise_pred =
                guidance::combine(&output.narrow(0, 0, 1)?, &output.narrow(0, 1, 1)?, GUIDANCE_SCALE)?;
            let noise = schedule.draw(timestep, &latents, &state, &mut generator)?;
            let next = schedule.step(&noise_pred, timestep, &latents, noise.as_ref(), &mut state)?;
            latents = next.prev_sample.to_dtype(self.dtype)?;
            let (step, steps) = (index + 1, self.num_inference_steps);
            if !ops::is_finite(&latents)? {
                return Err(Error::NanLatents { step, steps });
            }
            step_end(step, &latents)?;
        }
        Ok(())
    }
}

/// As in the `scheduler_config.json`s of the published models; the tiny one is a small 5B.
fn published_scheduler(preset: Preset) -> Scheduler {
    let (kind, snr_shift_scale) = match preset {
        Preset::Cogvideox2b => (SchedulerKind::Ddim, 3.0),
        Preset::Cogvideox5b | Preset::Cogvideox15 | Preset::Tiny => (SchedulerKind::Dpm, 1.0),
    };
    let config = SchedulerConfig {
        prediction_type: PredictionType::VPrediction,
        timestep_spacing: TimestepSpacing::Trailing,
        rescale_betas_zero_snr: true,
        snr_shift_scale,
        ..SchedulerConfig::default()
    };
    Scheduler::new(kind, config)
}

/// In `f64`; the step is the caller's to fill in.
fn difference(found: &Tensor, expected: &Tensor) -> Result<StepError> {
    let values = |tensor: &Tensor| tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>();
    let (found, expected) = (values(found)?, values(expected)?);
    let (mut squares, mut expected_squares, mut max_abs) = (0.0, 0.0, 0f64);
    for (a, b) in found.iter().zip(&expected) {
        squares += (a - b) * (a - b);
        expected_squares += b * b;
        max_abs = max_abs.max((a - b).abs());
    }
    Ok(StepError { step: 0, relative: (squares / expected_squares).sqrt(), max_abs })
}
