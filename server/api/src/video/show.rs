//! From a row of the queue to the video as clients see it.

use std::time::Duration;

use queue::{Estimate, State, Status, VideoId};

use super::{
    Urls, Video, VideoError, VideoImage, VideoLora, VideoStage, VideoState, VideoStatus, VideoTag, path,
};
use crate::state::AppState;

/// What clients are shown of the row, with what the row alone does not know.
pub(crate) fn show(state: &AppState, row: queue::Video) -> Video {
    let estimate = state.queue.estimate(&row);
    Video::new(row, estimate, state.retention_age)
}

/// The same for many, in their order; their places in the line are looked up together.
pub(crate) fn show_all(state: &AppState, rows: Vec<queue::Video>) -> Vec<Video> {
    let estimates = state.queue.estimates(&rows);
    let videos = rows.into_iter().zip(estimates);
    videos.map(|(row, estimate)| Video::new(row, estimate, state.retention_age)).collect()
}

impl Video {
    fn new(row: queue::Video, estimate: Estimate, retention_age: Option<Duration>) -> Self {
        let (status, state) = states(&row);
        let in_progress = row.status == Status::InProgress;
        let expires_at_ms = expires_at_ms(&row, retention_age);
        let params = row.params;
        let seconds = |at_ms: i64| at_ms.div_euclid(1000);
        let (prompt, refined_prompt) = match row.sent_prompt {
            Some(sent) => (sent, Some(params.prompt)),
            None => (params.prompt, None),
        };
        let error = match (row.status, row.error) {
            (Status::Cancelled, _) => Some(VideoError {
                code: "cancelled".to_owned(),
                message: "the video was cancelled".to_owned(),
            }),
            (_, error) => error.map(|error| VideoError { code: error.code, message: error.message }),
        };
        Self {
            id: row.id.to_string(),
            object: VideoTag::Video,
            model: row.model,
            status,
            state,
            progress: row.progress,
            created_at: seconds(row.created_at_ms),
            started_at: row.started_at_ms.map(seconds),
            completed_at: row.completed_at_ms.map(seconds),
            expires_at: expires_at_ms.map(seconds),
            seconds: (f64::from(params.num_frames) / f64::from(params.fps)).to_string(),
            size: format!("{}x{}", params.width, params.height),
            prompt,
            refined_prompt,
            remixed_from_video_id: row.remixed_from.map(|id| id.to_string()),
            retry_of_video_id: row.retry_of.map(|id| id.to_string()),
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
            input_reference: params
                .image
                .map(|image| VideoImage { bytes: image.bytes, sha256: image.sha256 }),
            lora: params.lora.into_iter().map(VideoLora::from).collect(),
            negative_prompt: params.negative_prompt,
            prompt_tokens: row.prompt_tokens,
            prompt_truncated: row.prompt_truncated,
            priority: row.priority,
            metadata: row.metadata,
            webhook_url: row.webhook_url,
            stage: row.stage.filter(|_| in_progress).map(VideoStage::from),
            step: row.step,
            total_steps: row.total_steps,
            eta_seconds: estimate.eta_ms.map(|ms| ms as f64 / 1000.0),
            queue_position: estimate.queue_position,
            checkpoint_step: row.checkpoint_step,
            attempt: row.attempt,
            warnings: row.warnings,
            timings: row.timings.into(),
            peak_memory_bytes: row.peak_memory_bytes,
            urls: Urls::new(row.id, row.output.as_ref()),
            bytes: row.output.as_ref().map(|output| output.video.bytes),
            sha256: row.output.map(|output| output.video.sha256),
        }
    }
}

fn states(row: &queue::Video) -> (VideoStatus, VideoState) {
    match row.state() {
        State::Queued => (VideoStatus::Queued, VideoState::Queued),
        State::InProgress => (VideoStatus::InProgress, VideoState::InProgress),
        State::Cancelling => (VideoStatus::InProgress, VideoState::Cancelling),
        State::Completed => (VideoStatus::Completed, VideoState::Completed),
        State::Expired => (VideoStatus::Completed, VideoState::Expired),
        State::Failed => (VideoStatus::Failed, VideoState::Failed),
        State::Cancelled => (VideoStatus::Failed, VideoState::Cancelled),
    }
}

fn expires_at_ms(row: &queue::Video, retention_age: Option<Duration>) -> Option<i64> {
    if row.expired_at_ms.is_some() || row.status != Status::Completed {
        return row.expired_at_ms;
    }
    let kept_ms = i64::try_from(retention_age?.as_millis()).ok()?;
    row.completed_at_ms?.checked_add(kept_ms)
}

impl Urls {
    fn new(id: VideoId, output: Option<&queue::Output>) -> Self {
        let this = path(id);
        let variant = |name: &str, made: bool| {
            // Before the end it is not known whether there will be one, and after it whether there is.
            (output.is_none() || made).then(|| format!("{this}/content?variant={name}"))
        };
        Self {
            content: format!("{this}/content"),
            thumbnail: variant("thumbnail", output.is_some_and(|output| output.thumbnail.is_some())),
            spritesheet: variant("spritesheet", output.is_some_and(|output| output.spritesheet.is_some())),
            events: format!("{this}/events"),
            cancel: format!("{this}/cancel"),
            retry: format!("{this}/retry"),
            this,
        }
    }
}
