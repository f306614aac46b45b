//! The two schedulers that CogVideoX runs with, `CogVideoXDDIMScheduler` and `CogVideoXDPMScheduler`.
//!
//! They share the configuration, the noise schedule and the timesteps, and differ in [`Schedule::step`]. Tables and
//! coefficients are `f64`, as diffusers' are; a coefficient times a tensor is rounded to the tensor's dtype, which in
//! half precision is part of the reference. Must not know the model that predicts the noise.

mod config;
mod ddim;
mod dpm;

use std::path::Path;

use candle_core::{DType, Tensor};
use half::{bf16, f16};

pub use self::config::{PredictionType, SchedulerConfig, SchedulerKind, TimestepSpacing};
use crate::noise::Generator;
use crate::pipeline_config::read_config;
use crate::{Error, Result};

/// A noise schedule, and how to walk it.
#[derive(Clone, Debug)]
pub struct Scheduler {
    kind: SchedulerKind,
    config: SchedulerConfig,
    /// One value for each training timestep.
    alphas_cumprod: Vec<f64>,
    final_alpha_cumprod: f64,
}

impl Scheduler {
    /// Reads `scheduler_config.json` in `dir`.
    ///
    /// A pipeline walks it with the solver that its `model_index.json` names ([`Self::with_kind`]), as diffusers does;
    /// the class in the file itself counts only for a scheduler on its own, and without one that is DDIM.
    ///
    /// # Errors
    /// [`Error::Io`] without the file; [`Error::Config`] for another class, or for a setting that this crate does not
    /// implement.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("scheduler_config.json");
        let read = read_config::<SchedulerConfig>(&path, &SchedulerKind::CLASS_NAMES)?;
        let kind =
            read.class_name.as_deref().and_then(SchedulerKind::of_class).unwrap_or(SchedulerKind::Ddim);
        read.config.check().map_err(|message| Error::config(&path, message))?;
        Ok(Self::new(kind, read.config))
    }

    pub(crate) fn new(kind: SchedulerKind, config: SchedulerConfig) -> Self {
        let alphas_cumprod = config.alphas_cumprod();
        let final_alpha_cumprod = if config.set_alpha_to_one { 1.0 } else { alphas_cumprod[0] };
        Self { kind, config, alphas_cumprod, final_alpha_cumprod }
    }

    /// The same schedule walked by another solver: `CogVideoXDPMScheduler.from_config(pipe.scheduler.config)`.
    #[must_use]
    pub fn with_kind(&self, kind: SchedulerKind) -> Self {
        Self { kind, ..self.clone() }
    }

    /// Which solver this is.
    pub fn kind(&self) -> SchedulerKind {
        self.kind
    }

    /// As read from the checkpoint.
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// The signal's share of the variance at each training timestep.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// `set_timesteps`: the timesteps of a run, from noise to video.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] for a number of steps that the schedule cannot be divided into: 0, more than
    /// `num_train_timesteps`, or one of those for which diffusers' floating-point division yields a timestep
    /// outside the schedule (with the published settings 62 values from 61 on, whose last timestep is -1).
    pub fn schedule(&self, num_inference_steps: usize) -> Result<Schedule<'_>> {
        let last = self.config.num_train_timesteps;
        if !(1..=last).contains(&num_inference_steps) {
            return Err(Error::invalid(
                "num_inference_steps",
                format!("expected 1 to {last}, found {num_inference_steps}"),
            ));
        }
        let mut timesteps = Vec::with_capacity(num_inference_steps);
        for t in self.config.timesteps(num_inference_steps) {
            match usize::try_from(t) {
                Ok(t) if t < last => timesteps.push(t),
                _ => {
                    return Err(Error::invalid(
                        "num_inference_steps",
                        format!(
                            "{num_inference_steps} steps do not divide the schedule: they reach timestep {t}, \
                             expected 0 to {}; take another number",
                            last - 1
                        ),
                    ));
                }
            }
        }
        Ok(Schedule { scheduler: self, timesteps, num_inference_steps })
    }

    /// Whether [`Scheduler::schedule`] refuses this number of steps.
    pub fn refuses(&self, num_inference_steps: usize) -> bool {
        self.schedule(num_inference_steps).is_err()
    }
}

/// What a solver carries from one step to the next; a run that is to be continued elsewhere must keep it.
#[derive(Clone, Debug, Default)]
pub struct SchedulerState {
    /// The last step's estimate of the clean latents, in `f32`. DPM only.
    pub old_pred_original_sample: Option<Tensor>,
    /// The last step's timestep. DPM only.
    pub previous_timestep: Option<usize>,
}

/// What one step gives.
#[derive(Clone, Debug)]
pub struct StepOutput {
    /// The next latents, in `f32`.
    pub prev_sample: Tensor,
    /// The clean latents as estimated from this step's model output, in `f32`.
    pub pred_original_sample: Tensor,
}

