//! `cogvideox-server serve`: opens the data folder, starts a worker for each device and answers HTTP until a signal.
//!
//! The order matters: what an earlier process left is put right before the workers start, the socket is bound before
//! the model is read or its weights are fetched (so that `/readyz` can say "loading"), and on a signal the door closes
//! before the workers stop.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use outbound::{Limits, Resolver, WebhookSecret, WebhookSender};
use queue::{KeyLimits, Queue, QueueOptions, SystemClock};
use store::VideoStore;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use worker::{Readiness, WorkerConfig};

use crate::arrivals::{self, Arrival, Arrivals};
use crate::config::{Config, DeviceSpec};
use crate::model_files::ModelFiles;
use crate::model_set::{ModelSet, SwappingGenerator};
use crate::{door, http_server, measurements, retention, webhooks};

/// The job table's file in the data folder.
pub(crate) const QUEUE_FILE: &str = "queue.sqlite";
/// The folder of finished videos in the data folder.
pub(crate) const VIDEOS_DIR: &str = "videos";
/// The folder of unfinished ones.
const CHECKPOINTS_DIR: &str = "checkpoints";
/// Heartbeats within a lease: one may be lost without the lease being taken.
const HEARTBEATS_PER_LEASE: u32 = 4;
/// How often an idle worker looks at the queue unasked.
const POLL: Duration = Duration::from_secs(10);
/// How long an interrupted pipeline may take to its next check.
const INTERRUPT_WAIT: Duration = Duration::from_secs(5);
/// The shortest time between two pictures of a running video.
const PREVIEW_INTERVAL: Duration = Duration::from_secs(1);
/// How long open connections may take to end.
const CONNECTIONS_WAIT: Duration = Duration::from_secs(5);

/// Runs the server until SIGINT or SIGTERM; a second signal ends it at once.
///
/// # Errors
/// What keeps it from starting, a socket that breaks, or the last worker's failure.
pub(crate) fn run(config: Config, files: &ModelFiles, start_paused: bool) -> anyhow::Result<()> {
    // Ends after the runtime, so that it hears of all that ends with that.
    let _telemetry = crate::telemetry::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(config, files, start_paused))
}

async fn serve(mut config: Config, files: &ModelFiles, start_paused: bool) -> anyhow::Result<()> {
    raise_open_files();
    let recorder = measurements::install()?;
    let mut signals = StopSignal::listen()?;
    let arrivals = Arrivals::begin(files, &mut config, &mut signals).await?;
    let arrival = arrivals.subscribe();
    let models = ModelSet::new(&config)?;
    let offer = models.offer()?;
    let data = Data::open(&config).await?;
    check_exposure(&config, &data.queue).await?;
    if start_paused {
        data.queue.set_paused(true).await?;
    }
    let address = SocketAddr::new(config.server.address, config.server.port);
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("{address}: cannot be listened on"))?;

    for card in offer.catalog.iter() {
        if let Some(notice) = &card.notice {
            tracing::warn!(model = card.id, "{notice}");
        }
        tracing::info!(model = card.id, dtype = card.dtype, "model offered");
    }
    if let Some(adapters) = offer.adapters.clone() {
        // Read before somebody waits for it.
        tokio::task::spawn_blocking(move || {
            let names: Vec<String> =
                adapters.adapters_of("").into_iter().map(|adapter| adapter.name).collect();
            tracing::info!(?names, "adapters offered");
        });
    }
    tracing::info!(address = %listener.local_addr()?, "listening");
    let mut background = background(&config, &data)?;
    background.spawn(arrivals.finish());
    let devices = config.model.device.iter().enumerate();
    let workers = worker::start(
        worker_config(&config),
        &data.queue,
        &worker::Stores { videos: data.store.clone(), checkpoints: data.checkpoints.clone() },
        devices.map(|(number, device)| worker_device(number, *device, &models, &arrival)).collect(),
    )?;
    let parts =
        door::Parts { config: &config, data: &data, offer, recorder, workers: &workers, arrival: &arrival };
    let state = door::state(parts)?;

    let router = api::router(state);
    #[cfg(feature = "otel")]
    let router = router.layer(axum::middleware::from_fn(crate::traces::join_callers_trace));

    let (stop, mut stopped) = watch::channel(false);
    let header_timeout = Duration::from_secs(config.server.header_timeout_seconds.get().into());
    let server = tokio::spawn(http_server::serve(listener, router, header_timeout, async move {
        // An error means that the sender is gone, which is a stop too.
        let _ = stopped.wait_for(|stop| *stop).await;
    }));
    let failure = tokio::select! {
        () = signals.next() => None,
        // A supervisor's fresh start is worth more than a server that only refuses, or whose GPU is held by a thread
        // that never comes back. What other workers have in hand is parked first, as at any stop.
        reason = failure(workers.ready.clone()) => Some(reason),
    };
    tracing::info!("stopping; a second signal ends the process at once");
    tokio::spawn(exit_at_second_signal(signals));
    // The workers first tell the door, through the health, that they take no more.
    let grace = Duration::from_secs(config.server.shutdown_grace_seconds.into());
    workers.shutdown(grace).await;
    stop.send_replace(true);
    // Streams and downloads of slow readers must not hold the process.
    if let Ok(ended) = tokio::time::timeout(CONNECTIONS_WAIT, server).await {
        ended?;
    } else {
        tracing::warn!("connections still open; closing them");
    }
    drop(background);
    tracing::info!("stopped");
    failure.map_or(Ok(()), |reason| Err(anyhow!(reason)))
}

