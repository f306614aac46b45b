//! The loop that turns waiting videos into files: claim, generate, encode, store, complete.
//!
//! It joins the queue, a [`Generator`], `media` and the store, and promises that every claimed video is settled: as
//! completed once its file is on the disk, as failed with a code, as cancelled, or handed back to the queue when the
//! server stops. A worker whose lease is gone drops what it has. The generator is somebody else's: this crate knows
//! no model and no HTTP.

mod error;
mod generator;
mod progress;
mod runner;
mod thread;

use std::time::Duration;

pub use error::{Error, Result};
pub use generator::{GenerateError, Generator, Progress};
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
    /// How long a stopping server waits for an interrupted generator before it hands the video back without it.
    pub interrupt_wait: Duration,
    /// The picture quality of the files.
    pub quality: media::Quality,
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
pub fn start<G, B>(config: WorkerConfig, queue: Queue, store: VideoStore, build: B) -> Result<WorkerHandle>
where
    G: Generator + 'static,
    B: FnMut() -> Result<G, String> + Send + 'static,
{
    let (readiness, ready) = watch::channel(Readiness::Starting);
    let (stopping, interrupt) = (CancellationToken::new(), CancellationToken::new());
    let runner = runner::Runner {
        config,
        queue,
        store,
        owner: queue::Owner::unique(),
        jobs: thread::spawn(build, readiness.clone())?,
        ready: ready.clone(),
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
    Ok(WorkerHandle { ready, readiness, stopping, interrupt, loop_ })
}

impl WorkerHandle {
    /// Stops claiming at once and gives the video at hand `grace` to be finished; then interrupts it and hands it
    /// back to its place in the queue.
    pub async fn shutdown(self, grace: Duration) {
        self.readiness.send_replace(Readiness::Stopping);
        self.stopping.cancel();
        let mut ended = self.loop_;
        if tokio::time::timeout(grace, &mut ended).await.is_err() {
            self.interrupt.cancel();
            // It ends after `interrupt_wait` at the latest; a panic in it was reported where it happened.
            let _ = ended.await;
        }
    }
}
