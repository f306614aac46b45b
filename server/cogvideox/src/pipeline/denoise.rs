//! The denoising loop.
//!
//! One transformer forward a step, for the negative and the positive prompt as one batch, guidance in `f32`, and the
//! scheduler's step; latents go back to the pipeline's dtype after every step, as diffusers casts them. Must not know
//! prompts or pixels.

use candle_core::{DType, Tensor};

use super::state::LoopState;
use super::{CogVideoXPipeline, DenoiseState, Event, OnEvent, notify};
use crate::params::GenerationParams;
use crate::scheduler::Schedule;
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
    /// From where `state` stands to the latents of a video, `(1, f, c, h, w)`.
    pub(super) fn denoise(
        &self,
        params: &GenerationParams,
        schedule: &Schedule<'_>,
        conditioning: &Conditioning,
        mut state: LoopState,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Tensor> {
        let steps = schedule.timesteps().len();
        self.components.transformer.prepare(&schedule.timesteps()[state.step..], OFS)?;
        for &timestep in &schedule.timesteps()[state.step..] {
            let LoopState { latents, scheduler, generator, .. } = &mut state;
            let (output, noise) = std::thread::scope(|scope| {
                // A tenth of a second for a video of 5B, in which a GPU would wait.
                let noise = scope.spawn(|| schedule.draw(timestep, latents, scheduler, generator));
                let output = self.predict(conditioning, params, (latents, timestep), on_event);
                (output, noise.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            });
            let noise_pred = guide(&output?, params, timestep)?;
            let next = schedule.step(&noise_pred, timestep, latents, noise?.as_ref(), scheduler)?;
            *latents = next.prev_sample.to_dtype(self.dtype)?;
            state.step += 1;
            let step = state.step;
            if !ops::is_finite(&state.latents)? {
                return Err(Error::NanLatents { step, steps });
            }
            let pred_original_sample = &next.pred_original_sample;
            let view = DenoiseState { pipeline: self, params, state: &state, pred_original_sample };
            notify(on_event, Event::StepEnd { step, steps, latents: &state.latents, state: view })?;
        }
        Ok(state.latents)
    }

    /// The transformer's output for every prompt of the batch.
    fn predict(
        &self,
        conditioning: &Conditioning,
        params: &GenerationParams,
        (latents, timestep): (&Tensor, usize),
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
            lora: &params.lora,
        };
        let mut check = || notify(on_event, Event::CheckPoint);
        self.components.transformer.forward(&input, &mut check)
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
