//! What the API is told at the start: the configuration in its words, and the parts that it works with.
//!
//! Translation only; `serve` says when.

use std::sync::Arc;
use std::time::Duration;

use api::{
    Access, AppState, CheckImage, CheckWebhookUrl, Device, DiskProbe, Health, Limits, RequestRates, Streams,
    Tickets,
};
use cogvideox::image::RgbImage;
use futures_util::FutureExt as _;
use metrics_exporter_prometheus::PrometheusHandle;
use outbound::{Policy, check_webhook_url};
use queue::SystemClock;
use tokio::sync::{Semaphore, watch};
use worker::{Pulse, Readiness, Workers};

use crate::arrivals::Arrival;
use crate::config::Config;
use crate::model_set::Offer;
use crate::serve::Data;
use crate::{measurements, prompts};

/// What the state is made of.
pub(crate) struct Parts<'a> {
    pub(crate) config: &'a Config,
    pub(crate) data: &'a Data,
    pub(crate) offer: Offer,
    pub(crate) recorder: PrometheusHandle,
    pub(crate) workers: &'a Workers,
    pub(crate) arrival: &'a watch::Receiver<Arrival>,
}

/// Everything that the API's handlers can reach.
///
/// # Errors
/// A blocklist that cannot be read, a URL that is none.
pub(crate) fn state(parts: Parts<'_>) -> anyhow::Result<AppState> {
    let Parts { config, data, offer, recorder, workers, arrival } = parts;
    let retention_hours = u64::from(config.retention.max_age_hours);
    let store = data.store.clone();
    let pulses = pulses(workers);
    let (health, devices) = health(workers, arrival.clone());
    Ok(AppState {
        queue: data.queue.clone(),
        store: data.store.clone(),
        catalog: Arc::new(offer.catalog),
        prompt_tokens: Arc::new(offer.tokens),
        adapters: offer.adapters.map(|adapters| Arc::new(adapters) as _),
        health,
        devices,
        limits: limits(config),
        clock: Arc::new(SystemClock),
        api_keys: data.queue.api_keys(),
        rates: RequestRates::default(),
        streams: Streams::default(),
        tickets: Tickets::default(),
        access: Access {
            cors_origins: config.server.cors_origins.clone(),
            allowed_hosts: config.server.allowed_hosts.clone(),
            metrics_need_key: config.server.metrics_need_key,
        },
        free_bytes: Arc::new(move || {
            let store = store.clone();
            async move { store.free_bytes().await.ok() }.boxed()
        }),
        disk: DiskProbe::default(),
        check_image: check_image(),
        check_webhook_url: check_webhooks(config)?,
        prompt_check: prompts::check(&config.prompt_check)?,
        refine_prompt: prompts::refiner(&config.refine)?,
        metrics: Arc::new(move || {
            measurements::observe_process();
            for (labels, pulse) in &pulses {
                metrics::gauge!("cogvideox_worker_heartbeat_age_seconds", labels)
                    .set(pulse.age().as_secs_f64());
            }
            recorder.run_upkeep();
            recorder.render()
        }),
        retention_age: (retention_hours > 0).then(|| Duration::from_hours(retention_hours)),
        previews: config.worker.previews,
    })
}

fn limits(config: &Config) -> Limits {
    let limits = &config.limits;
    Limits {
        max_image_bytes: limits.max_image_bytes.get() as usize,
        max_body_bytes: limits.max_body_bytes.get() as usize,
        max_prompt_chars: limits.max_prompt_chars.get() as usize,
        request_timeout: Duration::from_secs(limits.request_timeout_seconds.get().into()),
        delete_wait: Duration::from_secs(limits.delete_wait_seconds.into()),
        max_wait: Duration::from_secs(limits.max_wait_seconds.into()),
        min_free_bytes: config.retention.min_free_mib.saturating_mul(1 << 20),
        max_streams_per_key: limits.max_streams_per_key.get() as usize,
        accept_sora_names: config.server.accept_sora_names,
        ..Limits::default()
    }
}

