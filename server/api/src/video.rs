//! The video as clients see it: OpenAI's fields, then this server's own.
//!
//! Made from the queue's row, which stays the queue's business: no field here is a column, and clients may read
//! nothing that is not listed here. Knows no model.

mod show;

use std::collections::BTreeMap;

use queue::VideoId;
use serde::Serialize;
use utoipa::ToSchema;

use crate::model::Scheduler;

pub(crate) use show::{show, show_all};

/// One video: a job while it is made, and a file afterwards.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Video {
    /// `video_` and 32 hexadecimal digits; sorts by creation.
    #[schema(pattern = "^video_[0-9a-f]{32}$")]
    pub(crate) id: String,
    /// Always `video`.
    pub(crate) object: VideoTag,
    /// The model that makes it.
    pub(crate) model: String,
    /// The state in OpenAI's four words: a cancelled video is `failed` with the error code `cancelled`.
    pub(crate) status: VideoStatus,
    /// The state.
    pub(crate) state: VideoState,
    /// Percent done; 100 only when completed, never falls.
    #[schema(maximum = 100)]
    pub(crate) progress: u8,
    /// Unix seconds of the request.
    pub(crate) created_at: i64,
    /// Unix seconds at which the running attempt began.
    #[schema(required)]
    pub(crate) started_at: Option<i64>,
    /// Unix seconds at which it ended, however it ended.
    #[schema(required)]
    pub(crate) completed_at: Option<i64>,
    /// Unix seconds at which its files go, or went, to make room; null while that is not known.
    #[schema(required)]
    pub(crate) expires_at: Option<i64>,
    /// Length of the file in seconds, `num_frames` / `fps`.
    pub(crate) seconds: String,
    /// `WIDTHxHEIGHT`.
    pub(crate) size: String,
    /// The prompt as it was sent.
    pub(crate) prompt: String,
    /// What the model reads in place of the prompt, if it was refined.
    #[schema(required)]
    pub(crate) refined_prompt: Option<String>,
    /// The video of which it is a remix.
    #[schema(required)]
    pub(crate) remixed_from_video_id: Option<String>,
    /// The video of which it is another try.
    #[schema(required)]
    pub(crate) retry_of_video_id: Option<String>,
    /// Why there is no file, if it failed or was cancelled.
    #[schema(required)]
    pub(crate) error: Option<VideoError>,

    /// Frames a second.
    pub(crate) fps: u32,
    /// Frames.
    pub(crate) num_frames: u32,
    /// Pixels across.
    pub(crate) width: u32,
    /// Pixels down.
    pub(crate) height: u32,
    /// The seed: the same request with it makes the same video.
    #[schema(maximum = 9_007_199_254_740_991_u64)]
    pub(crate) seed: u64,
    /// Denoising steps.
    pub(crate) num_inference_steps: u32,
    /// How strongly the prompt pulls.
    pub(crate) guidance_scale: f64,
    /// Whether guidance grows over the steps.
    pub(crate) use_dynamic_cfg: bool,
    /// The sampler: `ddim` or `dpm`.
    #[schema(value_type = Scheduler)]
    pub(crate) scheduler: String,
    /// The picture that it starts from.
    #[schema(required)]
    pub(crate) input_reference: Option<VideoImage>,
    /// The adapters of the model's weights.
    pub(crate) lora: Vec<VideoLora>,
    /// What the video must not show; may be empty.
    pub(crate) negative_prompt: String,
    /// Tokens of the prompt, its end marker included, before any cut.
    pub(crate) prompt_tokens: u32,
    /// Whether the prompt's or the negative prompt's end was cut off.
    pub(crate) prompt_truncated: bool,
    /// Higher goes first.
    pub(crate) priority: i32,
    /// The client's own entries.
    pub(crate) metadata: BTreeMap<String, String>,

    /// Who is told when it has ended.
    #[schema(required)]
    pub(crate) webhook_url: Option<String>,

    /// What is being done, while in progress.
    #[schema(required)]
    pub(crate) stage: Option<VideoStage>,
    /// Denoising steps done, those that were kept from an interrupted attempt included.
    pub(crate) step: u32,
    /// Denoising steps in all.
    pub(crate) total_steps: u32,
    /// Seconds until it is done, the videos before it included, as far as measured.
    #[schema(required)]
    pub(crate) eta_seconds: Option<f64>,
    /// Its place in the queue, 1 being the next, while it waits.
    #[schema(required)]
    pub(crate) queue_position: Option<u32>,
    /// Denoising steps that are kept, should its making be interrupted.
    #[schema(required)]
    pub(crate) checkpoint_step: Option<u32>,
    /// How often a worker has begun it.
    pub(crate) attempt: u32,
    /// What whoever sees the video must know.
    pub(crate) warnings: Vec<String>,
    /// Where the time went.
    pub(crate) timings: Timings,
    /// The most memory that its making took, in bytes.
    #[schema(required)]
    pub(crate) peak_memory_bytes: Option<u64>,
    /// Length of the file.
    #[schema(required)]
    pub(crate) bytes: Option<u64>,
    /// SHA-256 of the file, in hexadecimal; also its `etag`.
    #[schema(required)]
    pub(crate) sha256: Option<String>,
    /// Where the rest of it is.
    pub(crate) urls: Urls,
}

