//! The spans of an attempt: one from the claim to the settlement, and in it one for each stage. Every log line of the
//! attempt is in the first; whoever records spans sees from them where the time went.

use std::sync::{Mutex, PoisonError};

use queue::{Stage, Video};
use tracing::{Span, field::Empty, info_span};

/// The span of an attempt at the video on the device, for the time from its claim.
pub(crate) fn attempt_span(video: &Video, device: &str) -> Span {
    info_span!(
        "video",
        job.id = %video.id,
        // Signed, because OpenTelemetry's numbers are: others would be exported as text.
        job.attempt = i64::from(video.attempt),
        // The span `worker` around this one says it too, but is in no trace.
        job.device = device,
        job.outcome = Empty,
        error.type = Empty
    )
}

/// How the attempt ended; to be told within its span.
pub(crate) fn note_outcome(outcome: &str) {
    Span::current().record("job.outcome", outcome);
}

/// Why the attempt failed, as a code; to be told within its span.
pub(crate) fn note_error(code: &str) {
    Span::current().record("error.type", code);
}

/// The span of the stage that is under way, if one is.
#[derive(Debug, Default)]
pub(crate) struct StageSpan(Mutex<Option<(Stage, Span)>>);

impl StageSpan {
    /// A stage is under way now; to be told within the attempt's span.
    pub(crate) fn enter(&self, stage: Stage) {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running.as_ref().is_none_or(|(running, _)| *running != stage) {
            // The last ends before the next begins.
            *running = None;
            *running = Some((stage, span(stage)));
        }
    }

    /// No stage is under way any more.
    pub(crate) fn leave(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A span's name is fixed where it is made.
fn span(stage: Stage) -> Span {
    match stage {
        Stage::LoadModel => info_span!("load_model"),
        Stage::TextEncode => info_span!("text_encode"),
        Stage::Denoise => info_span!("denoise"),
        Stage::VaeDecode => info_span!("vae_decode"),
        Stage::EncodeMp4 => info_span!("encode_mp4"),
        Stage::Store => info_span!("store"),
    }
}
