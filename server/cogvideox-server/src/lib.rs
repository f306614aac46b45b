//! The parts the `cogvideox-server` program is wired from: configuration, logging, the terminal and the subcommands.
//!
//! A library so that tests can reach them. It joins the other crates and holds no logic of theirs.

mod adapters;
mod arrivals;
mod backup;
mod bench;
pub mod cli;
pub mod config;
mod convert;
mod doctor;
mod door;
mod download;
mod dump;
mod generate;
pub mod gpu;
mod health;
mod http_server;
mod inspect;
mod keys;
mod measurements;
mod migrate;
mod model;
mod model_files;
mod model_set;
mod new_folder;
mod pipeline_generator;
mod prompts;
mod quantize;
mod retention;
mod selftest;
mod serve;
pub mod telemetry;
pub mod terminal;
mod tokenize;
#[cfg(feature = "otel")]
mod traces;
pub mod transfer;
mod webhooks;
