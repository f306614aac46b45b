//! Checkpoints on the disk: one file a video, replaced by each newer one, gone when the video has ended.
//!
//! The files are written without syncing, so each begins with a digest of the rest: what a power cut tore is known as
//! such. What is in the rest is the generator's affair.

use std::sync::Arc;

use queue::VideoId;
use sha2::{Digest as _, Sha256};
use tokio::{sync::watch, task::spawn_blocking};

use crate::{attempt::Attempt, monitor::Snapshot};

/// SHA-256.
const DIGEST_BYTES: usize = 32;

/// What an earlier attempt left.
pub(crate) struct Checkpoint {
    pub(crate) step: u32,
    pub(crate) state: Vec<u8>,
}

impl Attempt<'_> {
    /// What to go on from, if anything.
    pub(crate) async fn read_checkpoint(&self) -> Option<Checkpoint> {
        let step = self.video.checkpoint_step?;
        let reason = match self.runner.stores.checkpoints.read(&key(self.video.id)).await {
            Ok(file) => match unseal(file) {
                Some(state) => return Some(Checkpoint { step, state }),
                None => "its digest is another".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        tracing::warn!(%reason, step, "the checkpoint cannot be read, the video starts over");
        self.drop_checkpoint().await;
        None
    }

    /// Forgets a checkpoint that cannot be gone on from.
    pub(crate) async fn drop_checkpoint(&self) {
        match self.runner.queue.drop_checkpoint(&self.lease).await {
            Ok(()) => self.remove_checkpoint().await,
            Err(queue::Error::LeaseLost { .. }) => self.stop.lost.cancel(),
            // The next one replaces the file, and until then it is as bad as it was.
            Err(error) => tracing::warn!(%error, "the bad checkpoint stays"),
        }
    }

    /// Removes the file of a video that needs none any more.
    pub(crate) async fn remove_checkpoint(&self) {
        if let Err(error) = self.runner.stores.checkpoints.delete(&key(self.video.id)).await {
            tracing::warn!(%error, "the checkpoint stays until the next sweep");
        }
    }

    /// Writes each new checkpoint, or the newest of those that came while one was being written.
    pub(crate) async fn write_checkpoints(&self, mut newest: watch::Receiver<Option<Arc<Snapshot>>>) {
        while self.is_news(&mut newest).await {
            let Some(snapshot) = newest.borrow_and_update().clone() else { continue };
            // Nobody will go on from it.
            if self.stop.cancel.is_cancelled() || self.stop.lost.is_cancelled() {
                continue;
            }
            let step = snapshot.step;
            let Ok(file) = spawn_blocking(move || seal(&snapshot.state)).await else { continue };
            if let Err(error) = self.runner.stores.checkpoints.put_volatile(&key(self.video.id), file).await {
                tracing::warn!(%error, step, "the checkpoint is not written");
                continue;
            }
            match self.runner.queue.keep_checkpoint(&self.lease, step).await {
                Ok(()) => tracing::debug!(step, "checkpoint kept"),
                Err(queue::Error::LeaseLost { .. }) => self.stop.lost.cancel(),
                Err(error) => tracing::warn!(%error, step, "the checkpoint is not noted"),
            }
        }
    }
}

/// The name of a video's checkpoint in its store.
pub fn key(id: VideoId) -> String {
    format!("{id}.ckpt")
}

fn seal(state: &[u8]) -> Vec<u8> {
    [Sha256::digest(state).as_slice(), state].concat()
}

fn unseal(mut file: Vec<u8>) -> Option<Vec<u8>> {
    let state = file.split_off(file.len().min(DIGEST_BYTES));
    (Sha256::digest(&state).as_slice() == file).then_some(state)
}
