//! The loop: takes a video, sees it through, and writes to its row how it ended.
//!
//! Relies on the queue's fencing: it may write to a row that is no longer its own, and is told so. A video that it
//! cannot settle because the database fails loses its heartbeat, and a later rescue settles it.

use std::{convert::Infallible, future::pending, sync::mpsc::Sender, time::Duration};

use queue::{CancellationToken, Claim, JobError, Lease, Output, Owner, Queue, Timings, Video};
use store::VideoStore;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
    time::sleep,
};
use tracing::Instrument as _;

use crate::{
    GenerateError, Readiness, Result, WorkerConfig, progress,
    thread::{Generated, Job, Stop},
};

/// How long to wait before each new try to settle a video in a failing database.
const SETTLE_RETRIES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_millis(2500)];

pub(crate) struct Runner {
    pub(crate) config: WorkerConfig,
    pub(crate) queue: Queue,
    pub(crate) store: VideoStore,
    pub(crate) owner: Owner,
    pub(crate) jobs: Sender<Job>,
    pub(crate) ready: watch::Receiver<Readiness>,
    pub(crate) stopping: CancellationToken,
    pub(crate) interrupt: CancellationToken,
}

/// A video in work.
struct Attempt {
    video: Video,
    lease: Lease,
    stop: Stop,
}

/// Why an attempt made no file.
enum Ended {
    /// It was told to stop; its [`Stop`] knows why.
    Stopped,
    Failed(JobError),
}

/// What to write to the row in the end.
#[derive(Clone)]
enum Settlement {
    Complete(Output, Timings),
    Fail(JobError),
    Cancel,
    Requeue,
}

