//! The parts the `cogvideox-server` program is wired from: configuration, logging, the terminal and the subcommands.
//!
//! A library so that tests can reach them. It joins the other crates and holds no logic of theirs.

mod backup;
mod bench;
pub mod cli;
pub mod config;
mod doctor;
mod door;
mod dump;
mod generate;
pub mod gpu;
mod http_server;
mod inspect;
mod keys;
mod measurements;
mod migrate;
mod model;
mod model_set;
mod prompts;
mod retention;
mod selftest;
mod serve;
pub mod telemetry;
pub mod terminal;
mod tokenize;
#[cfg(feature = "otel")]
mod traces;
mod webhooks;
