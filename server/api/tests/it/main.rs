//! The HTTP face, called as a client calls it, over a real queue and a real store in a temporary folder. The worker
//! is played by the tests.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
// For the one JSON of a whole video.
#![recursion_limit = "256"]

mod auth;
mod browser;
mod content;
mod create;
mod envelope;
mod events;
mod health;
mod idempotency;
mod input_reference;
mod lifecycle;
mod limits;
mod line;
mod lora;
mod metrics;
mod models;
mod openapi;
mod options;
mod page;
mod prefer;
mod prompt;
mod reader;
mod refusals;
mod remix;
mod resume;
mod tickets;
mod world;
