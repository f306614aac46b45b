//! The queue as a whole: how much there is to do, and holding it.

use axum::Json;
use axum::extract::State;
use queue::{Scope, VideoParams};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::error::Result;
use crate::openapi::CallerErrors;
use crate::state::{AppState, Health};

/// The queue.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Line {
    /// Always `queue`.
    object: LineTag,
    /// Whether nothing is begun for now; what runs goes on.
    paused: bool,
    /// Videos that wait.
    queued: u32,
    /// Videos being made.
    in_progress: u32,
    /// How many may wait.
    capacity: u32,
    /// Workers that make videos, each one at a time.
    workers: u32,
    /// Seconds a denoising step of the default video takes here; null before one was measured.
    #[schema(required)]
    step_seconds: Option<f64>,
    /// Seconds until everything is made, if nothing more comes; null before anything was measured.
    #[schema(required)]
    eta_seconds: Option<f64>,
}

/// The `object` of the queue.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LineTag {
    /// The queue.
    Queue,
}

/// Look at the queue.
#[utoipa::path(
    get,
    path = "/v1/queue",
    tag = "queue",
    operation_id = "get_queue",
    responses((status = OK, description = "The queue.", body = Line), CallerErrors),
)]
pub(crate) async fn get(State(state): State<AppState>, caller: Caller) -> Result<Json<Line>> {
    caller.require(Scope::Read)?;
    look(&state).await
}

/// Hold the queue.
///
/// Videos are taken and wait, also over a restart, until the queue is resumed. Needs an admin's key.
#[utoipa::path(
    post,
    path = "/v1/queue/pause",
    tag = "queue",
    operation_id = "pause_queue",
    responses((status = OK, description = "The queue.", body = Line), CallerErrors),
)]
pub(crate) async fn pause(State(state): State<AppState>, caller: Caller) -> Result<Json<Line>> {
    caller.require(Scope::Admin)?;
    state.queue.set_paused(true).await?;
    look(&state).await
}

/// Go on with the queue. Needs an admin's key.
#[utoipa::path(
    post,
    path = "/v1/queue/resume",
    tag = "queue",
    operation_id = "resume_queue",
    responses((status = OK, description = "The queue.", body = Line), CallerErrors),
)]
pub(crate) async fn resume(State(state): State<AppState>, caller: Caller) -> Result<Json<Line>> {
    caller.require(Scope::Admin)?;
    state.queue.set_paused(false).await?;
    look(&state).await
}

async fn look(state: &AppState) -> Result<Json<Line>> {
    let counts = state.queue.counts().await?;
    let eta_ms = state.queue.line_eta_ms();
    Ok(Json(Line {
        object: LineTag::Queue,
        paused: counts.paused,
        queued: counts.queued,
        in_progress: counts.in_progress,
        capacity: state.queue.options().capacity,
        workers: state.devices.borrow().iter().filter(|device| device.health == Health::Ready).count() as u32,
        step_seconds: state.queue.step_ms(&default_video(state)).map(|ms| ms / 1000.0),
        eta_seconds: eta_ms.map(|ms| ms as f64 / 1000.0),
    }))
}

/// What a request without any wishes would get.
fn default_video(state: &AppState) -> VideoParams {
    let card = state.catalog.default_model();
    VideoParams {
        prompt: String::new(),
        negative_prompt: String::new(),
        width: card.default_size.width,
        height: card.default_size.height,
        num_frames: card.default_num_frames,
        fps: card.fps,
        num_inference_steps: card.num_inference_steps.default,
        guidance_scale: card.guidance_scale,
        use_dynamic_cfg: card.use_dynamic_cfg,
        scheduler: card.scheduler.as_str().to_owned(),
        seed: 0,
        lora: Vec::new(),
        image: None,
    }
}
