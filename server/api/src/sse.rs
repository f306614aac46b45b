//! Server-sent events: what is told about videos, to whom, and in which order.
//!
//! Relies on the queue's events, which are numbered for good, and on its news, which carry the same events as they
//! happen. A reader's place is one number, so a stream can be taken up anywhere, also from a server that was started
//! anew. What many readers are told is written out once (`rendering`) and shared. Leaving a stream cancels nothing.

pub(crate) mod cursor;
pub(crate) mod kind;
pub(crate) mod reader;
pub(crate) mod rendering;
mod streams;

pub use streams::Streams;
