//! The seam to the model: what a worker asks of whatever makes the frames. The binary puts the pipeline behind it,
//! tests a fake.

use std::ops::ControlFlow;

use queue::{JobError, VideoParams};

/// Makes frames. It lives on one thread from its building to its end, so it need not be `Send`.
pub trait Generator {
    /// Makes the video that `params` define. `on_progress` is called at each step and as often as possible between;
    /// once it answers `Break`, the generator returns [`GenerateError::Interrupted`] as soon as it can.
    ///
    /// # Errors
    /// Each variant of [`GenerateError`] settles the video in its own way.
    fn generate(
        &mut self,
        params: &VideoParams,
        on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<media::Frames, GenerateError>;
}

/// Where a generator is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress {
    /// The prompt is being encoded.
    TextEncode,
    /// So many denoising steps are finished; with 0, the first begins.
    Denoise {
        /// Steps finished.
        step: u32,
        /// Steps in all.
        total_steps: u32,
    },
    /// So much of the latents is decoded.
    VaeDecode {
        /// From 0 to 1.
        fraction: f64,
    },
    /// Nothing to tell: only to ask whether to stop.
    CheckPoint,
}

/// Why there are no frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// `on_progress` said so.
    #[error("interrupted")]
    Interrupted,
    /// The model cannot make this; the message is shown to the user.
    #[error("invalid parameters: {0}")]
    InvalidParams(String),
    /// The device's memory does not suffice; the message is shown to the user.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The latents are not numbers any more; the message is shown to the user.
    #[error("the latents are not finite: {0}")]
    NanLatents(String),
    /// Anything else; the message is for the log alone.
    #[error("internal: {0}")]
    Internal(String),
}

impl GenerateError {
    /// What the row says about it.
    pub(crate) fn into_job_error(self) -> JobError {
        let (code, message) = match self {
            Self::InvalidParams(message) => ("invalid_params", message),
            Self::OutOfMemory(message) => ("out_of_memory", message),
            Self::NanLatents(message) => ("nan_latents", message),
            Self::Interrupted | Self::Internal(_) => {
                ("internal", "the generation failed; the server's log says why".to_owned())
            }
        };
        JobError { code: code.to_owned(), message }
    }
}
