//! The denoising loop.
//!
//! One transformer forward a step, for the negative and the positive prompt as one batch, guidance in `f32`, and the
//! scheduler's step; latents go back to the pipeline's dtype after every step, as diffusers casts them. Must not know
//! prompts or pixels.

use candle_core::{DType, Tensor};

use super::{CogVideoXPipeline, Event, OnEvent, notify};
use crate::noise::Generator;
use crate::params::GenerationParams;
use crate::scheduler::{Schedule, SchedulerState};
use crate::transformer::{Positions, TransformerInput};
use crate::{Error, Result, guidance, ops};

/// The value that 1.5 image-to-video embeds (diffusers' `ofs_emb = latents.new_full((1,), fill_value=2.0)`).
const OFS: f32 = 2.0;

/// What the transformer is given besides the latents.
pub(super) struct Conditioning {
    /// `(2, tokens, d)`, negative prompt first, or `(1, tokens, d)` without guidance.
    pub(super) prompt_embeds: Tensor,
    /// `(1, f, c, h, w)`.
    pub(super) image_latents: Option<Tensor>,
    pub(super) positions: Positions,
}

impl CogVideoXPipeline {
    /// From noise to the latents of a video, `(1, f, c, h, w)`.
    pub(super) fn denoise(
        &self,
        params: &GenerationParams,
        schedule: &Schedule<'_>,
        conditioning: &Conditioning,
        mut latents: Tensor,
        generator: &mut Generator,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Tensor> {
        let steps = schedule.timesteps().len();
        let mut state = SchedulerState::default();
        for (index, &timestep) in schedule.timesteps().iter().enumerate() {
            let output = self.predict(conditioning, &latents, timestep, on_event)?;
            let noise_pred = guide(&output, params, timestep)?;
            let next = schedule.step(&noise_pred, timestep, &latents, &mut state, generator)?;
            latents = next.to_dtype(self.dtype)?;
            let step = index + 1;
            if !ops::is_finite(&latents)? {
                return Err(Error::NanLatents { step, steps });
            }
            notify(on_event, Event::StepEnd { step, steps, latents: &latents })?;
        }
        Ok(latents)
    }

    /// The transformer's output for every prompt of the batch.
    fn predict(
        &self,
        conditioning: &Conditioning,
        latents: &Tensor,
        timestep: usize,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Tensor> {
        let input = match &conditioning.image_latents {
            Some(image_latents) => Tensor::cat(&[latents, image_latents], 2)?,
            None => latents.clone(),
        };
        let batch = conditioning.prompt_embeds.dim(0)?;
        let input = TransformerInput {
            hidden_states: &Tensor::cat(&vec![&input; batch], 0)?,
            encoder_hidden_states: &conditioning.prompt_embeds,
            timestep,
            ofs: OFS,
            positions: &conditioning.positions,
        };
        self.components.transformer.forward(&input, &mut || notify(on_event, Event::CheckPoint))
    }
}

/// The prediction in `f32`, guided if the batch holds a negative prompt.
fn guide(output: &Tensor, params: &GenerationParams, timestep: usize) -> Result<Tensor> {
    if output.dim(0)? == 1 {
        return Ok(output.to_dtype(DType::F32)?);
    }
    let scale = if params.use_dynamic_cfg {
        guidance::dynamic_scale(params.guidance_scale, params.num_inference_steps, timestep)
    } else {
        params.guidance_scale
    };
    guidance::combine(&output.narrow(0, 0, 1)?, &output.narrow(0, 1, 1)?, scale)
}