impl Runner {
    pub(crate) async fn run(mut self) {
        while !self.stopping.is_cancelled() {
            // Also between videos, because nobody else would find a row that this worker could not settle.
            if let Err(error) = self.queue.rescue(&self.owner).await {
                tracing::error!(%error, "cannot look for videos that lost their worker");
            }
            if !self.generator_is_ready().await {
                return;
            }
            match self.queue.claim(&self.owner).await {
                Ok(Some(claim)) => {
                    let span = tracing::info_span!("video", job.id = %claim.video.id, job.attempt = claim.video.attempt);
                    self.attempt(claim).instrument(span).await;
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
    async fn generator_is_ready(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => false,
            state = self.ready.wait_for(|state| *state != Readiness::Starting) => {
                state.is_ok_and(|state| *state == Readiness::Ready)
            }
        }
    }

    async fn attempt(&self, claim: Claim) {
        tracing::info!("video started");
        let stop =
            Stop { cancel: claim.cancel, interrupt: self.interrupt.clone(), lost: CancellationToken::new() };
        let attempt = Attempt { video: claim.video, lease: claim.lease, stop };
        let ended = tokio::select! {
            biased;
            ended = self.make(&attempt) => ended,
            never = self.keep_lease(&attempt) => match never {},
            () = self.give_up() => Err(Ended::Stopped),
        };
        let settlement = match ended {
            Ok((output, timings)) => Settlement::Complete(output, timings),
            Err(Ended::Failed(error)) => Settlement::Fail(error),
            Err(Ended::Stopped) if attempt.stop.lost.is_cancelled() => {
                tracing::warn!("the lease is lost, the video is dropped");
                return;
            }
            Err(Ended::Stopped) if attempt.stop.cancel.is_cancelled() => Settlement::Cancel,
            Err(Ended::Stopped) => Settlement::Requeue,
        };
        self.settle(&attempt.lease, settlement).await;
    }

    /// From the prompt to the file.
    async fn make(&self, attempt: &Attempt) -> Result<(Output, Timings), Ended> {
        let params = &attempt.video.params;
        let Generated { frames, mut clock } = self.generate(attempt).await?;

        let encoding = progress::encoding(params.num_inference_steps);
        clock.enter(encoding.stage);
        self.report(attempt, encoding).await;
        let options = media::EncodeOptions { fps: params.fps, quality: self.config.quality };
        let encoded = spawn_blocking(move || media::encode_mp4(&frames, &options)).await;
        let mp4 = match encoded {
            Ok(Ok(mp4)) => mp4,
            Ok(Err(error)) => return Err(failed("encode_failed", "the video could not be encoded", &error)),
            Err(error) => return Err(failed("encode_failed", "the video could not be encoded", &error)),
        };
        if attempt.stop.cancel.is_cancelled() || attempt.stop.lost.is_cancelled() {
            return Err(Ended::Stopped);
        }

        let storing = progress::storing(params.num_inference_steps);
        clock.enter(storing.stage);
        self.report(attempt, storing).await;
        // One name an attempt: a worker that lost its lease must never remove or replace its successor's file.
        let key = format!("{}_{}.mp4", attempt.video.id, attempt.video.attempt);
        let stored = self.store.put(&key, mp4).await;
        let stored =
            stored.map_err(|error| failed("storage_failed", "the file could not be stored", &error))?;
        let output = Output { key, bytes: stored.bytes, sha256: stored.sha256 };
        let waited_ms = attempt.video.started_at_ms.map(|started| started - attempt.video.created_at_ms);
        let queue_ms = waited_ms.map(|ms| ms.max(0) as u64);
        Ok((output, Timings { queue_ms, ..clock.finish() }))
    }

    async fn generate(&self, attempt: &Attempt) -> Result<Generated, Ended> {
        let (reports, mut heard) = mpsc::unbounded_channel();
        let (done, mut result) = oneshot::channel();
        let job = Job { params: attempt.video.params.clone(), stop: attempt.stop.clone(), reports, done };
        // If the thread is gone, so is the job with its end of `result`, which says it.
        let _ = self.jobs.send(job);
        let made = loop {
            tokio::select! {
                // All reports before the result, as they were sent.
                biased;
                Some(report) = heard.recv() => self.report(attempt, report).await,
                made = &mut result => break made,
            }
        };
        match made {
            Ok(Ok(_)) if attempt.stop.cancel.is_cancelled() => Err(Ended::Stopped),
            Ok(Ok(generated)) => Ok(generated),
            Ok(Err(GenerateError::Interrupted)) if attempt.stop.is_requested() => Err(Ended::Stopped),
            Ok(Err(error)) => {
                tracing::error!(%error, "the generation failed");
                Err(Ended::Failed(error.into_job_error()))
            }
            Err(_) => {
                let gone = GenerateError::Internal("the generator's thread is gone".to_owned());
                tracing::error!(error = %gone, "the generation failed");
                Err(Ended::Failed(gone.into_job_error()))
            }
        }
    }

    async fn report(&self, attempt: &Attempt, progress: queue::Progress) {
        match self.queue.set_progress(&attempt.lease, progress).await {
            Ok(()) => {}
            Err(queue::Error::LeaseLost { .. }) => attempt.stop.lost.cancel(),
            // The next report tells more than this one did.
            Err(error) => tracing::warn!(%error, "progress is not written"),
        }
    }

    /// Renews the lease for as long as it is awaited.
    async fn keep_lease(&self, attempt: &Attempt) -> Infallible {
        loop {
            sleep(self.config.heartbeat).await;
            match self.queue.heartbeat(&attempt.lease).await {
                Ok(heartbeat) if heartbeat.cancel_requested => attempt.stop.cancel.cancel(),
                Ok(_) => {}
                Err(queue::Error::LeaseLost { .. }) => {
                    attempt.stop.lost.cancel();
                    return pending().await;
                }
                Err(error) => tracing::warn!(%error, "the heartbeat is not written"),
            }
        }
    }

    /// Ends when a stopping server has waited long enough for an interrupted generator.
    async fn give_up(&self) {
        self.interrupt.cancelled().await;
        sleep(self.config.interrupt_wait).await;
        tracing::warn!("the generator does not stop, the video is handed back without it");
    }

    async fn settle(&self, lease: &Lease, settlement: Settlement) {
        match self.write(lease, &settlement).await {
            Ok(()) => tracing::info!(outcome = settlement.word(), "video settled"),
            Err(queue::Error::CancelRequested(_)) => {
                self.discard(lease, &settlement).await;
                Box::pin(self.settle(lease, Settlement::Cancel)).await;
            }
            Err(error @ queue::Error::LeaseLost { .. }) => {
                tracing::warn!(%error, "the video is dropped");
                self.discard(lease, &settlement).await;
            }
            // The file stays: the write may have happened, and a sweep removes it if not.
            Err(error) => tracing::error!(%error, outcome = settlement.word(), "the video cannot be settled"),
        }
    }

    async fn write(&self, lease: &Lease, settlement: &Settlement) -> queue::Result<()> {
        let mut delays = SETTLE_RETRIES.into_iter();
        loop {
            let written = match settlement.clone() {
                Settlement::Complete(output, timings) => self.queue.complete(lease, output, timings).await,
                Settlement::Fail(error) => self.queue.fail(lease, error).await,
                Settlement::Cancel => self.queue.cancelled(lease).await,
                Settlement::Requeue => self.queue.requeue(lease).await,
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

    /// Removes the file of a completion that did not happen. The row has the last word: a write that reported a
    /// failure may have happened all the same.
    async fn discard(&self, lease: &Lease, settlement: &Settlement) {
        let Settlement::Complete(output, _) = settlement else { return };
        match self.queue.get(lease.video_id()).await {
            Ok(video) if video.output.as_ref() == Some(output) => return,
            Ok(_) | Err(queue::Error::NotFound(_)) => {}
            Err(error) => return tracing::warn!(%error, "the file stays until the next sweep"),
        }
        if let Err(error) = self.store.delete(&output.key).await {
            tracing::warn!(%error, "the file stays until the next sweep");
        }
    }
}

impl Settlement {
    fn word(&self) -> &'static str {
        match self {
            Self::Complete(..) => "completed",
            Self::Fail(_) => "failed",
            Self::Cancel => "cancelled",
            Self::Requeue => "requeued",
        }
    }
}

fn failed(code: &str, message: &str, error: &dyn std::error::Error) -> Ended {
    tracing::error!(%error, "{message}");
    Ended::Failed(JobError { code: code.to_owned(), message: message.to_owned() })
}
