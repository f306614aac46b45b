//! The part of an attempt in which the generator's thread works: hands it the video and listens until there are
//! frames, or there will be none.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use queue::JobError;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use crate::{
    GenerateError, Result,
    attempt::{Attempt, Ended},
    checkpoints::Checkpoint,
    monitor::{Lines, Report, Watched},
    thread::{Job, Made},
    watchdog::Watchdog,
};

/// A generator that has not moved for too long.
pub(crate) struct Hung {
    /// What may still come of it.
    pub(crate) result: oneshot::Receiver<Result<Made, GenerateError>>,
    silence: Duration,
}

impl Hung {
    pub(crate) fn job_error(&self) -> JobError {
        let message =
            format!("the generation came no further for {} seconds and was given up", self.silence.as_secs());
        JobError { code: "worker_hung".to_owned(), message }
    }
}

/// Waits until then, or for ever.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// How the thread's work ended.
enum Heard {
    Made(Result<Made, GenerateError>),
    ThreadGone,
    Hung(Hung),
}

impl Attempt<'_> {
    /// From the prompt, or from the checkpoint of an earlier attempt, to the frames.
    pub(crate) async fn generate(&self) -> Result<Made, Ended> {
        let image = self.read_image().await?;
        let checkpoint = self.read_checkpoint().await;
        let resumes = checkpoint.is_some();
        let heard = match self.run_thread(image.clone(), checkpoint).await {
            Heard::Made(Err(error @ GenerateError::BadCheckpoint(_))) if resumes => {
                tracing::warn!(%error, "the video starts over");
                self.drop_checkpoint().await;
                self.run_thread(image, None).await
            }
            heard => heard,
        };
        if self.stop.cancel.is_cancelled() && !matches!(heard, Heard::Hung(_)) {
            self.note_cancel_latency().await;
        }
        match heard {
            Heard::Made(Ok(_)) if self.stop.cancel.is_cancelled() => Err(Ended::Stopped),
            Heard::Made(Ok(made)) => Ok(made),
            Heard::Made(Err(GenerateError::Interrupted))
                if self.stop.is_requested() || self.stop.park.is_cancelled() =>
            {
                Err(Ended::Stopped)
            }
            Heard::Made(Err(error)) => Err(self.ended_by(error)),
            Heard::ThreadGone => {
                Err(self.ended_by(GenerateError::Internal("the generator's thread is gone".to_owned())))
            }
            Heard::Hung(hung) => Err(Ended::Hung(hung)),
        }
    }

    async fn run_thread(&self, image: Option<Arc<Vec<u8>>>, checkpoint: Option<Checkpoint>) -> Heard {
        let (reports, heard) = mpsc::unbounded_channel();
        let (checkpoints, new_checkpoint) = watch::channel(None);
        let (previews, new_preview) = watch::channel(None);
        let (done, result) = oneshot::channel();
        let calls = Arc::new(AtomicU64::new(0));
        let config = self.runner.config;
        let params = self.video.params.clone();
        let expected =
            self.runner.queue.step_ms(&params).map(|ms| Duration::from_secs_f64(ms.max(0.0) / 1000.0));
        let watchdog = Watchdog::new(config.hang_factor, config.hang_min, expected, Arc::clone(&calls));
        let watched = Watched {
            video_id: self.video.id,
            total_steps: params.num_inference_steps,
            resumed_from: checkpoint.as_ref().map(|checkpoint| checkpoint.step),
            stop: self.stop.clone(),
            queue: self.runner.queue.clone(),
            config,
        };
        let job = Job {
            watched,
            model: self.video.model.clone(),
            params,
            image,
            checkpoint: checkpoint.map(|checkpoint| checkpoint.state),
            low_memory: self.video.low_memory,
            lines: Lines { reports, checkpoints, previews, calls },
            done,
        };
        // If the thread is gone, so is the job with its end of `result`, which says it.
        let _ = self.runner.generating.jobs.send(job);
        // The writers end with the thread's job, so that what was taken is kept before the row is settled.
        let (heard, (), ()) = tokio::join!(
            self.listen(heard, result, watchdog),
            self.write_checkpoints(new_checkpoint),
            self.show_previews(new_preview)
        );
        heard
    }

    async fn listen(
        &self,
        mut reports: mpsc::UnboundedReceiver<Report>,
        mut result: oneshot::Receiver<Result<Made, GenerateError>>,
        mut watchdog: Watchdog,
    ) -> Heard {
        loop {
            tokio::select! {
                // All reports before the result, as they were sent.
                biased;
                Some(report) = reports.recv() => {
                    watchdog.moved(report.progress.stage, report.step);
                    self.report(report.progress).await;
                }
                made = &mut result => return made.map_or(Heard::ThreadGone, Heard::Made),
                () = until(watchdog.deadline()) => {
                    if let Some(silence) = watchdog.silence() {
                        tracing::error!(?silence, "the generator hangs");
                        self.stop.hung.cancel();
                        return Heard::Hung(Hung { result, silence });
                    }
                }
            }
        }
    }

    async fn show_previews(&self, mut newest: watch::Receiver<Option<Arc<(u32, crate::Picture)>>>) {
        while self.is_news(&mut newest).await {
            let Some(shot) = newest.borrow_and_update().clone() else { continue };
            let step = shot.0;
            let coded = tokio::task::spawn_blocking(move || {
                let (_, picture) = &*shot;
                media::jpeg(&picture.rgb, picture.width, picture.height)
            });
            match coded.await {
                Ok(Ok(jpeg)) => self.runner.queue.show_preview(&self.lease, step, jpeg),
                Ok(Err(error)) => tracing::warn!(%error, "a preview cannot be shown"),
                Err(error) => tracing::warn!(%error, "a preview cannot be shown"),
            }
        }
    }

    /// Waits for the next of a kind; false if no more will come, or none is worth waiting for.
    pub(crate) async fn is_news<T>(&self, newest: &mut watch::Receiver<Option<Arc<T>>>) -> bool {
        tokio::select! {
            changed = newest.changed() => changed.is_ok(),
            () = self.stop.hung.cancelled() => false,
        }
    }

    /// Notes how long the generator's thread was still busy for a video that nobody wants any more.
    async fn note_cancel_latency(&self) {
        let now_ms = self.runner.queue.now_ms();
        let Ok(video) = self.runner.queue.get(self.video.id).await else { return };
        let Some(requested_at_ms) = video.cancel_requested_at_ms else { return };
        let latency = Duration::from_millis((now_ms - requested_at_ms).max(0) as u64);
        metrics::histogram!("cogvideox_cancel_latency_seconds").record(latency);
        tracing::info!(latency_ms = latency.as_millis() as u64, "the generator is free after a cancellation");
    }
}
