//! The video as clients see it: OpenAI's fields, then this server's own.
//!
//! Made from the queue's row, which stays the queue's business: no field here is a column, and clients may read
//! nothing that is not listed here. Knows no model.

use std::collections::BTreeMap;

use queue::{Status, VideoId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::Result;
use crate::model::Scheduler;
use crate::state::AppState;

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
    /// Percent done; 100 only when completed, never falls within an attempt.
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
    /// Always null: files stay until the video is deleted.
    #[schema(required)]
    pub(crate) expires_at: Option<i64>,
    /// Length of the file in seconds, `num_frames` / `fps`.
    pub(crate) seconds: String,
    /// `WIDTHxHEIGHT`.
    pub(crate) size: String,
    /// The prompt as it was sent.
    pub(crate) prompt: String,
    /// Always null: this server does not remix.
    #[schema(required)]
    pub(crate) remixed_from_video_id: Option<String>,
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

    /// What is being done, while in progress.
    #[schema(required)]
    pub(crate) stage: Option<VideoStage>,
    /// Denoising steps done in the running attempt.
    pub(crate) step: u32,
    /// Denoising steps of the running attempt; 0 until it begins.
    pub(crate) total_steps: u32,
    /// Seconds until it is done, the videos before it included, as far as measured.
    #[schema(required)]
    pub(crate) eta_seconds: Option<f64>,
    /// Its place in the queue, 1 being the next, while it waits.
    #[schema(required)]
    pub(crate) queue_position: Option<u32>,
    /// How often a worker has begun it.
    pub(crate) attempt: u32,
    /// What whoever sees the video must know.
    pub(crate) warnings: Vec<String>,
    /// Where the time went.
    pub(crate) timings: Timings,
    /// Length of the file.
    #[schema(required)]
    pub(crate) bytes: Option<u64>,
    /// SHA-256 of the file, in hexadecimal; also its `etag`.
    #[schema(required)]
    pub(crate) sha256: Option<String>,
    /// Where the rest of it is.
    pub(crate) urls: Urls,
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

/// The six states.
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
}

/// What the worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VideoStage {
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
    /// `storage_failed`, `worker_lost` or `internal`.
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
    /// Its progress, as server-sent events.
    pub(crate) events: String,
    /// Where to POST to stop it.
    pub(crate) cancel: String,
}

/// The path of a video's object.
pub(crate) fn path(id: VideoId) -> String {
    format!("/v1/videos/{id}")
}

/// What clients are shown of the row, with what the row alone does not know.
pub(crate) async fn show(state: &AppState, row: queue::Video) -> Result<Video> {
    let estimate = state.queue.estimate(&row).await?;
    let in_progress = row.status == Status::InProgress;
    let (status, video_state) = match row.status {
        Status::Queued => (VideoStatus::Queued, VideoState::Queued),
        Status::InProgress if row.cancel_requested_at_ms.is_some() => {
            (VideoStatus::InProgress, VideoState::Cancelling)
        }
        Status::InProgress => (VideoStatus::InProgress, VideoState::InProgress),
        Status::Completed => (VideoStatus::Completed, VideoState::Completed),
        Status::Failed => (VideoStatus::Failed, VideoState::Failed),
        Status::Cancelled => (VideoStatus::Failed, VideoState::Cancelled),
    };
    let error = match (row.status, row.error) {
        (Status::Cancelled, _) => {
            Some(VideoError { code: "cancelled".to_owned(), message: "the video was cancelled".to_owned() })
        }
        (_, error) => error.map(|error| VideoError { code: error.code, message: error.message }),
    };
    let params = row.params;
    let self_path = path(row.id);
    let seconds = |at_ms: i64| at_ms.div_euclid(1000);
    Ok(Video {
        id: row.id.to_string(),
        object: VideoTag::Video,
        model: row.model,
        status,
        state: video_state,
        progress: row.progress,
        created_at: seconds(row.created_at_ms),
        started_at: row.started_at_ms.map(seconds),
        completed_at: row.completed_at_ms.map(seconds),
        expires_at: None,
        seconds: (f64::from(params.num_frames) / f64::from(params.fps)).to_string(),
        size: format!("{}x{}", params.width, params.height),
        prompt: params.prompt,
        remixed_from_video_id: None,
        error,
        fps: params.fps,
        num_frames: params.num_frames,
        width: params.width,
        height: params.height,
        seed: params.seed,
        num_inference_steps: params.num_inference_steps,
        guidance_scale: params.guidance_scale,
        use_dynamic_cfg: params.use_dynamic_cfg,
        scheduler: params.scheduler,
        negative_prompt: params.negative_prompt,
        prompt_tokens: row.prompt_tokens,
        prompt_truncated: row.prompt_truncated,
        priority: row.priority,
        metadata: row.metadata,
        stage: row.stage.filter(|_| in_progress).map(VideoStage::from),
        step: row.step,
        total_steps: row.total_steps,
        eta_seconds: estimate.eta_ms.map(|ms| ms as f64 / 1000.0),
        queue_position: estimate.queue_position,
        attempt: row.attempt,
        warnings: row.warnings,
        timings: row.timings.into(),
        bytes: row.output.as_ref().map(|output| output.video.bytes),
        sha256: row.output.map(|output| output.video.sha256),
        urls: Urls {
            content: format!("{self_path}/content"),
            events: format!("{self_path}/events"),
            cancel: format!("{self_path}/cancel"),
            this: self_path,
        },
    })
}
