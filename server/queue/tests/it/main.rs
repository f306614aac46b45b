//! The queue through its public doors, on a database in a temporary folder and with a clock that the test turns.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its tools too")]

mod attempts;
mod bench;
mod events;
mod failures;
mod keys;
mod leases;
mod machine;
mod migration;
mod model;
mod models;
mod outbox;
mod races;
mod repeats;
mod retention;
mod story;
mod turns;
mod upkeep;
mod watchers;
mod workers;
