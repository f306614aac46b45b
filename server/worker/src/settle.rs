//! How an attempt's end is written to the row, and what is cleared away with it.

use std::time::Duration;

use queue::{Finished, JobError};
use tokio::time::sleep;

use crate::{
    attempt::{Attempt, Ended},
    trace,
};

/// How long to wait before each new try to settle a video in a failing database.
const SETTLE_RETRIES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_millis(2500)];

/// What to write to the row in the end.
#[derive(Clone)]
pub(crate) enum Settlement {
    // By far the largest: boxed, so that the others stay small.
    Complete(Box<Finished>),
    Fail(JobError),
    Cancel,
    Requeue,
    /// The device is lost, and the attempt with it.
    Abandon,
    /// With a sentence for the user.
    RequeueInLowMemory(&'static str),
}

impl Settlement {
    fn word(&self) -> &'static str {
        match self {
            Self::Complete(..) => "completed",
            Self::Fail(_) => "failed",
            Self::Cancel => "cancelled",
            Self::Requeue => "requeued",
            Self::Abandon => "abandoned",
            Self::RequeueInLowMemory(_) => "requeued in low memory",
        }
    }

    /// Why the video is tried again, if it is.
    fn retry_cause(&self) -> Option<&'static str> {
        match self {
            Self::Requeue => Some("worker_stopped"),
            Self::Abandon => Some("device_lost"),
            Self::RequeueInLowMemory(_) => Some("out_of_memory"),
            _ => None,
        }
    }
}

impl Attempt<'_> {
    /// Writes how the attempt ended. Files of a completion that does not happen are removed, and before anybody hears
    /// that it did not.
    pub(crate) async fn settle(&self, settlement: Settlement) {
        if !matches!(settlement, Settlement::Complete(_)) {
            self.remove_files().await;
        }
        match self.write(&settlement).await {
            Ok(()) => {
                tracing::info!(outcome = settlement.word(), "video settled");
                trace::note_outcome(settlement.word());
                if let Settlement::Fail(error) = &settlement {
                    trace::note_error(&error.code);
                }
                self.clear_up(&settlement).await;
            }
            Err(queue::Error::CancelRequested(_)) => Box::pin(self.settle(Settlement::Cancel)).await,
            Err(error @ queue::Error::LeaseLost { .. }) => {
                tracing::warn!(%error, "the video is dropped");
                trace::note_outcome("lease lost");
                self.discard().await;
            }
            // The files stay: the write may have happened, and a sweep removes them if not.
            Err(error) => tracing::error!(%error, outcome = settlement.word(), "the video cannot be settled"),
        }
    }

    async fn write(&self, settlement: &Settlement) -> queue::Result<()> {
        let (queue, lease) = (&self.runner.queue, &self.lease);
        let mut delays = SETTLE_RETRIES.into_iter();
        loop {
            let written = match settlement.clone() {
                Settlement::Complete(finished) => queue.complete(lease, *finished).await,
                Settlement::Fail(error) => queue.fail(lease, error).await,
                Settlement::Cancel => queue.cancelled(lease).await,
                Settlement::Requeue => queue.requeue(lease).await,
                Settlement::Abandon => queue.abandon(lease).await,
                Settlement::RequeueInLowMemory(warning) => queue.requeue_in_low_memory(lease, warning).await,
            };
            match (written, delays.next()) {
                (Err(error @ queue::Error::Database(_)), Some(delay)) => {
                    tracing::warn!(%error, "settling the video is tried again");
                    sleep(delay).await;
                }
                (written, _) => return written,
            }
        }
    }

    /// What follows from an end that is written.
    async fn clear_up(&self, settlement: &Settlement) {
        if matches!(settlement, Settlement::Complete(_)) {
            let params = &self.video.params;
            metrics::counter!("cogvideox_frames_generated_total").increment(params.num_frames.into());
            self.runner.count_video_seconds(f64::from(params.num_frames) / f64::from(params.fps.max(1)));
        }
        let has_ended = match settlement.retry_cause() {
            None => true,
            // What was handed back but was to be cancelled has ended too.
            Some(cause) => match self.runner.queue.get(self.video.id).await {
                Ok(video) if video.status.is_terminal() => true,
                _ => {
                    metrics::counter!("cogvideox_job_retries_total", "cause" => cause).increment(1);
                    false
                }
            },
        };
        if has_ended {
            self.remove_checkpoint().await;
        }
    }

    /// Removes the files of a completion that was refused. The row has the last word: a write that reported a failure
    /// may have happened all the same.
    async fn discard(&self) {
        match self.runner.queue.get(self.video.id).await {
            Ok(video) if video.output.is_some() && video.attempt == self.video.attempt => {}
            Ok(_) | Err(queue::Error::NotFound(_)) => self.remove_files().await,
            Err(error) => tracing::warn!(%error, "the files stay until the next sweep"),
        }
    }
}

pub(crate) fn failed(code: &str, message: &str, error: &dyn std::error::Error) -> Ended {
    tracing::error!(%error, "{message}");
    Ended::Failed(JobError { code: code.to_owned(), message: message.to_owned() })
}
