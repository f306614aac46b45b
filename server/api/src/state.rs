//! What the handlers share: the queue, the store, the models, the server's health and its limits.
//!
//! Built by the binary; this crate never starts, stops or waits for a worker.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use queue::{ApiKeys, Clock, Queue};
use store::VideoStore;
use tokio::sync::watch;

use crate::disk::DiskProbe;
use crate::error::{Code, Error, Result};
use crate::model::{CountTokens, ModelCatalog, OfferAdapters};
use crate::prompt::{PromptCheck, RefinePrompt};
use crate::rates::RequestRates;
use crate::sse::Streams;
use crate::tickets::Tickets;

/// Whether the part behind the queue can work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// The model is being loaded.
    Starting,
    /// The model cannot be loaded yet, and what is waited for.
    Waiting(String),
    /// Videos are made.
    Ready,
    /// The server is shutting down: running streams end and new videos are refused.
    Draining,
    /// The worker is gone for good, with the reason.
    Failed(String),
}

/// One of the devices that videos are made on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Such as `cpu` or `cuda:1`; several may have the same.
    pub name: String,
    /// Whether its worker can work.
    pub health: Health,
}

/// Bounds on what one request may ask for and how long it may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a JSON or urlencoded body, and of all text fields of a multipart body together.
    pub max_text_bytes: usize,
    /// Bytes of an image that a video starts from.
    pub max_image_bytes: usize,
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
    /// The longest that a request for a video waits for its end, if it asks to (`Prefer: wait=N`).
    pub max_wait: Duration,
    /// Bytes that stay free on the disk: with fewer no new video is taken.
    pub min_free_bytes: u64,
    /// Event streams that one API key may have open, or everybody together where there are none.
    pub max_streams_per_key: usize,
    /// Event streams that may be open in all.
    pub max_streams: usize,
    /// Whether `sora-2` and `sora-2-pro` mean the default model.
    pub accept_sora_names: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_text_bytes: 1 << 20,
            max_image_bytes: 16 << 20,
            max_body_bytes: 26 << 20,
            max_prompt_chars: 10_000,
            request_timeout: Duration::from_mins(1),
            delete_wait: Duration::from_secs(10),
            retry_after: Duration::from_secs(15),
            poll_after: Duration::from_secs(1),
            max_wait: Duration::from_mins(10),
            min_free_bytes: 0,
            max_streams_per_key: 4096,
            max_streams: 8192,
            accept_sora_names: false,
        }
    }
}

/// Which browsers may ask. Lower case, as browsers write them.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Origins, such as `https://studio.example.org`, whose pages may read the answers.
    pub cors_origins: Vec<String>,
    /// Names of this server, without port, beyond loopback names and IP addresses. Looked at while there are no
    /// API keys: a name that an attacker resolves to this machine is not one of them.
    pub allowed_hosts: Vec<String>,
    /// Whether `/metrics` asks for an API key.
    pub metrics_need_key: bool,
}

/// Free bytes of the disk that the files lie on; none where that cannot be told.
pub type FreeBytes = Arc<dyn Fn() -> BoxFuture<'static, Option<u64>> + Send + Sync>;

/// Says why a webhook's URL will not be called, if it will not.
pub type CheckWebhookUrl = Arc<dyn Fn(&str) -> std::result::Result<(), String> + Send + Sync>;

/// Looks whether a file is a picture that a model can start from, and gives it back; or says why it is none, in words
/// for the client. Must come to an end by itself.
pub type CheckImage =
    Arc<dyn Fn(Vec<u8>) -> BoxFuture<'static, std::result::Result<Vec<u8>, String>> + Send + Sync>;

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
    /// The adapters; none where there is no folder of them.
    pub adapters: Option<Arc<dyn OfferAdapters>>,
    /// Whether videos are being made.
    pub health: watch::Receiver<Health>,
    /// The same of each device: a server is ready as long as one of them is.
    pub devices: watch::Receiver<Vec<Device>>,
    /// Bounds on requests.
    pub limits: Limits,
    /// The time; the queue's own clock.
    pub clock: Arc<dyn Clock>,
    /// Who may ask; while there is no key, everybody.
    pub api_keys: ApiKeys,
    /// How often each key asked of late.
    pub rates: RequestRates,
    /// The open event streams.
    pub streams: Streams,
    /// The tickets that were given out.
    pub tickets: Tickets,
    /// Which browsers may ask.
    pub access: Access,
    /// How much room there is.
    pub free_bytes: FreeBytes,
    /// Whether that and the queue suffice for readiness.
    pub disk: DiskProbe,
    /// Looks at the pictures that videos are to start from.
    pub check_image: CheckImage,
    /// Looks at a webhook's URL; none where no webhooks are called.
    pub check_webhook_url: Option<CheckWebhookUrl>,
    /// Decides whether a video may be made of a prompt; none where every prompt may.
    pub prompt_check: Option<Arc<dyn PromptCheck>>,
    /// Refines prompts; none where that is not offered.
    pub refine_prompt: Option<Arc<dyn RefinePrompt>>,
    /// Writes out the metrics, as Prometheus reads them.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// How long the files of a finished video are kept; forever if none.
    pub retention_age: Option<Duration>,
    /// Whether the worker shows pictures of a video while it makes it.
    pub previews: bool,
}

impl AppState {
    /// Names of the adapters that a model can be used with.
    pub(crate) async fn lora_names(&self, model: &str) -> Vec<String> {
        let Some(adapters) = &self.adapters else { return Vec::new() };
        let offered = adapters.adapters(model).await;
        offered.into_iter().filter(|adapter| adapter.sha256.is_ok()).map(|adapter| adapter.name).collect()
    }

    /// Refuses when a new video would not be worked on.
    pub(crate) fn accepts_videos(&self) -> Result<()> {
        let (code, message) = match &*self.health.borrow() {
            Health::Waiting(what) => (Code::ModelNotReady, what.clone()),
            Health::Ready => return Ok(()),
            Health::Starting => (Code::ModelNotReady, "the model is being loaded".to_owned()),
            Health::Draining => (Code::ServerDraining, "the server is shutting down".to_owned()),
            Health::Failed(_) => {
                (Code::WorkerFailed, "the worker stopped; the server must be restarted".to_owned())
            }
        };
        Err(Error::TryLater { code, message, after: self.limits.retry_after })
    }

    /// Refuses when the disk has no room for another video.
    pub(crate) async fn has_room(&self) -> Result<()> {
        let least = self.limits.min_free_bytes;
        match (self.free_bytes)().await {
            Some(free) if free < least => {
                tracing::warn!(free_bytes = free, min_free_bytes = least, "no room for another video");
                Err(Error::refused(
                    Code::InsufficientStorage,
                    "the server's disk has no room for another video",
                ))
            }
            _ => Ok(()),
        }
    }
}
