//! What happens on the generator's own thread at each report: the report goes to the worker, a checkpoint or a preview
//! is taken if one is due, and the generator learns whether to stop.
//!
//! Everything here holds the model up, so nothing here waits: bytes and pictures leave over channels that keep only
//! the newest.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use queue::{Queue, VideoId};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    DenoiseState, Picture, Progress, WorkerConfig, cadence::Cadence, progress, progress::StageClock,
    thread::Stop,
};

/// Checkpoints may take this share of the denoising time on the generator's thread.
const CHECKPOINT_SHARE: f64 = 0.01;
/// Previews may take this one.
const PREVIEW_SHARE: f64 = 0.02;
/// What a checkpoint is taken to cost before one was measured: some ten megabytes copied from a device, with room.
const CHECKPOINT_GUESS: Duration = Duration::from_millis(50);
/// What a preview is taken to cost: one frame's latents through a small matrix, with room.
const PREVIEW_GUESS: Duration = Duration::from_millis(10);

/// The generation came further.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) progress: queue::Progress,
    /// What the step took that is finished with it.
    pub(crate) step: Option<Duration>,
}

/// The latents after so many steps.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) step: u32,
    pub(crate) state: Vec<u8>,
}

/// The newest of a kind; none before the first.
pub(crate) type Newest<T> = watch::Sender<Option<Arc<T>>>;

/// Where a monitor's news go. Nobody listens when the worker has given the generator up, and then `stop` says so.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) reports: mpsc::UnboundedSender<Report>,
    pub(crate) checkpoints: Newest<Snapshot>,
    pub(crate) previews: Newest<(u32, Picture)>,
    /// Counts every call, also those that tell nothing.
    pub(crate) calls: Arc<AtomicU64>,
}

/// What a monitor must know of its video.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) video_id: VideoId,
    pub(crate) total_steps: u32,
    /// The steps in the checkpoint that the attempt goes on from.
    pub(crate) resumed_from: Option<u32>,
    pub(crate) stop: Stop,
    pub(crate) queue: Queue,
    pub(crate) config: WorkerConfig,
}

pub(crate) struct Monitor<'a> {
    watched: &'a Watched,
    lines: &'a Lines,
    clock: StageClock,
    told: Option<(queue::Progress, f64)>,
    denoising: Option<Denoising>,
}

/// What is known while the latents lose their noise.
struct Denoising {
    step: u32,
    finished_at: Instant,
    /// The steps in the newest checkpoint.
    kept: Option<u32>,
    checkpoints: Cadence,
    previews: Cadence,
}

impl<'a> Monitor<'a> {
    pub(crate) fn new(watched: &'a Watched, lines: &'a Lines) -> Self {
        Self { watched, lines, clock: StageClock::default(), told: None, denoising: None }
    }

    /// The stages so far.
    pub(crate) fn into_clock(self) -> StageClock {
        self.clock
    }

    /// Hears a report and answers whether to go on.
    pub(crate) fn hear(&mut self, report: Progress<'_>) -> ControlFlow<()> {
        self.lines.calls.fetch_add(1, Ordering::Relaxed);
        let step = match report {
            Progress::Denoise { step, .. } => self.step_took(step),
            _ => None,
        };
        self.tell(report, step);
        if self.watched.stop.is_requested() {
            return ControlFlow::Break(());
        }
        if let Progress::Denoise { step, total_steps, state: Some(state) } = report
            && let Some(denoising) = &mut self.denoising
        {
            let parked = denoising.keep(step, step >= total_steps, state, self.watched, self.lines);
            if parked.is_break() {
                return parked;
            }
            denoising.show(step, state, self.watched, self.lines);
        }
        // Asked once more: what was done may have taken a moment.
        if self.watched.stop.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn tell(&mut self, report: Progress<'_>, step: Option<Duration>) {
        let Some(progress) = progress::of_generator(report, self.watched.total_steps) else { return };
        let fraction = if let Progress::VaeDecode { fraction } = report { fraction } else { 0.0 };
        // The same again is no movement.
        if self.told != Some((progress, fraction)) {
            self.told = Some((progress, fraction));
            self.clock.enter(progress.stage);
            let _ = self.lines.reports.send(Report { progress, step });
        }
    }

    /// How long the step took that is finished now, if one is.
    fn step_took(&mut self, step: u32) -> Option<Duration> {
        let now = Instant::now();
        let denoising = self.denoising.get_or_insert_with(|| Denoising {
            step,
            finished_at: now,
            kept: self.watched.resumed_from,
            checkpoints: Cadence::new(
                self.watched.config.checkpoint_interval,
                CHECKPOINT_SHARE,
                CHECKPOINT_GUESS,
            ),
            previews: Cadence::new(Some(self.watched.config.preview_interval), PREVIEW_SHARE, PREVIEW_GUESS),
        });
        let steps = step.checked_sub(denoising.step).filter(|steps| *steps > 0)?;
        let took = (now - denoising.finished_at) / steps;
        denoising.step = step;
        denoising.finished_at = now;
        metrics::histogram!("cogvideox_denoise_step_seconds").record(took);
        Some(took)
    }
}

impl Denoising {
    /// Takes a checkpoint if one is due; the answer is to stop if that was the one a stopping server waits for.
    fn keep(
        &mut self,
        step: u32,
        is_last: bool,
        state: &dyn DenoiseState,
        watched: &Watched,
        lines: &Lines,
    ) -> ControlFlow<()> {
        let parks = watched.stop.park.is_cancelled() && self.checkpoints.is_on();
        let due = if is_last { self.checkpoints.is_due_at_last() } else { self.checkpoints.is_due() };
        if self.kept != Some(step) && (parks || due) {
            match self.checkpoints.spend(|| state.checkpoint()) {
                Ok(state) => {
                    self.kept = Some(step);
                    lines.checkpoints.send_replace(Some(Arc::new(Snapshot { step, state })));
                }
                Err(reason) => tracing::warn!(%reason, step, "no checkpoint can be taken"),
            }
            metrics::histogram!("cogvideox_checkpoint_seconds").record(self.checkpoints.cost());
        }
        if parks && self.kept == Some(step) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Takes a preview if somebody wants to see one.
    fn show(&mut self, step: u32, state: &dyn DenoiseState, watched: &Watched, lines: &Lines) {
        if self.previews.is_due()
            && watched.queue.previews_wanted(watched.video_id)
            && let Some(picture) = self.previews.spend(|| state.preview())
        {
            lines.previews.send_replace(Some(Arc::new((step, picture))));
        }
    }
}
