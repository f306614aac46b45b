//! Whether videos are being made: what each worker says of itself, and what that comes to.
//!
//! Both change in one call, so who sees the whole never sees it behind its parts for longer than that.

use std::sync::Arc;

use queue::Queue;
use tokio::sync::watch;

/// Whether videos are being worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The generator is being built.
    Starting,
    /// Videos are made as they come.
    Ready,
    /// No video will be made before a restart, for this reason.
    Failed(String),
    /// The same, because the generator's thread does not come back: nothing in this process can take its place.
    Hung(String),
    /// The server is stopping.
    Stopping,
}

impl Readiness {
    /// Nothing follows from these but the end.
    fn is_final(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Hung(_) | Self::Stopping)
    }
}

/// All workers' readiness.
#[derive(Debug)]
pub(crate) struct Board {
    slots: Vec<(String, watch::Sender<Readiness>)>,
    whole: watch::Sender<Readiness>,
    /// Told how many workers it can count on.
    queue: Queue,
}

impl Board {
    /// For a worker on each of these devices.
    pub(crate) fn new(devices: Vec<String>, queue: Queue) -> Arc<Self> {
        let slots = devices.into_iter().map(|device| (device, watch::Sender::new(Readiness::Starting)));
        let board = Self { slots: slots.collect(), whole: watch::Sender::new(Readiness::Starting), queue };
        board.sum_up();
        Arc::new(board)
    }

    /// One for each worker, in order.
    pub(crate) fn slots(self: &Arc<Self>) -> impl Iterator<Item = Slot> {
        (0..self.slots.len()).map(|number| Slot { board: Arc::clone(self), number })
    }

    /// What all come to; heard of at every change of any.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Readiness> {
        self.whole.subscribe()
    }

    /// All are stopping.
    pub(crate) fn stop(&self) {
        for (_, slot) in &self.slots {
            slot.send_replace(Readiness::Stopping);
        }
        self.sum_up();
    }

    fn sum_up(&self) {
        self.whole.send_modify(|whole| {
            let each: Vec<_> =
                self.slots.iter().map(|(device, slot)| (device.as_str(), slot.borrow().clone())).collect();
            let working = each.iter().filter(|(_, readiness)| !readiness.is_final()).count();
            self.queue.set_workers(working as u32);
            *whole = sum(&each);
        });
    }
}

/// A server that can make videos is ready. One whose generator hangs needs another process, whatever else it can do.
fn sum(each: &[(&str, Readiness)]) -> Readiness {
    let find = |wanted: fn(&Readiness) -> bool| each.iter().map(|(_, r)| r).find(|r| wanted(r)).cloned();
    find(|r| matches!(r, Readiness::Stopping))
        .or_else(|| find(|r| matches!(r, Readiness::Hung(_))))
        .or_else(|| find(|r| matches!(r, Readiness::Ready)))
        .or_else(|| find(|r| matches!(r, Readiness::Starting)))
        .unwrap_or_else(|| Readiness::Failed(reasons(each)))
}

/// Why each of them failed, the same reason once.
fn reasons(each: &[(&str, Readiness)]) -> String {
    let mut reasons: Vec<&str> = Vec::new();
    for (_, readiness) in each {
        if let Readiness::Failed(reason) = readiness
            && !reasons.contains(&reason.as_str())
        {
            reasons.push(reason);
        }
    }
    reasons.join("; ")
}

/// One worker's part of the board.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    board: Arc<Board>,
    number: usize,
}

impl Slot {
    /// The worker's number, from 0.
    pub(crate) fn number(&self) -> u32 {
        self.number as u32
    }

    /// The worker's device.
    pub(crate) fn device(&self) -> &str {
        &self.board.slots[self.number].0
    }

    /// The span that all its log lines are in.
    pub(crate) fn span(&self) -> tracing::Span {
        tracing::info_span!("worker", worker = self.number, device = self.device())
    }

    /// The worker's readiness, as it changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Readiness> {
        self.board.slots[self.number].1.subscribe()
    }

    /// Moves the readiness on, unless the server is stopping or the worker has given up: these are final.
    pub(crate) fn become_(&self, next: Readiness) {
        let moved = self.board.slots[self.number].1.send_if_modified(|now| {
            let goes_on = !now.is_final();
            if goes_on {
                *now = next;
            }
            goes_on
        });
        if moved {
            self.board.sum_up();
        }
    }
}
