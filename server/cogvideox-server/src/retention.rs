//! What makes room: removes the files of old videos by age, by the bytes of all, and by what the disk has left; and
//! forgets old events.
//!
//! The row goes first: it says that the video has expired before its files go.

use std::collections::HashSet;
use std::time::Duration;

use queue::{Clock, Queue, SystemClock, Video};
use store::VideoStore;

use crate::config::Retention;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(30);
const HOUR_MS: i64 = 3_600_000;
const MIB: u64 = 1 << 20;

/// What is kept, and where.
pub(crate) struct Keeper {
    pub(crate) queue: Queue,
    pub(crate) store: VideoStore,
    pub(crate) checkpoints: VideoStore,
    pub(crate) rules: Retention,
}

impl Keeper {
    /// Looks again and again until it is dropped.
    pub(crate) async fn run(self) {
        loop {
            if let Err(error) = self.make_room().await {
                tracing::error!(error = format!("{error:#}"), "old files cannot be removed");
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn make_room(&self) -> anyhow::Result<()> {
        let now_ms = SystemClock.now_ms();
        if self.rules.max_age_hours > 0 {
            let cutoff_ms = now_ms - i64::from(self.rules.max_age_hours) * HOUR_MS;
            while self.remove(self.queue.expire_before(cutoff_ms).await?, "age").await {}
        }
        if self.rules.max_total_mib > 0 {
            let allowed = self.rules.max_total_mib.saturating_mul(MIB);
            loop {
                let over = self.queue.files_bytes().await?.saturating_sub(allowed);
                if over == 0 || !self.remove(self.queue.expire_oldest(over).await?, "total bytes").await {
                    break;
                }
            }
        }
        let floor = self.rules.min_free_mib.saturating_mul(MIB);
        loop {
            let missing = floor.saturating_sub(self.store.free_bytes().await?);
            if missing == 0 || !self.remove(self.queue.expire_oldest(missing).await?, "free disk").await {
                break;
            }
        }
        let history_ms = i64::from(self.rules.history_days.get()) * 24 * HOUR_MS;
        let age_ms = match self.rules.max_age_hours {
            0 => history_ms,
            hours => i64::from(hours) * HOUR_MS,
        };
        self.remove(self.queue.expire_images(now_ms - age_ms).await?, "failed long ago").await;
        self.queue.prune(now_ms - history_ms).await?;
        self.remove_checkpoints().await
    }

    /// Removes the checkpoints of videos that were settled while no worker had them.
    async fn remove_checkpoints(&self) -> anyhow::Result<()> {
        // The files first: one that is made after that is none of these.
        let files = self.checkpoints.keys().await?;
        let needed: HashSet<String> =
            self.queue.unsettled().await?.into_iter().map(worker::checkpoint_key).collect();
        for key in files.iter().filter(|key| !needed.contains(*key)) {
            self.checkpoints.delete(key).await?;
        }
        Ok(())
    }

    /// Removes the files of videos that have expired; says whether there were any.
    async fn remove(&self, expired: Vec<Video>, rule: &str) -> bool {
        for video in &expired {
            tracing::info!(job.id = %video.id, rule, "video expired");
            for file in video.files() {
                if let Err(error) = self.store.delete(&file.key).await {
                    tracing::warn!(job.id = %video.id, key = file.key, %error, "an expired file stays until the next start");
                }
            }
        }
        !expired.is_empty()
    }
}
