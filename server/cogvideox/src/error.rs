//! Everything that can go wrong in the model crate.
//!
//! One enum for the whole crate; messages name the field, file or tensor, what was expected and what was found. It
//! relies on nothing but candle's own error, and must not know how a caller reports a failure (exit code, HTTP
//! status, job row).

use std::path::{Path, PathBuf};

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure while loading or running a pipeline.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A configuration file is not what its class expects.
    #[error("{}: {message}", path.display())]
    Config {
        /// The `config.json`, `model_index.json` or `scheduler_config.json`.
        path: PathBuf,
        /// Key, expected and found.
        message: String,
    },
    /// A weight file is missing, truncated, foreign, or disagrees with its index.
    #[error("{}: {message}", path.display())]
    Weights {
        /// The safetensors file, its index, or the folder searched.
        path: PathBuf,
        /// What was expected and what was found.
        message: String,
    },
    /// The model needs a tensor that its files do not hold.
    #[error("{}: tensor {name} is missing, expected shape {expected:?}", path.display())]
    MissingTensor {
        /// The component's weight file or index.
        path: PathBuf,
        /// The tensor's full name.
        name: String,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the configuration asks for.
    #[error("{}: tensor {name} has shape {found:?}, expected {expected:?} by config.json", path.display())]
    TensorShape {
        /// The weight file.
        path: PathBuf,
        /// The tensor's full name.
        name: String,
        /// By the configuration.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// The files hold tensors that the model does not use: weights and configuration do not belong together.
    #[error("{}: {count} tensors do not belong to this model, the first is {name}", path.display())]
    SurplusTensors {
        /// The component's weight file or index.
        path: PathBuf,
        /// How many are left over.
        count: usize,
        /// The first of them in alphabetical order.
        name: String,
    },
    /// The tokenizer's files cannot be used.
    #[error("{}: {message}", path.display())]
    Tokenizer {
        /// `spiece.model` or a JSON file beside it.
        path: PathBuf,
        /// What was expected and what was found.
        message: String,
    },
    /// A parameter of the call is out of the model's range.
    #[error("{field}: {message}")]
    InvalidParams {
        /// The parameter's name as in [`crate::GenerationParams`].
        field: &'static str,
        /// What was expected and what was found.
        message: String,
    },
    /// No plan fits the memory that there is.
    #[error("memory_limit: {0}")]
    NoPlan(String),
    /// The model cannot run in this dtype.
    #[error("dtype: {0}")]
    UnsupportedDtype(String),
    /// The latents are not finite, so that decoding them would give a black video.
    #[error(
        "latents hold NaN or infinite values after step {step} of {steps}: the dtype overflowed or the weights are damaged"
    )]
    NanLatents {
        /// Counted from 1.
        step: usize,
        /// `num_inference_steps`.
        steps: usize,
    },
    /// A checkpoint is damaged, foreign, or of another run.
    #[error("checkpoint: {0}")]
    Checkpoint(String),
    /// The caller's callback asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A device failed, or had no memory left.
    #[error(transparent)]
    Device(#[from] device::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn config(path: &Path, message: impl Into<String>) -> Self {
        Self::Config { path: path.to_owned(), message: message.into() }
    }

    pub(crate) fn weights(path: &Path, message: impl Into<String>) -> Self {
        Self::Weights { path: path.to_owned(), message: message.into() }
    }

    pub(crate) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::InvalidParams { field, message: message.into() }
    }
}
