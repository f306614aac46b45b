//! What is counted for whoever watches the server: each transition, as it is published.
//!
//! Relies on a recorder that the binary installs; without one nothing happens. Labels are words of the code, names of
//! models and names of API keys, all of them few; ids and prompts never are.

use metrics::{counter, histogram};

use crate::{DurableEvent, EventKind, Video, rescue::WORKER_LOST};

/// Shows the counters that may stay at zero for long: a rate over what is not there yet is no rate.
pub(crate) fn begin() {
    counter!("cogvideox_jobs_rescued_total").increment(0);
    counter!("cogvideox_files_expired_total").increment(0);
}

/// Counts a change that is committed.
pub(crate) fn happened(event: &DurableEvent, video: &Video) {
    if event.detail.as_deref() == Some(WORKER_LOST) {
        counter!("cogvideox_jobs_rescued_total").increment(1);
    }
    match event.kind {
        EventKind::Queued if video.attempt == 0 => {
            counter!("cogvideox_jobs_submitted_total", "model" => video.model.clone()).increment(1);
        }
        // A later attempt waits from an end of the one before, which no row holds.
        EventKind::Started if video.attempt == 1 => {
            histogram!("cogvideox_job_queue_seconds").record(seconds(video.created_at_ms, event.at_ms));
        }
        kind if kind.is_end() => ended(event, video),
        EventKind::Expired => counter!("cogvideox_files_expired_total").increment(1),
        _ => {}
    }
}

/// Counts the time for which a worker had a video, to the account of its API key's name. In whole seconds, which is
/// what a counter holds.
pub(crate) fn worked(key_name: Option<&str>, from_ms: i64, to_ms: i64) {
    let name = key_name.unwrap_or_default().to_owned();
    counter!("cogvideox_gpu_seconds_total", "api_key_name" => name)
        .increment(seconds(from_ms, to_ms).round() as u64);
}

fn ended(event: &DurableEvent, video: &Video) {
    let reason = video.error.as_ref().map_or_else(String::new, |error| error.code.clone());
    let labels =
        [("status", event.kind.as_str().to_owned()), ("reason", reason), ("model", video.model.clone())];
    counter!("cogvideox_jobs_total", &labels).increment(1);
    if let (EventKind::Completed, Some(started_at_ms)) = (event.kind, video.started_at_ms) {
        histogram!("cogvideox_job_duration_seconds").record(seconds(started_at_ms, event.at_ms));
    }
    if let (EventKind::Cancelled, Some(asked_at_ms)) = (event.kind, video.cancel_requested_at_ms) {
        histogram!("cogvideox_cancel_latency_seconds").record(seconds(asked_at_ms, event.at_ms));
    }
}

fn seconds(from_ms: i64, to_ms: i64) -> f64 {
    (to_ms - from_ms).max(0) as f64 / 1000.0
}
