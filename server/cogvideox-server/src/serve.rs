//! `cogvideox-server serve`: opens the data folder, starts the worker and answers HTTP until a signal.
//!
//! The order matters: what an earlier process left is put right before the worker starts, the socket is bound before
//! the model is read (so that `/readyz` can say "loading"), and on a signal the door closes before the worker stops.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use api::{AppState, Health, Limits, ModelCatalog};
use queue::{Queue, QueueOptions, SystemClock};
use store::VideoStore;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use worker::{Readiness, WorkerConfig};

use crate::config::Config;
use crate::model::{ModelSource, PipelineGenerator, PromptTokens};

/// The job table's file in the data folder.
const QUEUE_FILE: &str = "queue.sqlite";
/// The folder of finished videos in the data folder.
const VIDEOS_DIR: &str = "videos";
/// Heartbeats within a lease: one may be lost without the lease being taken.
const HEARTBEATS_PER_LEASE: u32 = 4;
/// How often an idle worker looks at the queue unasked.
const POLL: Duration = Duration::from_secs(10);
/// How long an interrupted pipeline may take to its next check.
const INTERRUPT_WAIT: Duration = Duration::from_secs(5);

/// Runs the server until SIGINT or SIGTERM; a second signal ends it at once.
///
/// # Errors
/// What keeps it from starting, or a socket that breaks.
pub(crate) fn run(config: Config) -> anyhow::Result<()> {
    crate::telemetry::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let source = ModelSource::new(&config.model);
    let description = source.describe()?;
    let (queue, store) = open_data(&config).await?;
    let address = SocketAddr::new(config.server.address, config.server.port);
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("{address}: cannot be listened on"))?;

    let card = source.card(&description);
    if let Some(notice) = &card.notice {
        tracing::warn!(model = card.id, "{notice}");
    }
    tracing::info!(address = %listener.local_addr()?, model = card.id, dtype = card.dtype, "listening");
    let worker = worker::start(
        worker_config(&config),
        queue.clone(),
        store.clone(),
        build_generator(&config, source),
    )?;
    let state = AppState {
        queue,
        store,
        catalog: Arc::new(ModelCatalog::new(card, Vec::new())),
        prompt_tokens: Arc::new(PromptTokens(description.tokenizer)),
        health: health(worker.ready.clone()),
        limits: limits(&config),
        clock: Arc::new(SystemClock),
    };

    let (stop, mut stopped) = watch::channel(false);
    let server = tokio::spawn(
        axum::serve(listener, api::router(state))
            .with_graceful_shutdown(async move {
                // An error means that the sender is gone, which is a stop too.
                let _ = stopped.wait_for(|stop| *stop).await;
            })
            .into_future(),
    );
    tokio::select! {
        result = stop_signal() => result?,
        // Nothing will be made any more: a supervisor's fresh start is worth more than a server that only refuses.
        reason = failure(worker.ready.clone()) => bail!("{reason}"),
    }
    tracing::info!("stopping; a second signal ends the process at once");
    tokio::spawn(exit_at_second_signal());
    // The worker first tells the door, through the health, that it takes no more.
    let grace = Duration::from_secs(config.server.shutdown_grace_seconds.into());
    worker.shutdown(grace).await;
    stop.send_replace(true);
    // Streams and downloads of slow readers must not hold the process.
    if let Ok(ended) = tokio::time::timeout(INTERRUPT_WAIT, server).await {
        ended??;
    } else {
        tracing::warn!("connections still open; closing them");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Opens the job table and the store, and sweeps what an earlier process left there; its videos are the worker's to
/// rescue.
async fn open_data(config: &Config) -> anyhow::Result<(Queue, VideoStore)> {
    let dir = &config.data_dir;
    std::fs::create_dir_all(dir).with_context(|| format!("{}: cannot be made", dir.display()))?;
    let options = QueueOptions {
        capacity: config.queue.capacity.get(),
        lease_ms: i64::from(config.queue.lease_seconds.get()) * 1000,
        max_attempts: config.queue.max_attempts.get(),
    };
    let queue = Queue::open(&dir.join(QUEUE_FILE), Arc::new(SystemClock), options).await?;
    let store = VideoStore::open(&dir.join(VIDEOS_DIR)).await?;
    let known: HashSet<String> = queue.output_keys().await?.into_iter().collect();
    let swept = store.sweep(known).await?;
    tracing::info!(?swept, "files without a video");
    Ok((queue, store))
}

fn worker_config(config: &Config) -> WorkerConfig {
    let lease = Duration::from_secs(config.queue.lease_seconds.get().into());
    WorkerConfig {
        heartbeat: lease / HEARTBEATS_PER_LEASE,
        poll: POLL,
        interrupt_wait: INTERRUPT_WAIT,
        quality: config.video.quality,
    }
}

/// Loads the pipeline; called on the worker's thread.
fn build_generator(
    config: &Config,
    source: ModelSource,
) -> impl FnMut() -> Result<PipelineGenerator, String> + Send + 'static {
    let vae_tiling = config.model.vae_tiling;
    move || {
        let started = std::time::Instant::now();
        let pipeline = source.load().map_err(|e| e.to_string())?;
        tracing::info!(duration_ms = started.elapsed().as_millis() as u64, "model loaded");
        Ok(PipelineGenerator { pipeline, vae_tiling })
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        max_body_bytes: config.limits.max_body_bytes.get() as usize,
        max_prompt_chars: config.limits.max_prompt_chars.get() as usize,
        request_timeout: Duration::from_secs(config.limits.request_timeout_seconds.get().into()),
        delete_wait: Duration::from_secs(config.limits.delete_wait_seconds.into()),
        ..Limits::default()
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

/// Waits until the worker has failed for good.
async fn failure(mut ready: watch::Receiver<Readiness>) -> String {
    match ready.wait_for(|readiness| matches!(readiness, Readiness::Failed(_))).await.as_deref() {
        Ok(Readiness::Failed(reason)) => reason.clone(),
        _ => "the worker is gone".to_owned(),
    }
}

async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    Ok(())
}

async fn exit_at_second_signal() {
    if stop_signal().await.is_ok() {
        tracing::warn!("second signal: ending without handing the video back; the next start does");
        std::process::exit(130);
    }
}
