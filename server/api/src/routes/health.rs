//! Whether the process lives, and whether it can do its work.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::openapi::CommonErrors;
use crate::state::{AppState, Health};

/// That the process answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Liveness {
    /// Always `alive`.
    status: LivenessStatus,
}

/// The one thing a process that answers can say.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LivenessStatus {
    /// It answers.
    Alive,
}

/// Whether new videos are taken and made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Readiness {
    /// `ready`, or what it is instead. A busy server is ready.
    status: ReadinessStatus,
    /// What stands in the way, in words; empty when ready.
    reasons: Vec<String>,
    /// Videos that wait; null when the queue does not answer.
    #[schema(required)]
    queued: Option<u32>,
    /// Videos being made; null when the queue does not answer.
    #[schema(required)]
    in_progress: Option<u32>,
}

/// States of readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReadinessStatus {
    /// Videos are taken and made.
    Ready,
    /// The model is being loaded.
    Starting,
    /// The server is shutting down.
    Draining,
    /// The server must be looked after.
    Failed,
}

/// Is the process alive?
#[utoipa::path(
    get,
    path = "/livez",
    tag = "health",
    operation_id = "livez",
    responses((status = OK, description = "It is.", body = Liveness), CommonErrors),
)]
pub(crate) async fn livez() -> Json<Liveness> {
    Json(Liveness { status: LivenessStatus::Alive })
}

/// Can the server take and make videos?
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    operation_id = "readyz",
    responses(
        (status = OK, description = "It can.", body = Readiness),
        (status = SERVICE_UNAVAILABLE, description = "It cannot; `reasons` says why.", body = Readiness),
        CommonErrors,
    ),
)]
pub(crate) async fn readyz(State(state): State<AppState>) -> (StatusCode, Json<Readiness>) {
    let (mut status, mut reasons) = match &*state.health.borrow() {
        Health::Ready => (ReadinessStatus::Ready, Vec::new()),
        Health::Starting => (ReadinessStatus::Starting, vec!["the model is being loaded".to_owned()]),
        Health::Draining => (ReadinessStatus::Draining, vec!["the server is shutting down".to_owned()]),
        Health::Failed(reason) => (ReadinessStatus::Failed, vec![reason.clone()]),
    };
    let counts = state.queue.counts().await;
    if let Err(error) = &counts {
        tracing::error!(%error, "the queue does not answer");
        status = ReadinessStatus::Failed;
        reasons.push("the job queue does not answer".to_owned());
    }
    let disk = state.look_at_disk().await;
    if counts.is_ok() && !disk.queue_is_writable {
        status = ReadinessStatus::Failed;
        reasons.push("the job queue cannot be written".to_owned());
    }
    if !disk.has_room && status == ReadinessStatus::Ready {
        status = ReadinessStatus::Failed;
        reasons.push("the disk has no room for another video".to_owned());
    }
    let counts = counts.ok();
    let code =
        if status == ReadinessStatus::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let readiness = Readiness {
        status,
        reasons,
        queued: counts.map(|counts| counts.queued),
        in_progress: counts.map(|counts| counts.in_progress),
    };
    (code, Json(readiness))
}

/// The same as `/readyz`.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "health",
    operation_id = "healthz",
    responses(
        (status = OK, description = "It can.", body = Readiness),
        (status = SERVICE_UNAVAILABLE, description = "It cannot; `reasons` says why.", body = Readiness),
        CommonErrors,
    ),
)]
pub(crate) async fn healthz(state: State<AppState>) -> (StatusCode, Json<Readiness>) {
    readyz(state).await
}
