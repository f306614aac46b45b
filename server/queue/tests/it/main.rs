//! The queue through its public doors, on a database in a temporary folder and with a clock that the test turns.

mod bench;
mod events;
mod leases;
mod story;
