//! What Prometheus scrapes.

use axum::extract::{FromRequestParts, State};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::IntoResponse;
use metrics::{counter, gauge};
use queue::Scope;

use crate::auth::Caller;
use crate::error::Result;
use crate::openapi::CommonErrors;
use crate::state::{AppState, Health};

/// Metrics.
///
/// In Prometheus' text format. Names of models and API keys occur in it, no ids and no prompts.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "health",
    operation_id = "metrics",
    responses(
        (status = OK, description = "The metrics.", content_type = "text/plain; version=0.0.4", body = String),
        CommonErrors,
    ),
)]
pub(crate) async fn metrics(State(state): State<AppState>, mut request: Parts) -> Result<impl IntoResponse> {
    if state.access.metrics_need_key {
        Caller::from_request_parts(&mut request, &state).await?.require(Scope::Read)?;
    }
    gauge!("cogvideox_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    for card in state.catalog.iter() {
        gauge!("cogvideox_model_info", "model" => card.id.clone(), "precision" => card.dtype.clone())
            .set(1.0);
    }
    let ready = *state.health.borrow() == Health::Ready;
    gauge!("cogvideox_ready").set(if ready { 1.0 } else { 0.0 });
    for (number, device) in state.devices.borrow().iter().enumerate() {
        let labels = [("worker", number.to_string()), ("device", device.name.clone())];
        gauge!("cogvideox_worker_ready", &labels).set(if device.health == Health::Ready { 1.0 } else { 0.0 });
    }
    // Shown from the beginning on.
    gauge!("cogvideox_sse_subscribers").increment(0.0);
    counter!("cogvideox_sse_dropped_total").increment(0);
    queue_gauges(&state).await?;
    storage_gauges(&state).await?;
    // The full type is the format's own, and what Prometheus asks for.
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (state.metrics)()))
}

async fn queue_gauges(state: &AppState) -> Result<()> {
    let counts = state.queue.counts().await?;
    gauge!("cogvideox_queue_jobs", "state" => "queued").set(counts.queued);
    gauge!("cogvideox_queue_jobs", "state" => "running").set(counts.in_progress);
    gauge!("cogvideox_queue_capacity").set(state.queue.options().capacity);
    let oldest_ms = counts.oldest_queued_at_ms.map_or(0, |at_ms| (state.clock.now_ms() - at_ms).max(0));
    gauge!("cogvideox_queue_oldest_age_seconds").set(oldest_ms as f64 / 1000.0);
    gauge!("cogvideox_queue_paused").set(if counts.paused { 1.0 } else { 0.0 });
    gauge!("cogvideox_webhook_outbox_pending").set(state.queue.outbox().await?.pending);
    Ok(())
}

async fn storage_gauges(state: &AppState) -> Result<()> {
    gauge!("cogvideox_storage_bytes", "kind" => "videos").set(state.queue.files_bytes().await? as f64);
    if let Some(free) = (state.free_bytes)().await {
        gauge!("cogvideox_storage_free_bytes").set(free as f64);
    }
    Ok(())
}
