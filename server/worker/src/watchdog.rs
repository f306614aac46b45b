//! Notices a generator that hangs: one that finishes no step, and no part of another stage, for far longer than its
//! steps take.
//!
//! As long as nobody has measured a step of such a video here, nothing says how long one may take; then each call of
//! the progress callback counts as a sign of life. Nothing calls back while a model is loaded, and how long a disk takes
//! for one is not known either: that stage is not watched, as the first load at the start is not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use queue::Stage;
use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Watchdog {
    factor: u32,
    min: Duration,
    /// What a step of such a video took before.
    expected: Option<Duration>,
    /// This attempt's, in rising order.
    steps: Vec<Duration>,
    moved_at: Instant,
    /// Whether a model is being loaded.
    loading: bool,
    calls: Arc<AtomicU64>,
    calls_heard: u64,
}

impl Watchdog {
    /// Watches from now on. `calls` counts the calls of the progress callback.
    pub(crate) fn new(factor: u32, min: Duration, expected: Option<Duration>, calls: Arc<AtomicU64>) -> Self {
        let moved_at = Instant::now();
        Self { factor, min, expected, steps: Vec::new(), moved_at, loading: false, calls, calls_heard: 0 }
    }

    /// The generation came further, and is in this stage now; if it finished a step, that took so long.
    pub(crate) fn moved(&mut self, stage: Stage, step: Option<Duration>) {
        self.moved_at = Instant::now();
        self.loading = stage == Stage::LoadModel;
        if let Some(step) = step {
            let place = self.steps.partition_point(|other| *other < step);
            self.steps.insert(place, step);
        }
    }

    /// When to ask [`Self::silence`], unless something moves before; never while there is nothing to watch.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (!self.loading).then(|| self.moved_at + self.limit())
    }

    /// How long nothing has moved, if that is too long.
    pub(crate) fn silence(&mut self) -> Option<Duration> {
        let calls = self.calls.load(Ordering::Relaxed);
        if self.step().is_none() && calls != self.calls_heard {
            self.calls_heard = calls;
            self.moved_at = Instant::now();
        }
        Some(self.moved_at.elapsed()).filter(|silence| *silence >= self.limit())
    }

    fn limit(&self) -> Duration {
        self.step().map_or(self.min, |step| self.min.max(step.saturating_mul(self.factor)))
    }

    fn step(&self) -> Option<Duration> {
        self.steps.get(self.steps.len() / 2).copied().or(self.expected)
    }
}
