//! `cogvideox-server download`: a published model into the cache; and the same for commands that need a model before
//! they begin. A signal ends it at once, with what it has kept.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use outbound::hub::{OnProgress, RepoId};

use crate::config::ModelPath;
use crate::model_files::{Begun, ModelFiles, Place, repository};
use crate::serve::StopSignal;
use crate::transfer::Transfer;

/// Fetch a model's files into the cache.
#[derive(Debug, Args)]
pub struct Download {
    /// cogvideox-2b, cogvideox-5b, cogvideox-5b-i2v, cogvideox-1.5-5b, cogvideox-1.5-5b-i2v, or a repository as
    /// OWNER/NAME or OWNER/NAME@REVISION.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// The hub's URL, for a mirror; hub.endpoint or `HF_ENDPOINT` if not given.
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
}

impl Download {
    /// Fetches what is missing, and prints the folder.
    ///
    /// # Errors
    /// What stood in the way and what to do about it; an interruption.
    pub(crate) fn run(&self, files: &ModelFiles, stdout: &mut impl Write) -> anyhow::Result<()> {
        let Some(repo) = repository(&self.model) else {
            bail!(
                "{}: expected the name of a published model (see download --help) or a repository as OWNER/NAME",
                self.model.display()
            );
        };
        // With a network, the hub is asked whether there is something newer.
        let here = if files.is_offline() { files.whole(&repo) } else { None };
        let dir = match here {
            Some(dir) => dir,
            None => fetch(files, &repo, Extent::Whole)?,
        };
        Ok(writeln!(stdout, "{}", dir.display())?)
    }
}

/// How much of a model is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All but the weights.
    Small,
    /// All.
    Whole,
}

/// A model that can be read, fetched first if it is not here.
///
/// # Errors
/// As [`Download::run`].
pub(crate) fn available(files: &ModelFiles, path: &ModelPath, extent: Extent) -> anyhow::Result<ModelPath> {
    match files.find(path) {
        Place::Here(path) => Ok(path),
        Place::OnHub(repo) => fetch(files, &repo, extent).map(ModelPath::Folder),
    }
}

/// Fetches with progress on stderr.
fn fetch(files: &ModelFiles, repo: &RepoId, extent: Extent) -> anyhow::Result<PathBuf> {
    let transfer = Arc::new(Transfer::stderr());
    let on_progress: OnProgress = {
        let transfer = Arc::clone(&transfer);
        Arc::new(move |progress| transfer.hear(progress))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let mut signals = StopSignal::listen()?;
        tokio::select! {
            begun = whole(files, repo, on_progress, extent) => begun,
            () = signals.next() => {
                bail!("interrupted; what has come is kept, and the next start goes on from there")
            }
        }
    });
    // A file that is being read for its checksum must not hold whoever pressed Ctrl-C.
    runtime.shutdown_background();
    result.map(|begun| begun.dir).with_context(|| format!("model {repo}"))
}

async fn whole(
    files: &ModelFiles,
    repo: &RepoId,
    on_progress: OnProgress,
    extent: Extent,
) -> anyhow::Result<Begun> {
    let begun = files.begin(repo, on_progress).await?;
    if extent == Extent::Whole {
        begun.finish().await?;
    }
    Ok(begun)
}
