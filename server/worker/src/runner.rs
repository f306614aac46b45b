//! The loop: takes a video, has it seen through by an [`Attempt`], and takes the next.
//!
//! Relies on the queue's fencing: it may write to a row that is no longer its own, and is told so. A video that it
//! cannot settle because the database fails loses its heartbeat, and a later rescue settles it.

use std::sync::{Mutex, PoisonError};

use queue::{CancellationToken, Owner, Queue};
use tokio::time::sleep;
use tracing::Instrument as _;

use crate::{
    Readiness, Stores, WorkerConfig, attempt::Attempt, pulse::Heart, readiness::Slot, thread::Generating,
    trace,
};

pub(crate) struct Runner {
    pub(crate) config: WorkerConfig,
    pub(crate) queue: Queue,
    pub(crate) stores: Stores,
    pub(crate) owner: Owner,
    pub(crate) generating: Generating,
    pub(crate) slot: Slot,
    pub(crate) heart: Heart,
    /// The part of a second of video that is not counted yet.
    pub(crate) video_seconds: Mutex<f64>,
    pub(crate) stopping: CancellationToken,
    pub(crate) interrupt: CancellationToken,
}

impl Runner {
    pub(crate) async fn run(self) {
        while !self.stopping.is_cancelled() {
            // Also between videos, because nobody else would find a row that this worker could not settle.
            match self.queue.rescue(&self.owner).await {
                Ok(rescued) => metrics::counter!("cogvideox_job_retries_total", "cause" => "worker_lost")
                    .increment(rescued.requeued.into()),
                Err(error) => tracing::error!(%error, "cannot look for videos that lost their worker"),
            }
            self.heart.beat();
            if !self.generator_is_ready().await {
                return;
            }
            let loaded = self.generating.loaded.borrow().clone();
            match self.queue.claim_preferring(&self.owner, &loaded).await {
                Ok(Some(claim)) => {
                    let span = trace::attempt_span(&claim.video, self.slot.device());
                    Attempt::new(&self, claim).run().instrument(span).await;
                }
                Ok(None) => tokio::select! {
                    () = self.queue.work_available() => {}
                    () = sleep(self.config.poll) => {}
                    () = self.stopping.cancelled() => {}
                },
                Err(error) => {
                    tracing::error!(%error, "cannot claim a video");
                    tokio::select! {
                        () = sleep(self.config.poll) => {}
                        () = self.stopping.cancelled() => {}
                    }
                }
            }
        }
    }

    /// Waits for the generator; false if there will be none.
    async fn generator_is_ready(&self) -> bool {
        let mut readiness = self.slot.subscribe();
        loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return false,
                state = readiness.wait_for(|state| *state != Readiness::Starting) => {
                    return state.is_ok_and(|state| *state == Readiness::Ready);
                }
                () = sleep(self.config.poll) => self.heart.beat(),
            }
        }
    }

    /// Counts what was made. A counter takes whole numbers, so the rest is carried on to the next video.
    pub(crate) fn count_video_seconds(&self, seconds: f64) {
        let mut rest = self.video_seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let all = *rest + seconds;
        *rest = all.fract();
        metrics::counter!("cogvideox_video_seconds_generated_total").increment(all as u64);
    }
}
