//! Where the denoising loop stands, and what a caller may do with it.
//!
//! [`LoopState`] is all that one step hands to the next. [`DenoiseState`] shows it to the caller at the end of a step;
//! checkpoints and previews are made only when asked for. Must not know how either is made.

use std::ops::ControlFlow;

use candle_core::Tensor;

use super::fingerprint::Fingerprint;
use super::{CogVideoXPipeline, Preview, checkpoint};
use crate::Result;
use crate::noise::Generator;
use crate::params::GenerationParams;
use crate::scheduler::SchedulerState;

/// All that goes from one step to the next.
#[derive(Clone, Debug)]
pub(super) struct LoopState {
    /// Steps done.
    pub(super) step: usize,
    /// `(1, f, c, h, w)` in the pipeline's dtype.
    pub(super) latents: Tensor,
    pub(super) scheduler: SchedulerState,
    pub(super) generator: Generator,
}

impl LoopState {
    /// Before the first step.
    pub(super) fn new(latents: Tensor, generator: Generator) -> Self {
        Self { step: 0, latents, scheduler: SchedulerState::default(), generator }
    }
}

/// The loop at the end of a step.
#[derive(Clone, Copy)]
pub struct DenoiseState<'a> {
    pub(super) pipeline: &'a CogVideoXPipeline,
    pub(super) params: &'a GenerationParams,
    pub(super) state: &'a LoopState,
    pub(super) pred_original_sample: &'a Tensor,
}

impl DenoiseState<'_> {
    /// The clean latents as the model sees them at this step, `(1, f, c, h, w)` in `f32`: long before the latents
    /// themselves lose their noise, they show what the video will be.
    pub fn pred_original_sample(&self) -> &Tensor {
        self.pred_original_sample
    }

    /// A small picture of [`Self::pred_original_sample`]; `check` as in [`CogVideoXPipeline::preview`].
    ///
    /// # Errors
    /// Those of [`CogVideoXPipeline::preview`].
    pub fn preview(&self, check: &mut dyn FnMut() -> ControlFlow<()>) -> Result<Preview> {
        self.pipeline.preview(self.pred_original_sample, check)
    }

    /// The file from which [`CogVideoXPipeline::generate`] goes on after this step; see [`super::Checkpoint`].
    ///
    /// # Errors
    /// [`crate::Error::Candle`] for a device that does not hand out its tensors.
    pub fn checkpoint(&self) -> Result<Vec<u8>> {
        let fingerprint = Fingerprint::of(self.pipeline, self.params)?;
        checkpoint::to_bytes(self.state, fingerprint)
    }
}
