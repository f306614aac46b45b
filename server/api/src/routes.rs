//! The handlers, thin: read the request, ask the queue or the store, show the answer.

pub(crate) mod capabilities;
pub(crate) mod content;
pub(crate) mod create;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod line;
pub(crate) mod metrics;
pub(crate) mod models;
pub(crate) mod tickets;
pub(crate) mod unsupported;
pub(crate) mod videos;
