//! `CogVideoXDPMScheduler.step`: SDE-DPM-Solver++(2M), stochastic, second order from the second step on.
//!
//! Infinities are normal here: the first timestep has no signal at all (its log-SNR is minus infinity) and the last
//! step ends with no noise. The coefficients carry them as diffusers' do; what would be 0 times infinity is branched
//! around.

use candle_core::Tensor;

use super::{Schedule, SchedulerState, scaled};
use crate::Result;
use crate::noise::Generator;

/// diffusers' `mult` and `mult_noise`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DpmCoefficients {
    /// Of the latents (`mult[0]`).
    pub latents: f64,
    /// Of the clean latents' estimate, subtracted (`mult[1]`).
    pub x0: f64,
    /// Of the drawn noise (`mult_noise`).
    pub noise: f64,
    /// Of this and of the last estimate where the step is of second order (`mult[2]`, `mult[3]`).
    pub second_order: Option<(f64, f64)>,
}

impl Schedule<'_> {
    /// Of the step from `timestep`, reached from `previous`.
    pub fn dpm_coefficients(&self, timestep: usize, previous: Option<usize>) -> DpmCoefficients {
        let alpha = self.scheduler.alphas_cumprod[timestep];
        let (_, alpha_prev) = self.alpha_prev(timestep);
        let lambda = log_snr(alpha);
        let h = log_snr(alpha_prev) - lambda;
        let second_order = previous.map(|previous| {
            let r = (lambda - log_snr(self.scheduler.alphas_cumprod[previous])) / h;
            (1.0 + 1.0 / (2.0 * r), 1.0 / (2.0 * r))
        });
        DpmCoefficients {
            latents: ((1.0 - alpha_prev) / (1.0 - alpha)).sqrt() * (-h).exp(),
            x0: (-2.0 * h).exp_m1() * alpha_prev.sqrt(),
            noise: (1.0 - alpha_prev).sqrt() * (1.0 - (-2.0 * h).exp()).sqrt(),
            second_order,
        }
    }

    pub(super) fn dpm_noise(
        &self,
        timestep: usize,
        latents: &Tensor,
        state: &SchedulerState,
        generator: &mut Generator,
    ) -> Result<Tensor> {
        if self.is_second_order(timestep, state) {
            // diffusers draws, throws away, and draws again: both draws advance the generator.
            generator.randn(latents.shape(), latents.dtype())?;
        }
        generator.randn(latents.shape(), latents.dtype())
    }

    /// All but the first step and the last.
    fn is_second_order(&self, timestep: usize, state: &SchedulerState) -> bool {
        state.old_pred_original_sample.is_some()
            && state.previous_timestep.is_some()
            && self.alpha_prev(timestep).0.is_some()
    }

    pub(super) fn dpm_step(
        &self,
        x0: Tensor,
        timestep: usize,
        latents: &Tensor,
        noise: &Tensor,
        state: &mut SchedulerState,
    ) -> Result<Tensor> {
        let is_second_order = self.is_second_order(timestep, state);
        let previous = state.previous_timestep.replace(timestep).filter(|_| is_second_order);
        let c = self.dpm_coefficients(timestep, previous);
        let old_x0 = state.old_pred_original_sample.replace(x0.clone());
        let estimate = match (old_x0, c.second_order) {
            (Some(old_x0), Some((this, last))) => (scaled(&x0, this)? - scaled(&old_x0, last)?)?,
            _ => x0,
        };
        let noise = noise.to_device(latents.device())?;
        let kept = (scaled(latents, c.latents)? - scaled(&estimate, c.x0)?)?;
        Ok((kept + scaled(&noise, c.noise)?)?)
    }
}

/// Half the logarithm of the signal-to-noise ratio.
fn log_snr(alpha: f64) -> f64 {
    (alpha / (1.0 - alpha)).sqrt().ln()
}
