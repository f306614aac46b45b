//! What `scheduler_config.json` sets, with the defaults of diffusers' classes (which are not the published values),
//! and the two tables that follow from it: the noise schedule and the timesteps.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which solver walks the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulerKind {
    /// `CogVideoXDDIMScheduler`.
    Ddim,
    /// `CogVideoXDPMScheduler`.
    Dpm,
}

impl SchedulerKind {
    pub(crate) const CLASS_NAMES: [&'static str; 2] = ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"];

    /// diffusers' class.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Ddim => Self::CLASS_NAMES[0],
            Self::Dpm => Self::CLASS_NAMES[1],
        }
    }

    /// Of diffusers' class.
    pub(crate) fn of_class(class_name: &str) -> Option<Self> {
        [Self::Ddim, Self::Dpm].into_iter().find(|kind| kind.class_name() == class_name)
    }

    /// `ddim` or `dpm`, as [`FromStr`] reads it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::Dpm => "dpm",
        }
    }
}

impl std::fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for SchedulerKind {
    type Err = crate::Error;

    fn from_str(name: &str) -> crate::Result<Self> {
        match name {
            "ddim" => Ok(Self::Ddim),
            "dpm" => Ok(Self::Dpm),
            other => {
                Err(crate::Error::invalid("scheduler", format!("expected ddim or dpm, found {other:?}")))
            }
        }
    }
}

/// What the model's output stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    Epsilon,
    /// The clean latents.
    Sample,
    /// The velocity, as all published models.
    VPrediction,
}

/// How timesteps are spread over the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// From the last timestep to the first, both included.
    Linspace,
    /// From 0 up in whole strides, so that the last timestep is left out.
    Leading,
    /// From the last timestep down, as all published models.
    Trailing,
}

/// `scheduler_config.json`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// How many timesteps the model was trained with.
    pub num_train_timesteps: usize,
    /// The first beta.
    pub beta_start: f64,
    /// The last beta.
    pub beta_end: f64,
    /// Only `scaled_linear` is implemented: the other schedules are no published model's, and are `f32` tables.
    pub beta_schedule: String,
    /// Not implemented: must be null.
    pub trained_betas: Option<Vec<f64>>,
    /// The signal's share after the last step is 1, rather than that of timestep 0.
    pub set_alpha_to_one: bool,
    /// Added to the timesteps of [`TimestepSpacing::Leading`].
    pub steps_offset: i64,
    /// What the model's output stands for.
    pub prediction_type: PredictionType,
    /// How timesteps are spread.
    pub timestep_spacing: TimestepSpacing,
    /// Whether the last timestep is rescaled to hold no signal at all.
    pub rescale_betas_zero_snr: bool,
    /// Divides the signal-to-noise ratio at every timestep.
    pub snr_shift_scale: f64,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: "scaled_linear".to_owned(),
            trained_betas: None,
            set_alpha_to_one: true,
            steps_offset: 0,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing: TimestepSpacing::Leading,
            rescale_betas_zero_snr: false,
            snr_shift_scale: 3.0,
        }
    }
}

impl SchedulerConfig {
    /// Key, expected and found of the first setting that cannot be followed.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.beta_schedule != "scaled_linear" {
            return Err(format!("beta_schedule: expected scaled_linear, found {}", self.beta_schedule));
        }
        if self.trained_betas.is_some() {
            return Err("trained_betas: expected null, found a list".to_owned());
        }
        // The table has one entry per timestep: the bound keeps a hostile file from filling the memory.
        if !(2..=100_000).contains(&self.num_train_timesteps) {
            let found = self.num_train_timesteps;
            return Err(format!("num_train_timesteps: expected 2 to 100000, found {found}"));
        }
        for (key, value) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
            if !(0.0..1.0).contains(&value) {
                return Err(format!("{key}: expected a number from 0 to 1, found {value}"));
            }
        }
        if !(self.snr_shift_scale.is_finite() && self.snr_shift_scale > 0.0) {
            return Err(format!(
                "snr_shift_scale: expected a number above 0, found {}",
                self.snr_shift_scale
            ));
        }
        Ok(())
    }

    pub(super) fn alphas_cumprod(&self) -> Vec<f64> {
        let shift = self.snr_shift_scale;
        let mut product = 1.0;
        let mut alphas: Vec<f64> =
            linspace(self.beta_start.sqrt(), self.beta_end.sqrt(), self.num_train_timesteps)
                .map(|root| {
                    product *= 1.0 - root * root;
                    product / (shift + (1.0 - shift) * product)
                })
                .collect();
        if self.rescale_betas_zero_snr {
            let first = alphas[0].sqrt();
            let last = alphas[alphas.len() - 1].sqrt();
            let scale = first / (first - last);
            for alpha in &mut alphas {
                let root = (alpha.sqrt() - last) * scale;
                *alpha = root * root;
            }
        }
        alphas
    }

    /// As numpy computes them, floating-point surprises included: some may lie outside the schedule.
    pub(super) fn timesteps(&self, num_inference_steps: usize) -> Vec<i64> {
        let (total, n) = (self.num_train_timesteps, num_inference_steps);
        match self.timestep_spacing {
            TimestepSpacing::Linspace => {
                let step = (total - 1) as f64 / (n - 1).max(1) as f64;
                let at = |i: usize| if n > 1 && i == n - 1 { (total - 1) as f64 } else { i as f64 * step };
                (0..n).rev().map(|i| at(i).round_ties_even() as i64).collect()
            }
            TimestepSpacing::Leading => {
                let stride = total / n;
                (0..n).rev().map(|i| (i * stride) as i64 + self.steps_offset).collect()
            }
            TimestepSpacing::Trailing => {
                let start = total as f64;
                let step = start / n as f64;
                // numpy.arange: the length from the quotient, then multiples of the difference of its first two.
                let len = (start / step).ceil() as usize;
                let delta = (start - step) - start;
                (0..len).map(|i| (start + i as f64 * delta).round_ties_even() as i64 - 1).collect()
            }
        }
    }
}

/// `torch.linspace` in `f64`, which counts the second half from the end.
fn linspace(start: f64, end: f64, n: usize) -> impl Iterator<Item = f64> {
    let step = (end - start) / (n - 1) as f64;
    (0..n).map(move |i| if i < n / 2 { start + step * i as f64 } else { end - step * (n - 1 - i) as f64 })
}
