//! What a model folder is, without its weights.
//!
//! A server must answer for its model (sizes, defaults, token counts) while the weights are still being read, or on a
//! machine part that never reads them. Relies on the configurations and the tokenizer's files; must not open weights.

use std::path::Path;

use crate::Result;
use crate::params::{ModelDefaults, ModelForm};
use crate::pipeline_config::{PipelineClass, PipelineIndex};
use crate::scheduler::Scheduler;
use crate::tokenizer::Tokenizer;
use crate::transformer::TransformerConfig;

/// A model's small parts.
#[derive(Debug)]
pub struct ModelDescription {
    /// Which of the published forms this is.
    pub form: ModelForm,
    /// What to ask for where the user says nothing.
    pub defaults: ModelDefaults,
    /// The pipeline's tokenizer.
    pub tokenizer: Tokenizer,
    /// The checkpoint's scheduler.
    pub scheduler: Scheduler,
    /// Tokens that a prompt is padded or truncated to.
    pub max_prompt_tokens: usize,
    /// The transformer's configuration, which adapters must fit.
    pub transformer: TransformerConfig,
}

impl ModelDescription {
    /// Reads a pipeline's folder in diffusers' layout.
    ///
    /// # Errors
    /// The file and the key that is not as the model needs it.
    pub fn read(dir: &Path) -> Result<Self> {
        let index = PipelineIndex::read(dir)?;
        let config = TransformerConfig::load(&dir.join("transformer/config.json"))?;
        let tokenizer = Tokenizer::load(&dir.join("tokenizer"))?;
        let scheduler = Scheduler::load(&dir.join("scheduler"))?.with_kind(index.scheduler);
        Ok(Self::new(index.class, &config, tokenizer, scheduler))
    }

    pub(crate) fn new(
        class: PipelineClass,
        config: &TransformerConfig,
        tokenizer: Tokenizer,
        scheduler: Scheduler,
    ) -> Self {
        let form = ModelForm::of(class, config);
        let defaults = ModelDefaults::of(form, config);
        Self {
            form,
            defaults,
            tokenizer,
            scheduler,
            max_prompt_tokens: config.max_text_seq_length,
            transformer: config.clone(),
        }
    }
}
