//! Classifier-free guidance, static and dynamic, as diffusers' pipelines apply it.
//!
//! Relies on candle's element-wise operations only; must not know where the two predictions come from.

use candle_core::{DType, Tensor};

use crate::Result;

/// Whether the negative prompt is evaluated at all; decided once, before the loop, also with a dynamic scale.
pub fn is_on(guidance_scale: f64) -> bool {
    guidance_scale > 1.0
}

/// The scale of one step under `use_dynamic_cfg`.
///
/// The authors' formula puts the raw timestep (0 to 999) where one expects the step's index, which makes the scale
/// swing from step to step; the models are used with it, so it is kept. The cosine's argument grows to millions,
/// hence `f64` throughout.
pub fn dynamic_scale(guidance_scale: f64, num_inference_steps: usize, timestep: usize) -> f64 {
    let steps = num_inference_steps as f64;
    let progress = (steps - timestep as f64) / steps;
    1.0 + guidance_scale * ((1.0 - (std::f64::consts::PI * progress.powf(5.0)).cos()) / 2.0)
}

/// `uncond + scale * (cond - uncond)` in `f32`, whatever the model's dtype.
pub fn combine(noise_pred_uncond: &Tensor, noise_pred_cond: &Tensor, scale: f64) -> Result<Tensor> {
    let uncond = noise_pred_uncond.to_dtype(DType::F32)?;
    let cond = noise_pred_cond.to_dtype(DType::F32)?;
    Ok((&uncond + (cond - &uncond)?.affine(scale, 0.0)?)?)
}
