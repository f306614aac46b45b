//! The worker with a real queue, store and encoder, and a generator that does as the test says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its tools too")]

mod bench;
mod crash;
mod endings;
mod fake;
mod leases;
mod shutdown;
