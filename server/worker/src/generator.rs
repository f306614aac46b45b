//! The seam to the model: what a worker asks of whatever makes the frames. The binary puts the pipeline behind it,
//! tests a fake.

use std::ops::ControlFlow;

use queue::{JobError, VideoId, VideoParams};

/// A video to make.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its name: for logs, never for what the video looks like.
    pub video_id: VideoId,
    /// The name of the model that makes it.
    pub model: &'a str,
    /// What defines it.
    pub params: &'a VideoParams,
    /// The content of the picture file that it starts from.
    pub image: Option<&'a [u8]>,
    /// What [`DenoiseState::checkpoint`] gave in an earlier attempt: go on from there.
    pub checkpoint: Option<&'a [u8]>,
    /// Take less memory, at the cost of time and of slightly other pixels.
    pub low_memory: bool,
}

/// A video that was made.
#[derive(Debug)]
pub struct Generated {
    /// Its frames.
    pub frames: media::Frames,
    /// The most memory of the device that it took, where that is known.
    pub peak_memory_bytes: Option<u64>,
}

/// Makes frames. It lives on one thread from its building to its end, so it need not be `Send`.
pub trait Generator {
    /// Makes the video that is asked for. `on_progress` is called at each step and as often as possible between;
    /// once it answers `Break`, the generator returns [`GenerateError::Interrupted`] as soon as it can.
    ///
    /// The same parameters give the same frames, gone on from a checkpoint or not.
    ///
    /// # Errors
    /// Each variant of [`GenerateError`] settles the video in its own way.
    fn generate(
        &mut self,
        request: &Request<'_>,
        on_progress: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Generated, GenerateError>;

    /// The names of the models that are in memory: their videos can begin at once. Asked once it is built and after
    /// each video. None says that all models are the same to it.
    fn loaded(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Where a generator is.
#[derive(Clone, Copy)]
pub enum Progress<'a> {
    /// The model of the video is being read, in place of another.
    LoadModel,
    /// The prompt is being encoded.
    TextEncode,
    /// So many denoising steps are finished; with 0, or with the checkpoint's on a run that goes on from one, the
    /// first begins.
    Denoise {
        /// Steps finished.
        step: u32,
        /// Steps in all.
        total_steps: u32,
        /// What can be asked about the latents: there after each finished step, the last one too.
        state: Option<&'a dyn DenoiseState>,
    },
    /// So much of the latents is decoded.
    VaeDecode {
        /// From 0 to 1.
        fraction: f64,
    },
    /// Nothing to tell: only to ask whether to stop.
    CheckPoint,
}

/// The latents between two steps.
pub trait DenoiseState {
    /// Everything that a later attempt needs to go on from here, so that it ends in the same frames.
    ///
    /// # Errors
    /// A sentence for the log; the generation goes on without.
    fn checkpoint(&self) -> Result<Vec<u8>, String>;

    /// A rough and quick picture of what the video will look like.
    fn preview(&self) -> Option<Picture>;
}

/// One picture of 8-bit RGB, `(height, width, 3)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// `height * width * 3` bytes.
    pub rgb: Vec<u8>,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
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
    /// There is no such model any more; the message is shown to the user.
    #[error("model not available: {0}")]
    ModelNotAvailable(String),
    /// The file of an adapter is gone, cannot be read or does not fit the model; the message is shown to the user.
    #[error("adapter not available: {0}")]
    LoraNotAvailable(String),
    /// The file of an adapter is another one than when the video was asked for; the message is shown to the user.
    #[error("adapter changed: {0}")]
    LoraChanged(String),
    /// The model cannot be read, others may; the message is for the log alone.
    #[error("the model cannot be loaded: {0}")]
    ModelNotLoaded(String),
    /// The device's memory does not suffice; the message is shown to the user.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The latents are not numbers any more; the message is shown to the user.
    #[error("the latents are not finite: {0}")]
    NanLatents(String),
    /// The device does not work any more, and no video will be made on it: the message is for the log alone. The
    /// generator is dropped, and a new one is built if that can be done.
    #[error("device lost: {0}")]
    DeviceLost(String),
    /// The checkpoint cannot be gone on with; the message is for the log alone. Asked again without it, the
    /// generator starts over.
    #[error("bad checkpoint: {0}")]
    BadCheckpoint(String),
    /// Anything else; the message is for the log alone.
    #[error("internal: {0}")]
    Internal(String),
}

impl GenerateError {
    /// What the row says about it.
    pub(crate) fn into_job_error(self) -> JobError {
        let (code, message) = match self {
            Self::InvalidParams(message) => ("invalid_params", message),
            Self::ModelNotAvailable(message) => ("model_not_available", message),
            Self::LoraNotAvailable(message) => ("lora_not_available", message),
            Self::LoraChanged(message) => ("lora_changed", message),
            Self::ModelNotLoaded(_) => {
                ("model_load_failed", "the model could not be loaded; the server's log says why".to_owned())
            }
            Self::OutOfMemory(message) => ("out_of_memory", message),
            Self::NanLatents(message) => ("nan_latents", message),
            Self::Interrupted | Self::DeviceLost(_) | Self::BadCheckpoint(_) | Self::Internal(_) => {
                ("internal", "the generation failed; the server's log says why".to_owned())
            }
        };
        JobError { code: code.to_owned(), message }
    }
}
