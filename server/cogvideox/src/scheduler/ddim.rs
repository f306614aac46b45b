//! `CogVideoXDDIMScheduler.step`: deterministic, first order. Knows nothing of tensors.

use super::Schedule;

/// `next = latents * x + x0 * pred_original_sample`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DdimCoefficients {
    /// diffusers' `a_t`.
    pub latents: f64,
    /// diffusers' `b_t`.
    pub x0: f64,
}

impl Schedule<'_> {
    /// Of the step from `timestep`.
    pub fn ddim_coefficients(&self, timestep: usize) -> DdimCoefficients {
        let alpha = self.scheduler.alphas_cumprod[timestep];
        let (_, alpha_prev) = self.alpha_prev(timestep);
        let latents = ((1.0 - alpha_prev) / (1.0 - alpha)).sqrt();
        DdimCoefficients { latents, x0: alpha_prev.sqrt() - alpha.sqrt() * latents }
    }
}
