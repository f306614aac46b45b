//! Whether the worker's loop still turns.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

/// Tells when the worker last showed that it lives: between videos, and with each renewal of a lease. Clones share it.
#[derive(Debug, Clone)]
pub struct Pulse(watch::Receiver<Instant>);

impl Pulse {
    /// How long ago that was.
    pub fn age(&self) -> Duration {
        self.0.borrow().elapsed()
    }
}

/// The other end of a [`Pulse`].
#[derive(Debug)]
pub(crate) struct Heart(watch::Sender<Instant>);

impl Heart {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Instant::now()))
    }

    pub(crate) fn beat(&self) {
        self.0.send_replace(Instant::now());
    }

    pub(crate) fn pulse(&self) -> Pulse {
        Pulse(self.0.subscribe())
    }
}
