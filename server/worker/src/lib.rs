//! The loop that turns waiting videos into files: claim, generate, encode, store, complete. One for each device, all on
//! the same queue.
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
mod readiness;
mod runner;
mod settle;
mod thread;
mod trace;
mod watchdog;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

pub use checkpoints::key as checkpoint_key;
pub use error::{Error, Result};
pub use files::provenance;
pub use generator::{DenoiseState, GenerateError, Generated, Generator, Picture, Progress, Request};
pub use pulse::Pulse;
use queue::{CancellationToken, Queue};
pub use readiness::Readiness;
use readiness::{Board, Slot};
use store::VideoStore;
use tokio::{sync::watch, task::JoinHandle};
use tracing::Instrument as _;

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

/// A device and how to come to a generator on it.
#[derive(Debug)]
pub struct Device<B> {
    /// Its name, for logs, metrics and whoever asks; several workers may have the same.
    pub name: String,
    /// Makes the generator on the thread that will own it, and makes another if that one panics or loses its device;
    /// its error is a sentence for the operator.
    pub build: B,
}

/// A running worker, to be looked at.
#[derive(Debug)]
pub struct Worker {
    /// Its device.
    pub device: String,
    /// Whether it works on videos, as it changes.
    pub ready: watch::Receiver<Readiness>,
    /// When it last showed that it lives.
    pub pulse: Pulse,
}

/// The running workers. Dropping this lets them go on; [`Workers::shutdown`] stops them.
#[derive(Debug)]
pub struct Workers {
    /// Whether videos are being worked on, by what all come to: ready as long as one is, failed when all have, hung
    /// when one is. Also told when only a part of it changed.
    pub ready: watch::Receiver<Readiness>,
    /// Each of them, in the order of the devices.
    pub each: Vec<Worker>,
    board: Arc<Board>,
    stopping: CancellationToken,
    interrupt: CancellationToken,
    loops: Vec<JoinHandle<()>>,
}

/// Starts a worker for each of `devices` in the current runtime, all on the same queue. Each has a thread and a
/// generator of its own, and fails alone.
///
/// # Errors
/// [`Error::Thread`] if the system gives no thread.
pub fn start<G, B>(
    config: WorkerConfig,
    queue: &Queue,
    stores: &Stores,
    devices: Vec<Device<B>>,
) -> Result<Workers>
where
    G: Generator + 'static,
    B: FnMut() -> Result<G, String> + Send + 'static,
{
    let board = Board::new(devices.iter().map(|device| device.name.clone()).collect(), queue.clone());
    let (stopping, interrupt) = (CancellationToken::new(), CancellationToken::new());
    let owner = queue::Owner::unique();
    let (mut each, mut loops) = (Vec::new(), Vec::new());
    for (device, slot) in devices.into_iter().zip(board.slots()) {
        let heart = pulse::Heart::new();
        each.push(Worker { device: device.name, ready: slot.subscribe(), pulse: heart.pulse() });
        let runner = runner::Runner {
            config,
            queue: queue.clone(),
            stores: stores.clone(),
            owner: owner.worker(slot.number()),
            generating: thread::spawn(device.build, slot.clone())?,
            slot: slot.clone(),
            heart,
            video_seconds: Mutex::default(),
            stopping: stopping.clone(),
            interrupt: interrupt.clone(),
        };
        loops.push(tokio::spawn(keep_running(runner, slot)));
    }
    Ok(Workers { ready: board.subscribe(), each, board, stopping, interrupt, loops })
}

async fn keep_running(runner: runner::Runner, slot: Slot) {
    // A task of its own, so that even a panic of the loop itself is seen in the readiness.
    let loop_ = tokio::spawn(runner.run().instrument(slot.span()));
    if let Err(error) = loop_.await {
        tracing::error!(%error, worker = slot.number(), device = slot.device(), "the worker's loop broke");
        slot.become_(Readiness::Failed("the worker's loop broke".to_owned()));
    }
}

impl Workers {
    /// Stops claiming at once. Videos that are being denoised are handed back to their place in the queue at their
    /// next finished step, with a checkpoint. One that is further, or cannot be kept, has `grace` to be finished; then
    /// it is interrupted and handed back as well.
    pub async fn shutdown(self, grace: Duration) {
        self.stopping.cancel();
        // After it, so that who sees this knows that the next finished step is the last.
        self.board.stop();
        let ended = join_all(self.loops);
        tokio::pin!(ended);
        if tokio::time::timeout(grace, &mut ended).await.is_err() {
            self.interrupt.cancel();
            // They end after `interrupt_wait` at the latest; a panic in one was reported where it happened.
            ended.await;
        }
    }
}

async fn join_all(loops: Vec<JoinHandle<()>>) {
    for loop_ in loops {
        let _ = loop_.await;
    }
}
