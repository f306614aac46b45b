//! The words of the job table: a video, what defines it, and what may be said about it.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, KeyId};

/// Names a video. Ids sort in the order in which they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VideoId(Uuid);

const ID_PREFIX: &str = "video_";

impl VideoId {
    pub(crate) fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl Serialize for VideoId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for VideoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ID_PREFIX}{}", self.0.simple())
    }
}

impl FromStr for VideoId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        // Only the form that `Display` gives: a second spelling of an id would be a second name for a row.
        text.strip_prefix(ID_PREFIX)
            .filter(|hex| hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
            .and_then(|hex| Uuid::try_parse(hex).ok())
            .map(Self)
            .ok_or_else(|| Error::InvalidId(text.to_owned()))
    }
}

/// An enum that is stored and shown as a lower-case word.
macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $name {
            /// The word that is stored and shown.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// What a word stands for.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

/// Where a video is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Waits for a worker.
    Queued,
    /// A worker has it.
    InProgress,
    /// There is a file.
    Completed,
    /// There is an error.
    Failed,
    /// Ended because somebody asked for it.
    Cancelled,
}

words!(Status {
    Queued = "queued",
    InProgress = "in_progress",
    Completed = "completed",
    Failed = "failed",
    Cancelled = "cancelled",
});

impl Status {
    /// Whether nothing can change any more.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// Where a video is, in finer words: with what is asked of one that runs, and what is left of one that is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Waits for a worker.
    Queued,
    /// A worker has it.
    InProgress,
    /// A worker has it, and somebody asked for it to be cancelled.
    Cancelling,
    /// There is a file.
    Completed,
    /// There is an error.
    Failed,
    /// Ended because somebody asked for it.
    Cancelled,
    /// It was completed, and its files were removed to make room.
    Expired,
}

words!(State {
    Queued = "queued",
    InProgress = "in_progress",
    Cancelling = "cancelling",
    Completed = "completed",
    Failed = "failed",
    Cancelled = "cancelled",
    Expired = "expired",
});

impl Video {
    /// All files that belong to it.
    pub fn files(&self) -> impl Iterator<Item = &OutputFile> {
        self.output.iter().flat_map(Output::files).chain(&self.params.image)
    }

    /// Where it is. The list's filter says the same in SQL.
    pub fn state(&self) -> State {
        match self.status {
            Status::Queued => State::Queued,
            Status::InProgress if self.cancel_requested_at_ms.is_some() => State::Cancelling,
            Status::InProgress => State::InProgress,
            Status::Completed if self.expired_at_ms.is_some() => State::Expired,
            Status::Completed => State::Completed,
            Status::Failed => State::Failed,
            Status::Cancelled => State::Cancelled,
        }
    }
}

/// What a worker is doing with a video, in the order in which it does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Another model than the last video's is read.
    LoadModel,
    /// The prompt becomes embeddings.
    TextEncode,
    /// The latents lose their noise, step by step.
    Denoise,
    /// The latents become frames.
    VaeDecode,
    /// The frames become an MP4.
    EncodeMp4,
    /// The MP4 becomes a file.
    Store,
}

words!(Stage {
    LoadModel = "load_model",
    TextEncode = "text_encode",
    Denoise = "denoise",
    VaeDecode = "vae_decode",
    EncodeMp4 = "encode_mp4",
    Store = "store",
});

/// Everything that defines a video, with every default filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are diffusers' and the door documents them")]
pub struct VideoParams {
    pub prompt: String,
    pub negative_prompt: String,
    pub width: u32,
    pub height: u32,
    pub num_frames: u32,
    pub fps: u32,
    pub num_inference_steps: u32,
    pub guidance_scale: f64,
    pub use_dynamic_cfg: bool,
    /// `ddim` or `dpm`.
    pub scheduler: String,
    pub seed: u64,
    /// Adapters of the model's weights, all at once. Rows from before there were any have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lora: Vec<Lora>,
    /// The picture that it starts from, a file of the store that is this video's alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<OutputFile>,
}

/// An adapter, and how strongly it acts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// The name of its file.
    pub name: String,
    /// 1 is as it was trained.
    pub scale: f64,
    /// SHA-256 of its file, lower-case hexadecimal: a name may come to mean another one.
    pub sha256: String,
}

impl VideoParams {
    /// Megapixels of all frames: what one denoising step takes, but for the speed of the device.
    pub(crate) fn megapixels(&self) -> f64 {
        f64::from(self.width) * f64::from(self.height) * f64::from(self.num_frames) / 1e6
    }
}

