//! One attempt at one video, from the claim to the settlement.

use std::{convert::Infallible, future::pending};

use queue::{CancellationToken, Claim, Finished, JobError, Lease, Timings, Video};
use tokio::time::{sleep, timeout};

use crate::{
    GenerateError, Readiness, Result,
    generation::Hung,
    progress,
    runner::Runner,
    settle::Settlement,
    thread::{Made, Stop},
    trace::{self, StageSpan},
};

/// What the user is told about a video that is made in the other mode.
const LOW_MEMORY: &str = "the device's memory did not suffice, so the video is decoded in tiles: its pixels may differ \
                          slightly from those of other videos of the same parameters";

/// A video in work.
pub(crate) struct Attempt<'a> {
    pub(crate) runner: &'a Runner,
    pub(crate) video: Video,
    pub(crate) lease: Lease,
    pub(crate) stop: Stop,
    pub(crate) stage: StageSpan,
}

/// Why an attempt made no file.
pub(crate) enum Ended {
    /// It was told to stop; its [`Stop`] knows why.
    Stopped,
    Failed(JobError),
    /// For the first time, so that there is another mode to try.
    OutOfMemory,
    /// The generator is of no use any more; the video is not to blame for it, or not yet.
    DeviceLost,
    /// The generator may never come back.
    Hung(Hung),
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(runner: &'a Runner, claim: Claim) -> Self {
        let stop = Stop {
            cancel: claim.cancel,
            park: runner.stopping.clone(),
            interrupt: runner.interrupt.clone(),
            lost: CancellationToken::new(),
            hung: CancellationToken::new(),
        };
        Self { runner, video: claim.video, lease: claim.lease, stop, stage: StageSpan::default() }
    }

    /// Sees the video through, and does not come back before the generator can take the next one.
    pub(crate) async fn run(self) {
        tracing::info!(checkpoint_step = self.video.checkpoint_step, "video started");
        let ended = tokio::select! {
            biased;
            ended = self.make() => ended,
            never = self.keep_lease() => match never {},
            () = self.give_up() => Err(Ended::Stopped),
        };
        let (ended, hung) = match ended {
            Err(Ended::Hung(hung)) => (Err(Ended::Failed(hung.job_error())), Some(hung)),
            ended => (ended, None),
        };
        self.stage.leave();
        match ended {
            Ok(finished) => self.settle(Settlement::Complete(Box::new(finished))).await,
            Err(_) if self.stop.lost.is_cancelled() => {
                tracing::warn!("the lease is lost, the video is dropped");
                trace::note_outcome("lease lost");
                self.remove_files().await;
            }
            Err(_) if self.stop.cancel.is_cancelled() => self.settle(Settlement::Cancel).await,
            Err(Ended::Failed(error)) => self.settle(Settlement::Fail(error)).await,
            Err(Ended::OutOfMemory) => self.settle(Settlement::RequeueInLowMemory(LOW_MEMORY)).await,
            Err(Ended::DeviceLost) => self.settle(Settlement::Abandon).await,
            Err(Ended::Stopped | Ended::Hung(_)) => self.settle(Settlement::Requeue).await,
        }
        if let Some(hung) = hung {
            self.await_return(hung).await;
        }
    }

    /// From the prompt to the files.
    async fn make(&self) -> Result<Finished, Ended> {
        let Made { generated, mut clock } = self.generate().await?;

        let encoding = progress::encoding(self.video.params.num_inference_steps);
        clock.enter(encoding.stage);
        self.report(encoding).await;
        let files = self.encode(generated.frames).await?;
        if self.stop.cancel.is_cancelled() || self.stop.lost.is_cancelled() {
            return Err(Ended::Stopped);
        }

        let storing = progress::storing(self.video.params.num_inference_steps);
        clock.enter(storing.stage);
        self.report(storing).await;
        let output = self.store(files).await?;
        let waited_ms = self.video.started_at_ms.map(|started| started - self.video.created_at_ms);
        let queue_ms = waited_ms.map(|ms| ms.max(0) as u64);
        let timings = Timings { queue_ms, ..clock.finish() };
        Ok(Finished { output, timings, peak_memory_bytes: generated.peak_memory_bytes })
    }

    pub(crate) async fn report(&self, progress: queue::Progress) {
        self.stage.enter(progress.stage);
        match self.runner.queue.set_progress(&self.lease, progress).await {
            Ok(()) => {}
            Err(queue::Error::LeaseLost { .. }) => self.stop.lost.cancel(),
            // The next report tells more than this one did.
            Err(error) => tracing::warn!(%error, "progress is not written"),
        }
    }

    /// Renews the lease for as long as it is awaited.
    async fn keep_lease(&self) -> Infallible {
        loop {
            sleep(self.runner.config.heartbeat).await;
            match self.runner.queue.heartbeat(&self.lease).await {
                Ok(heartbeat) => {
                    self.runner.heart.beat();
                    if heartbeat.cancel_requested {
                        self.stop.cancel.cancel();
                    }
                }
                Err(queue::Error::LeaseLost { .. }) => {
                    self.stop.lost.cancel();
                    return pending().await;
                }
                Err(error) => tracing::warn!(%error, "the heartbeat is not written"),
            }
        }
    }

    /// Ends when a stopping server has waited long enough for an interrupted generator.
    async fn give_up(&self) {
        self.stop.interrupt.cancelled().await;
        sleep(self.runner.config.interrupt_wait).await;
        tracing::warn!("the generator does not stop, the video is handed back without it");
    }

    /// Waits for a generator that was given up; one that stays away makes no more videos, and only a new process can.
    async fn await_return(&self, hung: Hung) {
        if timeout(self.runner.config.interrupt_wait, hung.result).await.is_ok() {
            return tracing::warn!("the generator came back");
        }
        tracing::error!("the generator hangs and does not stop: no video can be made before a restart");
        self.runner.slot.become_(Readiness::Hung("the generator hangs and does not stop".to_owned()));
    }

    /// How a generator's error ends the attempt.
    pub(crate) fn ended_by(&self, error: GenerateError) -> Ended {
        if matches!(error, GenerateError::OutOfMemory(_)) {
            metrics::counter!("cogvideox_oom_total").increment(1);
            if !self.video.low_memory {
                tracing::warn!(%error, "the video is tried again in the mode that takes less memory");
                return Ended::OutOfMemory;
            }
        }
        tracing::error!(%error, "the generation failed");
        if matches!(error, GenerateError::DeviceLost(_)) {
            return Ended::DeviceLost;
        }
        Ended::Failed(error.into_job_error())
    }
}
