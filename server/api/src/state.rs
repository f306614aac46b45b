//! What the handlers share: the queue, the store, the models, the server's health and its limits.
//!
//! Built by the binary; this crate never starts, stops or waits for a worker.

use std::sync::Arc;
use std::time::Duration;

use queue::{ApiKeys, Clock, Queue};
use store::VideoStore;
use tokio::sync::watch;

use crate::error::{Code, Error, Result};
use crate::model::{CountTokens, ModelCatalog};

/// Whether the part behind the queue can work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// The model is being loaded.
    Starting,
    /// Videos are made.
    Ready,
    /// The server is shutting down: running streams end and new videos are refused.
    Draining,
    /// The worker is gone for good, with the reason.
    Failed(String),
}

/// Bounds on what one request may ask for and how long it may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a JSON or urlencoded body, and of all text fields of a multipart body together.
    pub max_text_bytes: usize,
    /// Bytes of any body.
    pub max_body_bytes: usize,
    /// Characters of a prompt, and of a negative prompt.
    pub max_prompt_chars: usize,
    /// How long a request may take, streams and downloads excepted.
    pub request_timeout: Duration,
    /// How long DELETE waits for a running video to stop; must be shorter than `request_timeout`.
    pub delete_wait: Duration,
    /// What `retry-after` says when the queue is full or the server cannot take work.
    pub retry_after: Duration,
    /// What `openai-poll-after-ms` says; clients keep the first value for the whole job.
    pub poll_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_text_bytes: 1 << 20,
            max_body_bytes: 26 << 20,
            max_prompt_chars: 10_000,
            request_timeout: Duration::from_mins(1),
            delete_wait: Duration::from_secs(10),
            retry_after: Duration::from_secs(15),
            poll_after: Duration::from_secs(1),
        }
    }
}

/// Everything a handler can reach.
#[derive(Clone)]
pub struct AppState {
    /// The job table.
    pub queue: Queue,
    /// The finished files.
    pub store: VideoStore,
    /// The models.
    pub catalog: Arc<ModelCatalog>,
    /// Counts the tokens of a prompt.
    pub prompt_tokens: Arc<dyn CountTokens>,
    /// Whether videos are being made.
    pub health: watch::Receiver<Health>,
    /// Bounds on requests.
    pub limits: Limits,
    /// The time; the queue's own clock.
    pub clock: Arc<dyn Clock>,
    /// Who may ask; while there is no key, everybody.
    pub api_keys: ApiKeys,
    /// Writes out the metrics, as Prometheus reads them.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// How long the files of a finished video are kept; forever if none.
    pub retention_age: Option<Duration>,
    /// Whether the worker shows pictures of a video while it makes it.
    pub previews: bool,
}

impl AppState {
    /// Refuses when a new video would not be worked on.
    pub(crate) fn accepts_videos(&self) -> Result<()> {
        let (code, message) = match &*self.health.borrow() {
            Health::Ready => return Ok(()),
            Health::Starting => (Code::ModelNotReady, "the model is being loaded"),
            Health::Draining => (Code::ServerDraining, "the server is shutting down"),
            Health::Failed(_) => (Code::WorkerFailed, "the worker stopped; the server must be restarted"),
        };
        Err(Error::TryLater { code, message: message.to_owned(), after: self.limits.retry_after })
    }
}
