//! How often a generation may be held up for something that is not generating: a checkpoint, a preview.

use std::time::Duration;

use tokio::time::Instant;

/// Something that is done again and again between steps, as often as its interval says, as long as its measured cost
/// stays under a share of the time that the steps took.
#[derive(Debug)]
pub(crate) struct Cadence {
    /// `None`: never. Zero: after every step, whatever it costs.
    interval: Option<Duration>,
    share: f64,
    /// What it will cost: what it cost last.
    cost: Duration,
    spent: Duration,
    began: Instant,
    last: Instant,
}

impl Cadence {
    /// From now on; `first_cost` is a guess until the cost is measured.
    pub(crate) fn new(interval: Option<Duration>, share: f64, first_cost: Duration) -> Self {
        let now = Instant::now();
        Self { interval, share, cost: first_cost, spent: Duration::ZERO, began: now, last: now }
    }

    /// Whether it is done at all.
    pub(crate) fn is_on(&self) -> bool {
        self.interval.is_some()
    }

    /// Whether to do it now.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due_since(self.last)
    }

    /// Whether to do it now if there will be no other chance: also soon after the last time.
    pub(crate) fn is_due_at_last(&self) -> bool {
        self.is_due_since(self.began)
    }

    fn is_due_since(&self, since: Instant) -> bool {
        let Some(interval) = self.interval else { return false };
        let affordable =
            (self.spent + self.cost).as_secs_f64() <= self.share * self.began.elapsed().as_secs_f64();
        interval.is_zero() || (since.elapsed() >= interval && affordable)
    }

    /// Does it, and measures it.
    pub(crate) fn spend<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.last = Instant::now();
        self.cost = self.last - start;
        self.spent += self.cost;
        result
    }

    /// What it cost last.
    pub(crate) fn cost(&self) -> Duration {
        self.cost
    }
}
