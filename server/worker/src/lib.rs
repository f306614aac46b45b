//! The loop that turns waiting videos into files: claim, generate, encode, store, complete.
//!
//! It joins the queue, a [`Generator`], `media` and the store, and promises that every claimed video is settled: as
//! completed once its file is on the disk, as failed with a code, as cancelled, or handed back to the queue when the
//! server stops. While it denoises, checkpoints are kept, so that whatever ends an attempt costs little: the next one
//! goes on from the last. A worker whose lease is gone drops what it has. The generator is somebody else's: this crate knows
//! no model and no HTTP.

mod attempt;
mod cadence;
mod checkpoints;
mod error;
mod files;
mod generation;
mod generator;
mod monitor;
mod progress;
mod pulse;
mod runner;
mod settle;
mod thread;
mod trace;
mod watchdog;

use std::{sync::Mutex, time::Duration};

pub use checkpoints::key as checkpoint_key;
pub use error::{Error, Result};
pub use files::provenance;
pub use generator::{DenoiseState, GenerateError, Generated, Generator, Picture, Progress, Request};
pub use pulse::Pulse;
use queue::{CancellationToken, Queue};
use store::VideoStore;
use tokio::{sync::watch, task::JoinHandle};

/// What an operator decides about a worker.
#[derive(Debug, Clone, Copy)]
pub struct WorkerConfig {
    /// How often the lease is renewed: a fraction of the queue's `lease_ms`.
    pub heartbeat: Duration,
    /// How long an idle worker waits before it looks again unasked.
    pub poll: Duration,
    /// How long an interrupted generator has to come back: then a stopping server hands the video back without it,
    /// and one that hung makes the worker give up.
    pub interrupt_wait: Duration,
    /// The picture quality of the files.
    pub quality: media::Quality,
    /// Whether the files tell what made them.
    pub metadata: bool,
    /// The least time between two checkpoints of a video, 10 seconds if in doubt. They are taken more rarely where
    /// they would cost more than 1 % of the denoising time. Zero: after every step, whatever it costs. `None`: never.
    pub checkpoint_interval: Option<Duration>,
    /// The least time between two previews of a video, 1 second if in doubt. They are taken more rarely where they
    /// would cost more than 2 % of the denoising time. Zero: after every step, whatever it costs.
    pub preview_interval: Duration,
    /// A generator hangs that comes no further for as long as so many steps take.
    pub hang_factor: u32,
    /// But never before so long.
    pub hang_min: Duration,
}

/// Where a worker's files lie.
#[derive(Debug, Clone)]
pub struct Stores {
    /// Finished videos and their pictures.
    pub videos: VideoStore,
    /// The checkpoints of videos that are not finished, `<video id>.ckpt`.
    pub checkpoints: VideoStore,
}

/// Whether videos are being worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The generator is being built.
    Starting,
    /// Videos are made as they come.
    Ready,
    /// No video will be made before a restart, for this reason.
    Failed(String),
    /// The server is stopping.
    Stopping,
}

/// A running worker. Dropping it lets the worker go on; [`WorkerHandle::shutdown`] stops it.
#[derive(Debug)]
pub struct WorkerHandle {
    /// Whether videos are being worked on, as it changes.
    pub ready: watch::Receiver<Readiness>,
    /// When the worker last showed that it lives.
    pub pulse: Pulse,
    readiness: watch::Sender<Readiness>,
    stopping: CancellationToken,
    interrupt: CancellationToken,
    loop_: JoinHandle<()>,
}

/// Starts a worker in the current runtime.
///
/// `build` makes the generator on the thread that will own it, and makes another if the first panics; its error is a
/// sentence for the operator.
///
/// # Errors
/// [`Error::Thread`] if the system gives no thread.
pub fn start<G, B>(config: WorkerConfig, queue: Queue, stores: Stores, build: B) -> Result<WorkerHandle>
where
    G: Generator + 'static,
    B: FnMut() -> Result<G, String> + Send + 'static,
{
    let (readiness, ready) = watch::channel(Readiness::Starting);
    let (stopping, interrupt) = (CancellationToken::new(), CancellationToken::new());
    let heart = pulse::Heart::new();
    let pulse = heart.pulse();
    let runner = runner::Runner {
        config,
        queue,
        stores,
        owner: queue::Owner::unique(),
        jobs: thread::spawn(build, readiness.clone())?,
        readiness: readiness.clone(),
        heart,
        video_seconds: Mutex::default(),
        stopping: stopping.clone(),
        interrupt: interrupt.clone(),
    };
    let broken = readiness.clone();
    let loop_ = tokio::spawn(async move {
        // A task of its own, so that even a panic of the loop itself is seen in the readiness.
        if let Err(error) = tokio::spawn(runner.run()).await {
            tracing::error!(%error, "the worker's loop broke");
            broken.send_replace(Readiness::Failed("the worker's loop broke".to_owned()));
        }
    });
    Ok(WorkerHandle { ready, pulse, readiness, stopping, interrupt, loop_ })
}

impl WorkerHandle {
    /// Stops claiming at once. A video that is being denoised is handed back to its place in the queue at its next
    /// finished step, with a checkpoint. One that is further, or cannot be kept, has `grace` to be finished; then it
    /// is interrupted and handed back as well.
    pub async fn shutdown(self, grace: Duration) {
        self.stopping.cancel();
        // After it, so that who sees this knows that the next finished step is the last.
        self.readiness.send_replace(Readiness::Stopping);
        let mut ended = self.loop_;
        if tokio::time::timeout(grace, &mut ended).await.is_err() {
            self.interrupt.cancel();
            // It ends after `interrupt_wait` at the latest; a panic in it was reported where it happened.
            let _ = ended.await;
        }
    }
}
