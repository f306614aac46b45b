//! The embeddings of the prompts that were encoded last.
//!
//! They depend on the tokens alone, and the text encoder is the largest part of a model: where it is streamed to a GPU,
//! or computed on a processor, a prompt that comes again (the empty negative prompt of nearly every video, another seed
//! of the same prompt) should not cost it again. Must not know prompts as text, nor how they are encoded.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use crate::Result;

/// How many are kept: of a published model in f32 30 MB.
const KEPT: usize = 8;

/// Token ids with their embeddings, those that were asked for last at the end.
#[derive(Default)]
pub(super) struct PromptEmbeds(Mutex<VecDeque<(Vec<u32>, Tensor)>>);

impl PromptEmbeds {
    /// The embeddings of `ids`, `(1, tokens, d)`, encoded if they are not among those that are kept.
    ///
    /// # Errors
    /// Those of `encode`.
    pub(super) fn get(&self, ids: &[u32], encode: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
        let embeds = match self.take(ids) {
            Some(embeds) => embeds,
            None => encode()?,
        };
        let mut kept = self.kept();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((ids.to_owned(), embeds.clone()));
        Ok(embeds)
    }

    fn take(&self, ids: &[u32]) -> Option<Tensor> {
        let mut kept = self.kept();
        let place = kept.iter().position(|(kept, _)| kept == ids)?;
        kept.remove(place).map(|(_, embeds)| embeds)
    }

    /// Nothing is left half done by a thread that panicked.
    fn kept(&self) -> MutexGuard<'_, VecDeque<(Vec<u32>, Tensor)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
