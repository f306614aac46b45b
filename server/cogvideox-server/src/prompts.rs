//! The operator's say about prompts: `outbound`'s check and refiner behind the API's traits.
//!
//! Translation only.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::{PromptToCheck, PromptVerdict};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use outbound::{Blocklist, Hook, HookConfig, Prompt, Refiner, RefinerConfig, Secret, Verdict};

use crate::config;

/// The longest refined prompt; a prompt of the model's 226 tokens has fewer characters.
const MAX_REFINED_CHARS: usize = 2000;
const REFINER_TEMPERATURE: f32 = 0.3;

struct Check(outbound::PromptCheck);

impl api::PromptCheck for Check {
    fn check<'a>(&'a self, prompt: &'a PromptToCheck<'a>) -> BoxFuture<'a, PromptVerdict> {
        async move {
            let prompt = Prompt {
                prompt: prompt.prompt,
                negative_prompt: Some(prompt.negative_prompt).filter(|text| !text.is_empty()),
                model: prompt.model,
                api_key_name: prompt.api_key_name,
            };
            match self.0.check(&prompt).await {
                Verdict::Allowed => PromptVerdict::Allowed,
                Verdict::Refused { reason } => PromptVerdict::Refused { reason },
                Verdict::Unavailable(error) => {
                    tracing::error!(%error, "prompts cannot be checked and are refused");
                    PromptVerdict::Unavailable
                }
            }
        }
        .boxed()
    }
}

/// The check that the configuration asks for, if any.
///
/// # Errors
/// A blocklist that cannot be read, a URL that is none.
pub(crate) fn check(config: &config::PromptCheck) -> anyhow::Result<Option<Arc<dyn api::PromptCheck>>> {
    let blocklist = match config.blocklist.as_path() {
        path if path == Path::new("") => None,
        path => Some(Blocklist::load(path)?),
    };
    let hook = match config.hook_url.as_str() {
        "" => None,
        url => {
            Some(Hook::new(&HookConfig { url: url.to_owned(), timeout: seconds(config.timeout_seconds) })?)
        }
    };
    if blocklist.is_none() && hook.is_none() {
        return Ok(None);
    }
    let check = outbound::PromptCheck { blocklist, hook, fail_open: config.fail_open };
    Ok(Some(Arc::new(Check(check))))
}

struct Refine(Refiner);

impl api::RefinePrompt for Refine {
    fn refine<'a>(&'a self, prompt: &'a str) -> BoxFuture<'a, Result<String, String>> {
        async move { self.0.refine(prompt).await.map_err(|error| error.to_string()) }.boxed()
    }
}

/// The refiner that the configuration asks for, if any.
///
/// # Errors
/// A URL that is none.
pub(crate) fn refiner(config: &config::Refine) -> anyhow::Result<Option<Arc<dyn api::RefinePrompt>>> {
    if config.base_url.is_empty() {
        return Ok(None);
    }
    let api_key = config.api_key.reveal();
    let refiner = Refiner::new(RefinerConfig {
        base_url: config.base_url.clone(),
        model: config.model.clone(),
        api_key: (!api_key.is_empty()).then(|| Secret::from(api_key.to_owned())),
        system_prompt: Some(config.system_prompt.clone()).filter(|text| !text.is_empty()),
        timeout: seconds(config.timeout_seconds),
        max_chars: MAX_REFINED_CHARS,
        temperature: REFINER_TEMPERATURE,
    })?;
    Ok(Some(Arc::new(Refine(refiner))))
}

fn seconds(seconds: std::num::NonZeroU32) -> Duration {
    Duration::from_secs(seconds.get().into())
}
