//! What the API is told at the start: the configuration in its words, and the parts that it works with.
//!
//! Translation only; `serve` says when.

use std::sync::Arc;
use std::time::Duration;

use api::{AppState, Health, Limits, ModelCard, ModelCatalog};
use cogvideox::ModelDescription;
use metrics_exporter_prometheus::PrometheusHandle;
use outbound::{Policy, check_webhook_url};
use queue::SystemClock;
use tokio::sync::watch;
use worker::{Readiness, WorkerHandle};

use crate::config::Config;
use crate::model::PromptTokens;
use crate::serve::Data;
use crate::{measurements, prompts};

/// What the state is made of.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a Config,
    pub(crate) data: &'a Data,
    pub(crate) description: ModelDescription,
    pub(crate) card: ModelCard,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) worker: &'a WorkerHandle,
}

/// Where webhooks may go.
pub(crate) fn webhook_policy(config: &Config) -> Policy {
    Policy {
        allow_http: config.webhooks.allow_http,
        allow_private: config.webhooks.allow_private,
        allowed: Vec::new(),
    }
}

/// The worker's readiness in the API's words.
fn health(mut ready: watch::Receiver<Readiness>) -> watch::Receiver<Health> {
    let translate = |readiness: &Readiness| match readiness {
        Readiness::Starting => Health::Starting,
        Readiness::Ready => Health::Ready,
        Readiness::Stopping => Health::Draining,
        Readiness::Failed(reason) => Health::Failed(reason.clone()),
    };
    let (sender, health) = watch::channel(translate(&ready.borrow()));
    tokio::spawn(async move {
        while ready.changed().await.is_ok() {
            sender.send_replace(translate(&ready.borrow_and_update()));
        }
    });
    health
}
