//! Whether the process lives, and whether it can do its work.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::openapi::CommonErrors;
use crate::state::{AppState, Device, Health};

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
    /// The devices, each with a worker of its own.
    devices: Vec<DeviceReadiness>,
    /// Videos that wait; null when the queue does not answer.
    #[schema(required)]
    queued: Option<u32>,
    /// Videos being made; null when the queue does not answer.
    #[schema(required)]
    in_progress: Option<u32>,
}

/// A device that videos are made on.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeviceReadiness {
    /// Such as `cpu` or `cuda:1`; several may have the same.
    device: String,
    /// Whether its worker makes videos.
    status: ReadinessStatus,
}

/// States of readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReadinessStatus {
    /// Videos are taken and made.
    Ready,
    /// The same, but not on all devices.
    Degraded,
    /// The model is being loaded, or fetched first.
    Starting,
    /// The server is shutting down.
    Draining,
    /// The server must be looked after.
    Failed,
}

impl ReadinessStatus {
    /// Whether videos are taken and made.
    fn is_able(self) -> bool {
        matches!(self, Self::Ready | Self::Degraded)
    }
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
    let (mut status, mut reasons) = in_words(&state.health.borrow());
    let devices = state.devices.borrow().clone();
    if status == ReadinessStatus::Ready {
        reasons = failures(&devices);
        if !reasons.is_empty() {
            status = ReadinessStatus::Degraded;
        }
    }
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
    if !disk.has_room && status.is_able() {
        status = ReadinessStatus::Failed;
        reasons.push("the disk has no room for another video".to_owned());
    }
    let counts = counts.ok();
    let code = if status.is_able() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let device =
        |device: &Device| DeviceReadiness { device: device.name.clone(), status: in_words(&device.health).0 };
    let readiness = Readiness {
        status,
        reasons,
        devices: devices.iter().map(device).collect(),
        queued: counts.map(|counts| counts.queued),
        in_progress: counts.map(|counts| counts.in_progress),
    };
    (code, Json(readiness))
}

/// A health as status and reasons.
fn in_words(health: &Health) -> (ReadinessStatus, Vec<String>) {
    match health {
        Health::Ready => (ReadinessStatus::Ready, Vec::new()),
        Health::Starting => (ReadinessStatus::Starting, vec!["the model is being loaded".to_owned()]),
        Health::Waiting(what) => (ReadinessStatus::Starting, vec![what.clone()]),
        Health::Draining => (ReadinessStatus::Draining, vec!["the server is shutting down".to_owned()]),
        Health::Failed(reason) => (ReadinessStatus::Failed, vec![reason.clone()]),
    }
}

/// Which devices failed, and why.
fn failures(devices: &[Device]) -> Vec<String> {
    let failure = |device: &Device| match &device.health {
        Health::Failed(reason) if reason.contains(&device.name) => Some(reason.clone()),
        Health::Failed(reason) => Some(format!("device {}: {reason}", device.name)),
        _ => None,
    };
    devices.iter().filter_map(failure).collect()
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
