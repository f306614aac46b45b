//! How far a call of the autoencoder is, measured in multiply-adds of its convolutions.

use super::Check;
use crate::Result;

/// Counts the work and asks whether to go on.
pub(crate) struct Progress<'a> {
    done: u64,
    total: u64,
    check: Check<'a>,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(total: u64, check: Check<'a>) -> Self {
        Self { done: 0, total, check }
    }

    pub(crate) fn advance(&mut self, macs: u64) -> Result<()> {
        self.done += macs;
        (self.check)((self.done as f64 / self.total.max(1) as f64).min(1.0) as f32)
    }
}
