//! The worker with a real queue, store and encoder, and a generator that does as the test says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its tools too")]

mod bench;
mod cancel;
mod checkpoints;
mod crash;
mod endings;
mod fake;
mod files;
mod hangs;
mod leases;
mod measures;
mod memory;
mod previews;
mod shutdown;
mod workers;
