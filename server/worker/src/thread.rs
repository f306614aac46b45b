//! The thread that owns the generator for its whole life. Commands come in over a channel, results go out over
//! another; nothing here is async, and a panic costs one video, not the thread.

use std::{
    any::Any,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use queue::{CancellationToken, VideoParams};
use tokio::sync::{mpsc::UnboundedSender, oneshot, watch};

use crate::{GenerateError, Generator, Progress, Readiness, Result, progress, progress::StageClock};

/// A video to generate.
pub(crate) struct Job {
    pub(crate) params: VideoParams,
    pub(crate) stop: Stop,
    pub(crate) reports: UnboundedSender<queue::Progress>,
    pub(crate) done: oneshot::Sender<Result<Generated, GenerateError>>,
}

/// What a generator made, and the clock of its stages, to be gone on with.
pub(crate) struct Generated {
    pub(crate) frames: media::Frames,
    pub(crate) clock: StageClock,
}

/// Why a video may have to stop.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    /// Somebody asked for it to be cancelled.
    pub(crate) cancel: CancellationToken,
    /// The server is stopping.
    pub(crate) interrupt: CancellationToken,
    /// The row is no longer this worker's.
    pub(crate) lost: CancellationToken,
}

impl Stop {
    pub(crate) fn is_requested(&self) -> bool {
        self.cancel.is_cancelled() || self.interrupt.is_cancelled() || self.lost.is_cancelled()
    }
}

/// Starts the thread; it ends when the sender of its jobs is dropped.
pub(crate) fn spawn<G: Generator>(
    build: impl FnMut() -> Result<G, String> + Send + 'static,
    readiness: watch::Sender<Readiness>,
) -> Result<Sender<Job>> {
    let (sender, jobs) = mpsc::channel();
    thread::Builder::new().name("generator".to_owned()).spawn(move || run(build, &jobs, &readiness))?;
    Ok(sender)
}

fn run<G: Generator>(
    mut build: impl FnMut() -> Result<G, String>,
    jobs: &Receiver<Job>,
    readiness: &watch::Sender<Readiness>,
) {
    loop {
        let built = catch_unwind(AssertUnwindSafe(&mut build)).unwrap_or_else(|panic| Err(words(&*panic)));
        let mut generator = match built {
            Ok(generator) => generator,
            Err(reason) => {
                tracing::error!(%reason, "the generator cannot be built");
                return become_(readiness, Readiness::Failed(reason));
            }
        };
        become_(readiness, Readiness::Ready);
        loop {
            let Ok(job) = jobs.recv() else { return };
            let made = catch_unwind(AssertUnwindSafe(|| generate(&mut generator, &job)));
            let panicked = made.is_err();
            if panicked {
                // Said before the result, so that the loop does not take the next video for a broken generator.
                become_(readiness, Readiness::Starting);
            }
            let made = made.unwrap_or_else(|panic| Err(GenerateError::Internal(words(&*panic))));
            // Nobody listens when the server stopped waiting.
            let _ = job.done.send(made);
            if panicked {
                break;
            }
        }
        // Whatever state the panic left it in, nobody meets it: a new one is built.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(generator)));
    }
}

fn generate(generator: &mut impl Generator, job: &Job) -> Result<Generated, GenerateError> {
    let mut clock = StageClock::default();
    let frames = generator.generate(&job.params, &mut |report: Progress| {
        if let Some(report) = progress::of_generator(report, job.params.num_inference_steps) {
            clock.enter(report.stage);
            // Nobody listens when the server stopped waiting, and then `stop` says so.
            let _ = job.reports.send(report);
        }
        if job.stop.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(Generated { frames, clock })
}

/// Moves the readiness on, unless the server is stopping: that is final.
fn become_(readiness: &watch::Sender<Readiness>, next: Readiness) {
    readiness.send_if_modified(|now| {
        let goes_on = *now != Readiness::Stopping;
        if goes_on {
            *now = next;
        }
        goes_on
    });
}

fn words(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", words.unwrap_or("without a message"))
}
