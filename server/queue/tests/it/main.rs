//! The queue through its public doors, on a database in a temporary folder and with a clock that the test turns.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its tools too")]

mod bench;
mod events;
mod leases;
mod story;