/// The picture of a video.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct VideoImage {
    /// Length of its file.
    pub(crate) bytes: u64,
    /// SHA-256 of its file, in hexadecimal.
    pub(crate) sha256: String,
}

/// An adapter of a video.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct VideoLora {
    /// Its name.
    pub(crate) name: String,
    /// How strongly it acts.
    pub(crate) scale: f64,
    /// SHA-256 of its file, in hexadecimal.
    pub(crate) sha256: String,
}

impl From<queue::Lora> for VideoLora {
    fn from(queue::Lora { name, scale, sha256 }: queue::Lora) -> Self {
        Self { name, scale, sha256 }
    }
}

/// The `object` of a video.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum VideoTag {
    /// A video.
    Video,
}

/// OpenAI's four states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VideoStatus {
    /// Waiting for the worker.
    Queued,
    /// Being made.
    InProgress,
    /// The file can be downloaded.
    Completed,
    /// There will be no file; `error` says why.
    Failed,
}

/// The seven states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VideoState {
    /// Waiting for the worker.
    Queued,
    /// Being made.
    InProgress,
    /// To be stopped; the worker has not yet.
    Cancelling,
    /// The file can be downloaded.
    Completed,
    /// It could not be made.
    Failed,
    /// It was stopped on request.
    Cancelled,
    /// It was completed, and its files were removed to make room.
    Expired,
}

/// What the worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VideoStage {
    /// Reading its model, in place of another.
    LoadModel,
    /// Reading the prompt.
    TextEncode,
    /// Denoising the latents, step by step.
    Denoise,
    /// Turning latents into frames.
    VaeDecode,
    /// Turning frames into MP4.
    EncodeMp4,
    /// Writing the file.
    Store,
}

impl From<queue::Stage> for VideoStage {
    fn from(stage: queue::Stage) -> Self {
        match stage {
            queue::Stage::LoadModel => Self::LoadModel,
            queue::Stage::TextEncode => Self::TextEncode,
            queue::Stage::Denoise => Self::Denoise,
            queue::Stage::VaeDecode => Self::VaeDecode,
            queue::Stage::EncodeMp4 => Self::EncodeMp4,
            queue::Stage::Store => Self::Store,
        }
    }
}

/// Why a video has no file.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct VideoError {
    /// For programs: `cancelled`, `invalid_params`, `out_of_memory`, `nan_latents`, `encode_failed`,
    /// `storage_failed`, `model_not_available`, `model_load_failed`, `lora_not_available`, `lora_changed`, `image_not_available`, `worker_lost` or `internal`.
    pub(crate) code: String,
    /// For people.
    pub(crate) message: String,
}

/// Milliseconds spent, each null until known.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the unit belongs to the wire name")]
pub(crate) struct Timings {
    /// Waiting for the worker.
    #[schema(required)]
    pub(crate) queue_ms: Option<u64>,
    /// Reading its model, where another was loaded.
    #[schema(required)]
    pub(crate) load_model_ms: Option<u64>,
    /// Reading the prompt.
    #[schema(required)]
    pub(crate) text_encode_ms: Option<u64>,
    /// Denoising.
    #[schema(required)]
    pub(crate) denoise_ms: Option<u64>,
    /// Turning latents into frames.
    #[schema(required)]
    pub(crate) vae_decode_ms: Option<u64>,
    /// Turning frames into MP4.
    #[schema(required)]
    pub(crate) encode_mp4_ms: Option<u64>,
    /// Writing the file.
    #[schema(required)]
    pub(crate) store_ms: Option<u64>,
}

impl From<queue::Timings> for Timings {
    fn from(timings: queue::Timings) -> Self {
        Self {
            queue_ms: timings.queue_ms,
            load_model_ms: timings.load_model_ms,
            text_encode_ms: timings.text_encode_ms,
            denoise_ms: timings.denoise_ms,
            vae_decode_ms: timings.vae_decode_ms,
            encode_mp4_ms: timings.encode_mp4_ms,
            store_ms: timings.store_ms,
        }
    }
}

/// Paths on this server.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct Urls {
    /// This object.
    #[serde(rename = "self")]
    pub(crate) this: String,
    /// The MP4, once completed.
    pub(crate) content: String,
    /// A picture of it, once completed; null if none was made.
    #[schema(required)]
    pub(crate) thumbnail: Option<String>,
    /// Many small pictures of it, once completed; null if none was made.
    #[schema(required)]
    pub(crate) spritesheet: Option<String>,
    /// Its progress, as server-sent events.
    pub(crate) events: String,
    /// Where to POST to stop it.
    pub(crate) cancel: String,
    /// Where to POST to make it once more, when it has ended.
    pub(crate) retry: String,
}

/// The path of a video's object.
pub(crate) fn path(id: VideoId) -> String {
    format!("/v1/videos/{id}")
}
