//! Whether a prompt may be generated, by the operator's blocklist and the operator's own service.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Blocklist, Error, Result,
    endpoint::{Endpoint, EndpointConfig},
    text,
};

const MAX_REASON_CHARS: usize = 200;

/// What is judged, in the form that the hook receives.
#[derive(Clone, Copy, Serialize)]
pub struct Prompt<'a> {
    /// What to show.
    pub prompt: &'a str,
    /// What not to show. The blocklist does not look at it: it names unwanted things in order to avoid them.
    pub negative_prompt: Option<&'a str>,
    /// The model's name.
    pub model: &'a str,
    /// Who asks, if keys are in use.
    pub api_key_name: Option<&'a str>,
}

/// What became of a check.
#[derive(Debug)]
pub enum Verdict {
    /// Generate it.
    Allowed,
    /// Do not.
    Refused {
        /// One line for the user. A blocklist's entry is told by its line, for the operator to look up.
        reason: String,
    },
    /// The hook gave no verdict, and without one nothing is generated.
    Unavailable(Error),
}

/// All checks of a prompt; the default has none and allows everything.
#[derive(Debug, Default)]
pub struct PromptCheck {
    /// Asked first.
    pub blocklist: Option<Blocklist>,
    /// Asked about what the blocklist lets pass.
    pub hook: Option<Hook>,
    /// Allow a prompt when the hook gives no verdict, rather than refuse it.
    pub fail_open: bool,
}

impl PromptCheck {
    /// Judges a prompt.
    pub async fn check(&self, prompt: &Prompt<'_>) -> Verdict {
        if let Some(line) = self.blocklist.as_ref().and_then(|list| list.find(prompt.prompt)) {
            let reason = format!("the prompt matches line {line} of this server's blocklist");
            return Verdict::Refused { reason };
        }
        let Some(hook) = &self.hook else { return Verdict::Allowed };
        match hook.ask(prompt).await {
            Ok(verdict) => verdict,
            Err(error) if self.fail_open => {
                tracing::warn!(%error, "prompt allowed without a verdict");
                Verdict::Allowed
            }
            Err(error) => Verdict::Unavailable(error),
        }
    }
}

/// Where the operator's service is.
#[derive(Debug, Clone)]
pub struct HookConfig {
    /// Receives a POST with the fields of [`Prompt`] and answers 200 with `{"allowed": bool, "reason": string?}`.
    pub url: String,
    /// For a whole call.
    pub timeout: Duration,
}

/// The operator's service that judges prompts.
#[derive(Debug)]
pub struct Hook(Endpoint);

impl Hook {
    /// Prepares the calls; nothing is called yet.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the URL; [`Error::Tls`]; [`Error::Client`].
    pub fn new(config: &HookConfig) -> Result<Self> {
        Endpoint::new(&EndpointConfig {
            party: "the prompt hook",
            field: "prompt hook URL",
            url: &config.url,
            api_key: None,
            timeout: config.timeout,
        })
        .map(Self)
    }

    async fn ask(&self, prompt: &Prompt<'_>) -> Result<Verdict> {
        #[derive(Deserialize)]
        struct Answer {
            allowed: bool,
            reason: Option<String>,
        }
        let answer: Answer = self.0.ask(prompt).await?;
        if answer.allowed {
            return Ok(Verdict::Allowed);
        }
        let reason = text::excerpt(answer.reason.unwrap_or_default().as_bytes(), MAX_REASON_CHARS);
        let reason =
            if reason.is_empty() { "this server does not allow the prompt".to_owned() } else { reason };
        Ok(Verdict::Refused { reason })
    }
}
