//! What may be done with a prompt before the model reads it: checked by the operator's rules, and rewritten.
//!
//! Both are done by others, whom this crate asks through these traits; the binary brings them.

use futures_util::future::BoxFuture;

/// A prompt to be checked, and whose it is.
#[derive(Debug, Clone, Copy)]
pub struct PromptToCheck<'a> {
    /// The prompt: as it was sent, or as it was rewritten.
    pub prompt: &'a str,
    /// The negative prompt; may be empty.
    pub negative_prompt: &'a str,
    /// The model that is to read it.
    pub model: &'a str,
    /// The name of the API key that asks, if one does.
    pub api_key_name: Option<&'a str>,
}

/// What became of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PromptVerdict {
    /// Make it.
    Allowed,
    /// Do not.
    Refused {
        /// One line for the client.
        reason: String,
    },
    /// Nobody can tell now, and untold nothing is made. The checker has logged why.
    Unavailable,
}

/// Decides whether a video may be made of a prompt.
pub trait PromptCheck: Send + Sync {
    /// The verdict. Must come to an end by itself.
    fn check<'a>(&'a self, prompt: &'a PromptToCheck<'a>) -> BoxFuture<'a, PromptVerdict>;
}

/// Writes a prompt out into the long form that the model was trained on.
pub trait RefinePrompt: Send + Sync {
    /// The longer prompt; or why there is none, in one line for the client, whose own prompt is then used. Must come
    /// to an end by itself.
    fn refine<'a>(&'a self, prompt: &'a str) -> BoxFuture<'a, Result<String, String>>;
}
