//! HTTP: OpenAI's Videos API over the job queue and the file store.
//!
//! A request is checked at the door against the model's card (`create`), becomes a row of the queue, and is shown
//! from the row (`video`); the router page lists every URL. This crate knows the queue and the store and waits for
//! neither worker nor device: it has no model, no tokenizer and no SQL. What it must be told about the model it is
//! told by the binary, in a [`ModelCard`] and a [`CountTokens`].

mod auth;
mod body;
mod browser;
mod create;
mod disk;
mod envelope;
mod error;
mod fields;
mod hex;
mod input_reference;
mod leftover;
mod model;
mod openapi;
mod page;
mod prefer;
mod prompt;
mod query;
mod rates;
mod router;
mod routes;
mod sse;
mod state;
mod submission;
mod submit;
mod tickets;
mod traffic;
mod video;

pub use disk::DiskProbe;
pub use error::{Code, Error, ErrorBody, ErrorEnvelope, ErrorType, Result};
pub use futures_util::future::BoxFuture;
pub use model::{
    Adapter, CountTokens, FrameLattice, ModelCard, ModelCatalog, OfferAdapters, Scheduler, Size, StepRule,
};
pub use openapi::{openapi, openapi_yaml};
pub use prompt::{PromptCheck, PromptToCheck, PromptVerdict, RefinePrompt};
pub use rates::RequestRates;
pub use router::router;
pub use sse::Streams;
pub use state::{Access, AppState, CheckImage, CheckWebhookUrl, Device, FreeBytes, Health, Limits};
pub use tickets::Tickets;
