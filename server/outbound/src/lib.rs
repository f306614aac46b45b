//! The server as a client of others: webhooks to its users' receivers, the check of a prompt by the operator's hook,
//! the refinement of a prompt by a chat model, models from a hub.
//!
//! Two kinds of address are told apart. The operator's endpoints ([`Hook`], [`Refiner`], [`hub`]) are trusted and may be
//! anywhere. A webhook's address comes from a user, so [`WebhookSender`] connects only where its [`Policy`] lets it,
//! whatever a name resolves to at that moment and wherever a redirect leads. Every call has a limit of time and of
//! size, and none but those to the hub uses a proxy from the environment.
//!
//! This crate relies on tokio's runtime and on the machine's root certificates. It knows no rows, no requests to this
//! server and no model: when to call, and what becomes of an error, is the caller's.

mod address;
mod blocklist;
mod client;
mod endpoint;
mod error;
pub mod hub;
mod policy;
mod prompt_check;
mod refiner;
mod resolver;
mod secret;
mod text;
mod webhook;

pub use blocklist::Blocklist;
#[cfg(feature = "blocking")]
pub use client::blocking_client;
pub use error::{Error, Result};
pub use policy::{Exception, Policy, check_webhook_url};
pub use prompt_check::{Hook, HookConfig, Prompt, PromptCheck, Verdict};
pub use refiner::{Refiner, RefinerConfig};
pub use resolver::Resolver;
pub use secret::{Secret, WebhookSecret};
pub use webhook::{Delivery, Event, Limits, WebhookSender, retry_delay};
