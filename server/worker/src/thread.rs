//! The thread that owns the generator for its whole life. Commands come in over a channel, results go out over
//! another; nothing here is async, and a panic costs one video, not the thread.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use queue::{CancellationToken, VideoParams};
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
};

use crate::{
    GenerateError, Generated, Generator, Progress, Readiness, Request, Result,
    monitor::{Lines, Monitor, Watched},
    progress::StageClock,
    readiness::Slot,
};

/// A video to generate.
pub(crate) struct Job {
    pub(crate) watched: Watched,
    pub(crate) model: String,
    pub(crate) params: VideoParams,
    pub(crate) image: Option<Arc<Vec<u8>>>,
    pub(crate) checkpoint: Option<Vec<u8>>,
    pub(crate) low_memory: bool,
    pub(crate) lines: Lines,
    pub(crate) done: oneshot::Sender<Result<Made, GenerateError>>,
}

/// What a generator made, and the clock of its stages, to be gone on with.
pub(crate) struct Made {
    pub(crate) generated: Generated,
    pub(crate) clock: StageClock,
}

/// Why a video may have to stop.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    /// Somebody asked for it to be cancelled.
    pub(crate) cancel: CancellationToken,
    /// The server is stopping: the next finished step is the last one, if it can be kept.
    pub(crate) park: CancellationToken,
    /// The server has waited long enough.
    pub(crate) interrupt: CancellationToken,
    /// The row is no longer this worker's.
    pub(crate) lost: CancellationToken,
    /// The generator has not moved for too long.
    pub(crate) hung: CancellationToken,
}

impl Stop {
    pub(crate) fn is_requested(&self) -> bool {
        [&self.cancel, &self.interrupt, &self.lost, &self.hung]
            .into_iter()
            .any(CancellationToken::is_cancelled)
    }
}

/// The thread as the worker's loop sees it.
pub(crate) struct Generating {
    /// Takes videos, one after the other.
    pub(crate) jobs: Sender<Job>,
    /// The models that are in memory, as of the last video.
    pub(crate) loaded: watch::Receiver<Vec<String>>,
}

/// Starts the thread; it ends when the sender of its jobs is dropped. It keeps time by the runtime's clock.
pub(crate) fn spawn<G: Generator>(
    build: impl FnMut() -> Result<G, String> + Send + 'static,
    slot: Slot,
) -> Result<Generating> {
    let (sender, jobs) = mpsc::channel();
    let (tell_loaded, loaded) = watch::channel(Vec::new());
    let runtime = Handle::current();
    thread::Builder::new().name(format!("generator-{}", slot.number())).spawn(move || {
        let _clock = runtime.enter();
        let _worker = slot.span().entered();
        run(build, &jobs, &slot, &tell_loaded);
    })?;
    Ok(Generating { jobs: sender, loaded })
}

fn run<G: Generator>(
    mut build: impl FnMut() -> Result<G, String>,
    jobs: &Receiver<Job>,
    slot: &Slot,
    loaded: &watch::Sender<Vec<String>>,
) {
    loop {
        let built = catch_unwind(AssertUnwindSafe(&mut build)).unwrap_or_else(|panic| Err(words(&*panic)));
        let mut generator = match built {
            Ok(generator) => generator,
            Err(reason) => {
                tracing::error!(%reason, "the generator cannot be built");
                return slot.become_(Readiness::Failed(reason));
            }
        };
        loaded.send_replace(generator.loaded());
        slot.become_(Readiness::Ready);
        loop {
            let Ok(job) = jobs.recv() else { return };
            let made = catch_unwind(AssertUnwindSafe(|| generate(&mut generator, &job, slot)));
            let broken = matches!(made, Err(_) | Ok(Err(GenerateError::DeviceLost(_))));
            if broken {
                // Said before the result, so that the loop does not take the next video for a broken generator.
                slot.become_(Readiness::Starting);
            }
            // Before the result too: the loop claims its next video by it.
            loaded.send_replace(generator.loaded());
            let made = made.unwrap_or_else(|panic| Err(GenerateError::Internal(words(&*panic))));
            // Nobody listens when the server stopped waiting.
            let _ = job.done.send(made);
            if broken {
                metrics::counter!("cogvideox_worker_restarts_total").increment(1);
                break;
            }
        }
        // Whatever state it was left in, nobody meets it: a new one is built.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(generator)));
    }
}

fn generate(generator: &mut impl Generator, job: &Job, slot: &Slot) -> Result<Made, GenerateError> {
    let mut monitor = Monitor::new(&job.watched, &job.lines);
    let request = Request {
        video_id: job.watched.video_id,
        model: &job.model,
        params: &job.params,
        image: job.image.as_ref().map(|image| image.as_slice()),
        checkpoint: job.checkpoint.as_deref(),
        low_memory: job.low_memory,
    };
    let generated = generator.generate(&request, &mut |report: Progress<'_>| monitor.hear(report))?;
    if let Some(bytes) = generated.peak_memory_bytes {
        let labels = [
            ("kind", "peak".to_owned()),
            ("worker", slot.number().to_string()),
            ("device", slot.device().to_owned()),
        ];
        metrics::gauge!("cogvideox_gpu_memory_bytes", &labels).set(bytes as f64);
    }
    Ok(Made { generated, clock: monitor.into_clock() })
}

fn words(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", words.unwrap_or("without a message"))
}
