//! The parts the `cogvideox-server` program is wired from: configuration, logging and the terminal.
//!
//! A library so that tests can reach them; nothing here knows HTTP, SQL or the model.

pub mod cli;
pub mod config;
pub mod telemetry;
pub mod terminal;