/// A video to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVideo {
    /// The model that makes it.
    pub model: String,
    /// What defines it.
    pub params: VideoParams,
    /// A larger number goes first; equals go in the order of their creation.
    pub priority: i32,
    /// Tokens of the prompt before any truncation.
    pub prompt_tokens: u32,
    /// Whether the model sees only the beginning of the prompt.
    pub prompt_truncated: bool,
    /// What the door wants the user to know about the request.
    pub warnings: Vec<String>,
    /// The user's own notes.
    pub metadata: BTreeMap<String, String>,
    /// The API key that it belongs to; none where the server has no keys.
    pub owner: Option<KeyId>,
    /// The prompt as the user sent it, if the model is to read another.
    pub sent_prompt: Option<String>,
    /// The video of which this is a variation.
    pub remixed_from: Option<VideoId>,
    /// The video of which this is another try.
    pub retry_of: Option<VideoId>,
    /// Who is to be told when it has ended.
    pub webhook_url: Option<String>,
    /// By what a repeated request is known.
    pub submission: Option<Submission>,
}

/// By what a repeated request is known for the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// A digest of the request's canonical fields.
    pub fingerprint: String,
    /// The client's `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// How often the client says that it has tried before.
    pub retry_count: u32,
}

/// What became of a request for a video.
#[derive(Debug, Clone, PartialEq)]
pub struct Enqueued {
    /// The video.
    pub video: Video,
    /// Whether it was there before: the request repeats an earlier one.
    pub replayed: bool,
}

/// A video, as the row says and, while it runs, as its worker says.
#[derive(Debug, Clone, PartialEq)]
pub struct Video {
    /// Its name.
    pub id: VideoId,
    /// The model that makes it.
    pub model: String,
    /// What defines it.
    pub params: VideoParams,
    /// Where it is in its life.
    pub status: Status,
    /// What is being done, or was when it ended.
    pub stage: Option<Stage>,
    /// Denoising steps finished.
    pub step: u32,
    /// Denoising steps in all.
    pub total_steps: u32,
    /// 0 to 99 until it is completed, then 100. Never falls.
    pub progress: u8,
    /// How often it was claimed.
    pub attempt: u32,
    /// A larger number goes first.
    pub priority: i32,
    /// Tokens of the prompt before any truncation.
    pub prompt_tokens: u32,
    /// Whether the model sees only the beginning of the prompt.
    pub prompt_truncated: bool,
    /// The user's own notes.
    pub metadata: BTreeMap<String, String>,
    /// Why it failed: present exactly if it did.
    pub error: Option<JobError>,
    /// What the user should know about the request.
    pub warnings: Vec<String>,
    /// Its file: present exactly if it is completed.
    pub output: Option<Output>,
    /// How long the stages took.
    pub timings: Timings,
    /// When somebody first asked for it to be cancelled.
    pub cancel_requested_at_ms: Option<i64>,
    /// When it was enqueued.
    pub created_at_ms: i64,
    /// When the present or last attempt began.
    pub started_at_ms: Option<i64>,
    /// When it was settled, however it ended.
    pub completed_at_ms: Option<i64>,
    /// When its files were removed, to make room or because it failed long ago: the row stays.
    pub expired_at_ms: Option<i64>,
    /// The API key that it belongs to.
    pub owner: Option<KeyId>,
    /// The prompt as the user sent it, if the model reads another.
    pub sent_prompt: Option<String>,
    /// The video of which this is a variation.
    pub remixed_from: Option<VideoId>,
    /// The video of which this is another try.
    pub retry_of: Option<VideoId>,
    /// Who is to be told when it has ended.
    pub webhook_url: Option<String>,
    /// Denoising steps that are kept in its checkpoint, from which the next attempt goes on.
    pub checkpoint_step: Option<u32>,
    /// Whether it is made in the mode that takes less memory, having run out of it before.
    pub low_memory: bool,
    /// The most memory that its making took.
    pub peak_memory_bytes: Option<u64>,
    pub(crate) turn: i64,
}

/// Why a video failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobError {
    /// A word from the table of codes.
    pub code: String,
    /// A sentence for the user.
    pub message: String,
}

/// The files of a finished video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The video itself.
    pub video: OutputFile,
    /// A picture of it.
    pub thumbnail: Option<OutputFile>,
    /// Many small pictures of it.
    pub spritesheet: Option<OutputFile>,
}

impl Output {
    /// All there are.
    pub fn files(&self) -> impl Iterator<Item = &OutputFile> {
        std::iter::once(&self.video).chain(&self.thumbnail).chain(&self.spritesheet)
    }
}

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Its key in the store.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its content, lower-case hexadecimal.
    pub sha256: String,
}

/// What a worker has to show for a finished video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its files, on the disk.
    pub output: Output,
    /// How long the stages took.
    pub timings: Timings,
    /// The most memory that it took.
    pub peak_memory_bytes: Option<u64>,
}

/// How long the parts of a finished video took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "each is a stage's name and a unit")]
pub struct Timings {
    /// From the enqueueing to the claim.
    pub queue_ms: Option<u64>,
    pub load_model_ms: Option<u64>,
    pub text_encode_ms: Option<u64>,
    pub denoise_ms: Option<u64>,
    pub vae_decode_ms: Option<u64>,
    pub encode_mp4_ms: Option<u64>,
    pub store_ms: Option<u64>,
}
