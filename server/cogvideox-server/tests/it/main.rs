//! The program's parts through their public doors, and the built program itself.

#![expect(clippy::unwrap_used, reason = "a failed step of a test should stop it where it stands")]

mod bench;
mod check_config;
mod config;
mod convert;
mod download;
mod inspect;
mod keys;
mod operating;
mod quantize;
mod telemetry;
mod terminal;
mod transfer;