/// What lies in the data folder.
pub(crate) struct Data {
    pub(crate) queue: Queue,
    pub(crate) store: VideoStore,
    pub(crate) checkpoints: VideoStore,
}

impl Data {
    /// Opens the job table and the stores, and sweeps what an earlier process left there; its videos are the workers'
    /// to rescue.
    async fn open(config: &Config) -> anyhow::Result<Self> {
        let dir = &config.data_dir;
        std::fs::create_dir_all(dir).with_context(|| format!("{}: cannot be made", dir.display()))?;
        let limit = |limit: u32| (limit > 0).then_some(limit);
        let options = QueueOptions {
            capacity: config.queue.capacity.get(),
            lease_ms: i64::from(config.queue.lease_seconds.get()) * 1000,
            max_attempts: config.queue.max_attempts.get(),
            key_limits: KeyLimits {
                max_queued: limit(config.limits.max_queued_per_key),
                max_running: limit(config.limits.max_running_per_key),
                requests_per_minute: limit(config.limits.requests_per_minute_per_key),
            },
            model_run_max: config.queue.model_run_max,
        };
        let queue = Queue::open(&dir.join(QUEUE_FILE), Arc::new(SystemClock), options).await?;
        let store = VideoStore::open(&dir.join(VIDEOS_DIR)).await?;
        let known: HashSet<String> = queue.file_keys().await?.into_iter().collect();
        let swept = store.sweep(known).await?;
        let checkpoints = VideoStore::open(&dir.join(CHECKPOINTS_DIR)).await?;
        let known = queue.unsettled().await?.into_iter().map(worker::checkpoint_key).collect();
        checkpoints.sweep(known).await?;
        tracing::info!(?swept, "files without a video");
        Ok(Self { queue, store, checkpoints })
    }
}

/// Without a key whoever reaches the server may do everything, so nobody but this machine may reach it.
async fn check_exposure(config: &Config, queue: &Queue) -> anyhow::Result<()> {
    let address = config.server.address;
    if queue.api_keys().any().await? {
        return Ok(());
    }
    if !address.is_loopback() {
        bail!(
            "there is no API key, so only a loopback address is listened on, found server.address = {address}; \
             make a key first: cogvideox-server keys create NAME"
        );
    }
    tracing::warn!(
        "there is no API key: everybody on this machine may do everything, and nobody else anything"
    );
    Ok(())
}

/// Starts what goes on beside requests and videos; dropping it stops it.
fn background(config: &Config, data: &Data) -> anyhow::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    tasks.spawn(
        retention::Keeper {
            queue: data.queue.clone(),
            store: data.store.clone(),
            checkpoints: data.checkpoints.clone(),
            rules: config.retention.clone(),
        }
        .run(),
    );
    let secret = config.webhooks.secret.reveal();
    if !secret.is_empty() {
        let sender =
            WebhookSender::new(door::webhook_policy(config)?, Limits::default(), Resolver::system())?;
        tasks.spawn(webhooks::deliver(data.queue.clone(), sender, WebhookSecret::parse(secret)?));
    }
    Ok(tasks)
}

/// Thousands of readers are thousands of open files, and the usual limit is 1024.
fn raise_open_files() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn worker_config(config: &Config) -> WorkerConfig {
    let lease = Duration::from_secs(config.queue.lease_seconds.get().into());
    WorkerConfig {
        heartbeat: lease / HEARTBEATS_PER_LEASE,
        poll: POLL,
        interrupt_wait: INTERRUPT_WAIT,
        quality: config.video.quality,
        metadata: config.video.metadata,
        checkpoint_interval: Some(Duration::from_secs(config.worker.checkpoint_interval_seconds.into())),
        preview_interval: PREVIEW_INTERVAL,
        hang_factor: config.worker.hang_factor.get(),
        hang_min: Duration::from_secs(config.worker.hang_min_seconds.get().into()),
    }
}

/// A device, with what loads the default model there once the files of all are here; that is called on the worker's
/// thread.
fn worker_device(
    number: usize,
    device: DeviceSpec,
    models: &ModelSet,
    arrival: &watch::Receiver<Arrival>,
) -> worker::Device<impl FnMut() -> Result<SwappingGenerator, String> + Send + 'static> {
    let (name, models, mut arrival) = (device.to_string(), models.on(device), arrival.clone());
    let labels = BTreeMap::from([("worker", number.to_string()), ("device", name.clone())]);
    let build = move || {
        arrivals::wait(&mut arrival)?;
        SwappingGenerator::load(&models, labels.clone()).map_err(|e| e.to_string())
    };
    worker::Device { name, build }
}

/// Waits until all workers have failed for good, or one hangs.
async fn failure(mut ready: watch::Receiver<Readiness>) -> String {
    let is_failure = |ready: &Readiness| matches!(ready, Readiness::Failed(_) | Readiness::Hung(_));
    match ready.wait_for(is_failure).await.as_deref() {
        Ok(Readiness::Failed(reason) | Readiness::Hung(reason)) => reason.clone(),
        _ => "the workers are gone".to_owned(),
    }
}

/// SIGTERM and SIGINT, from when this is made on: one that comes before somebody waits for it is not lost.
pub(crate) struct StopSignal {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignal {
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn exit_at_second_signal(mut signals: StopSignal) {
    signals.next().await;
    tracing::warn!("second signal: ending without handing the videos back; the next start does");
    std::process::exit(130);
}