/// The timesteps of one run.
#[derive(Clone, Debug)]
pub struct Schedule<'a> {
    scheduler: &'a Scheduler,
    timesteps: Vec<usize>,
    num_inference_steps: usize,
}

impl Schedule<'_> {
    /// From noise to video.
    pub fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    /// The noise that the step at `timestep` adds, drawn from `generator` in the latents' dtype; none for DDIM.
    ///
    /// It depends on nothing that the step's prediction brings, so that it can be drawn meanwhile.
    ///
    /// # Errors
    /// Those of [`Generator::randn`].
    pub fn draw(
        &self,
        timestep: usize,
        latents: &Tensor,
        state: &SchedulerState,
        generator: &mut Generator,
    ) -> Result<Option<Tensor>> {
        match self.scheduler.kind {
            SchedulerKind::Ddim => Ok(None),
            SchedulerKind::Dpm => self.dpm_noise(timestep, latents, state, generator).map(Some),
        }
    }

    /// One step: from the latents at `timestep`, the model's output for them and the step's noise ([`Self::draw`]) to
    /// the next latents (which the caller casts back to its dtype).
    ///
    /// # Errors
    /// [`Error::InvalidParams`] for noise where none belongs, or the reverse.
    pub fn step(
        &self,
        noise_pred: &Tensor,
        timestep: usize,
        latents: &Tensor,
        noise: Option<&Tensor>,
        state: &mut SchedulerState,
    ) -> Result<StepOutput> {
        let noise_pred = noise_pred.to_dtype(DType::F32)?;
        let x0 = self.pred_original_sample(&noise_pred, timestep, latents)?;
        let prev_sample = match (self.scheduler.kind, noise) {
            (SchedulerKind::Ddim, None) => {
                let c = self.ddim_coefficients(timestep);
                (scaled(latents, c.latents)? + scaled(&x0, c.x0)?)?
            }
            (SchedulerKind::Dpm, Some(noise)) => {
                self.dpm_step(x0.clone(), timestep, latents, noise, state)?
            }
            (SchedulerKind::Ddim, Some(_)) => return Err(Error::invalid("noise", "expected none for DDIM")),
            (SchedulerKind::Dpm, None) => return Err(Error::invalid("noise", "expected some for DPM")),
        };
        Ok(StepOutput { prev_sample, pred_original_sample: x0 })
    }

    /// The clean latents that the model's output stands for, in `f32`.
    fn pred_original_sample(&self, noise_pred: &Tensor, timestep: usize, latents: &Tensor) -> Result<Tensor> {
        let alpha = self.scheduler.alphas_cumprod[timestep];
        let x0 = match self.scheduler.config.prediction_type {
            PredictionType::VPrediction => {
                (scaled(latents, alpha.sqrt())? - scaled(noise_pred, (1.0 - alpha).sqrt())?)?
            }
            PredictionType::Epsilon => {
                let signal = (latents.to_dtype(DType::F32)? - scaled(noise_pred, (1.0 - alpha).sqrt())?)?;
                signal.broadcast_div(&Tensor::new(alpha.sqrt() as f32, signal.device())?)?
            }
            PredictionType::Sample => noise_pred.clone(),
        };
        Ok(x0)
    }

    /// The signal's share after a step from `timestep`.
    ///
    /// The step ends at `timestep - 1000 / N`, which is not the next timestep where N does not divide 1000: diffusers'
    /// arithmetic, which the published results rest on.
    fn alpha_prev(&self, timestep: usize) -> (Option<usize>, f64) {
        let stride = self.scheduler.config.num_train_timesteps / self.num_inference_steps;
        match timestep.checked_sub(stride) {
            Some(prev) => (Some(prev), self.scheduler.alphas_cumprod[prev]),
            None => (None, self.scheduler.final_alpha_cumprod),
        }
    }
}

/// A coefficient times a tensor, computed in `f32`, rounded to the tensor's dtype and returned as `f32`: a 0-dim
/// `f64` tensor times a tensor in PyTorch, ready to be added to an `f32` tensor.
///
/// PyTorch's CPU kernel rounds the coefficient itself to the tensor's dtype first (when it stands on the left, as it
/// does throughout diffusers' schedulers); its CUDA kernel does not. Measured with torch 2.9.1.
fn scaled(x: &Tensor, coefficient: f64) -> Result<Tensor> {
    let coefficient = match x.dtype() {
        DType::F16 if x.device().is_cpu() => f16::from_f32(coefficient as f32).to_f64(),
        DType::BF16 if x.device().is_cpu() => bf16::from_f32(coefficient as f32).to_f64(),
        _ => coefficient,
    };
    let y = x.to_dtype(DType::F32)?.affine(coefficient, 0.0)?;
    Ok(y.to_dtype(x.dtype())?.to_dtype(DType::F32)?)
}