/// Decodes pictures as the pipeline does, one at a time: a small file may be a large picture.
fn check_image() -> CheckImage {
    let turn = Arc::new(Semaphore::new(1));
    Arc::new(move |content| {
        let turn = Arc::clone(&turn);
        async move {
            let turn = turn.acquire_owned().await;
            let checked = tokio::task::spawn_blocking(move || {
                // Kept until the work is done, whatever becomes of the request.
                let _turn = turn;
                RgbImage::decode(&content).map(|_| content)
            });
            match checked.await {
                Ok(Ok(content)) => Ok(content),
                Ok(Err(cogvideox::Error::InvalidParams { message, .. })) => Err(message),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => {
                    tracing::error!(%error, "a picture cannot be looked at");
                    Err("it cannot be read".to_owned())
                }
            }
        }
        .boxed()
    })
}

/// The webhook policy as the door asks it; none without a secret to sign with.
fn check_webhooks(config: &Config) -> outbound::Result<Option<CheckWebhookUrl>> {
    if config.webhooks.secret.reveal().is_empty() {
        return Ok(None);
    }
    let policy = webhook_policy(config)?;
    Ok(Some(Arc::new(move |url| {
        check_webhook_url(url, &policy).map(|_| ()).map_err(|error| error.to_string())
    })))
}

/// Where webhooks may go.
///
/// # Errors
/// An exception that is neither a host nor a network.
pub(crate) fn webhook_policy(config: &Config) -> outbound::Result<Policy> {
    let allowed = config.webhooks.allowed.iter().map(|exception| exception.parse());
    Ok(Policy {
        allow_http: config.webhooks.allow_http,
        allow_private: config.webhooks.allow_private,
        allowed: allowed.collect::<outbound::Result<_>>()?,
    })
}

/// The workers' pulses, each with its labels.
fn pulses(workers: &Workers) -> Vec<([(&'static str, String); 2], Pulse)> {
    let labels = |(number, worker): (usize, &worker::Worker)| {
        ([("worker", number.to_string()), ("device", worker.device.clone())], worker.pulse.clone())
    };
    workers.each.iter().enumerate().map(labels).collect()
}

/// The workers' readiness in the API's words: what it comes to, and each device's.
fn health(
    workers: &Workers,
    mut arrival: watch::Receiver<Arrival>,
) -> (watch::Receiver<Health>, watch::Receiver<Vec<Device>>) {
    let mut ready = workers.ready.clone();
    let each: Vec<_> =
        workers.each.iter().map(|worker| (worker.device.clone(), worker.ready.clone())).collect();
    let look = move |arrival: &Arrival| -> Vec<Device> {
        let device = |(name, ready): &(String, watch::Receiver<Readiness>)| Device {
            name: name.clone(),
            health: in_api_words(&ready.borrow(), arrival),
        };
        each.iter().map(device).collect()
    };
    let arrived = arrival.borrow_and_update().clone();
    let (devices, devices_seen) = watch::channel(look(&arrived));
    let (health, health_seen) = watch::channel(in_api_words(&ready.borrow(), &arrived));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = ready.changed() => if changed.is_err() { return },
                // An error means that nothing more will be told of the files.
                Ok(()) = arrival.changed() => {}
            }
            let arrived = arrival.borrow_and_update().clone();
            devices.send_replace(look(&arrived));
            health.send_replace(in_api_words(&ready.borrow_and_update(), &arrived));
        }
    });
    (health_seen, devices_seen)
}

fn in_api_words(readiness: &Readiness, arrival: &Arrival) -> Health {
    match readiness {
        Readiness::Starting => match arrival {
            Arrival::Awaited(what) => Health::Waiting(what.clone()),
            Arrival::Here | Arrival::Failed(_) => Health::Starting,
        },
        Readiness::Ready => Health::Ready,
        Readiness::Stopping => Health::Draining,
        Readiness::Failed(reason) | Readiness::Hung(reason) => Health::Failed(reason.clone()),
    }
}
