//! What a running generation tells its caller.
//!
//! Plain borrowed data; must not know who listens.

use candle_core::Tensor;

use super::DenoiseState;
use crate::tokenizer::Tokens;

/// Something happened, or the run asks whether to go on.
pub enum Event<'a> {
    /// The prompt is about to be encoded.
    TextEncode,
    /// The prompt is encoded.
    PromptEncoded {
        /// Of the prompt.
        tokens: &'a Tokens,
        /// `(1, tokens, d)` in the pipeline's dtype.
        prompt_embeds: &'a Tensor,
        /// Likewise; none when guidance is off.
        negative_prompt_embeds: Option<&'a Tensor>,
    },
    /// The denoising loop is about to begin.
    LatentsPrepared {
        /// Of the run, from noise to video.
        timesteps: &'a [usize],
        /// Before the first step that is still to do, `(1, f, c, h, w)`.
        latents: &'a Tensor,
        /// Steps already done: 0, or the checkpoint's in a resumed run.
        step: usize,
    },
    /// A denoising step is done.
    StepEnd {
        /// Counted from 1.
        step: usize,
        /// In all.
        steps: usize,
        /// After this step, `(1, f, c, h, w)`.
        latents: &'a Tensor,
        /// Where the loop stands, for a checkpoint or a preview.
        state: DenoiseState<'a>,
    },
    /// The VAE decodes; 0 when it begins.
    VaeDecode {
        /// Done, 0 to 1.
        fraction: f32,
    },
    /// Nothing new: between layers, blocks or tiles the run only asks whether to stop.
    CheckPoint,
}
