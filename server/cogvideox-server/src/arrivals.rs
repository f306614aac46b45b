//! Models that are still on their way while the server answers: what is known of them already, when the workers may read
//! them, and what is said until then.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use outbound::hub::{OnProgress, Progress};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::config::{Config, ModelPath};
use crate::model_files::{Begun, ModelFiles, Place};
use crate::serve::StopSignal;
use crate::transfer::Tally;

/// Whether the models' files are here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// All of them.
    Here,
    /// Not yet, in words.
    Awaited(String),
    /// They will not be, for this reason.
    Failed(String),
}

/// What is to be fetched while the server is up.
#[derive(Debug)]
pub(crate) struct Arrivals {
    begun: Vec<Begun>,
    told: watch::Sender<Arrival>,
}

impl Arrivals {
    /// Puts each model's folder into the configuration, with all but the weights in it: what the API must know of a
    /// model before it answers. What comes from the hub is a few small files, so this waits for them.
    ///
    /// # Errors
    /// What the hub or the disk refuses; a stop.
    pub(crate) async fn begin(
        files: &ModelFiles,
        config: &mut Config,
        signals: &mut StopSignal,
    ) -> anyhow::Result<Self> {
        let told = watch::Sender::new(Arrival::Here);
        let mut begun = Vec::new();
        let paths = config.models.values_mut().map(|model| &mut model.path);
        for path in [&mut config.model.path].into_iter().chain(paths) {
            match files.find(path) {
                Place::Here(found) => *path = found,
                Place::OnHub(repo) => {
                    tracing::info!(%repo, "the model is not here yet: fetching it");
                    let model = tokio::select! {
                        model = files.begin(&repo, teller(told.clone())) => model,
                        () = signals.next() => bail!("stopped while fetching model {repo}"),
                    };
                    let model = model.with_context(|| format!("model {repo}"))?;
                    *path = ModelPath::Folder(model.dir.clone());
                    begun.push(model);
                }
            }
        }
        if !begun.is_empty() {
            told.send_replace(Arrival::Awaited("the model's files are being fetched".to_owned()));
        }
        Ok(Self { begun, told })
    }

    /// How it is with the files, as it changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arrival> {
        self.told.subscribe()
    }

    /// Fetches the weights, of one model after the other.
    pub(crate) async fn finish(self) {
        for model in &self.begun {
            if let Err(error) = model.finish().await {
                let reason = format!("model {}: {error:#}", model.repo);
                self.told.send_replace(Arrival::Failed(reason));
                return;
            }
            tracing::info!(repo = %model.repo, folder = %model.dir.display(), "the model is here");
        }
        self.told.send_replace(Arrival::Here);
    }
}

/// Tells how far a download is, in the log and to whoever asks for the server's readiness.
fn teller(told: watch::Sender<Arrival>) -> OnProgress {
    let tally = Arc::new(Mutex::new(Tally::default()));
    Arc::new(move |progress| {
        if let Progress::Retry { error, delay } = progress {
            tracing::warn!(%error, delay_ms = delay.as_millis() as u64, "trying again");
        }
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.hear(progress);
        let words = format!("the model's files are being fetched: {}", tally.words());
        told.send_if_modified(|arrival| match arrival {
            Arrival::Awaited(before) if *before != words => {
                *before = words;
                true
            }
            _ => false,
        });
    })
}

/// Waits, on a thread without a task, until the files are here.
///
/// # Errors
/// Why they will not be.
pub(crate) fn wait(arrival: &mut watch::Receiver<Arrival>) -> Result<(), String> {
    let settled = |arrival: &Arrival| !matches!(arrival, Arrival::Awaited(_));
    match Handle::current().block_on(arrival.wait_for(settled)).as_deref() {
        Ok(Arrival::Failed(reason)) => Err(reason.clone()),
        Ok(_) => Ok(()),
        Err(_) => Err("the server stopped before the model's files were here".to_owned()),
    }
}
