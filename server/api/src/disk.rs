//! Whether the disk takes what a video needs, as readiness tells it.
//!
//! Found out by a write to the queue and a look at the free room, but at most once a second however often somebody
//! asks: probes must not become a load. The write alone would not tell: `SQLite` overwrites its log in place, also on a
//! disk that is full to the last byte.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::state::AppState;

/// How long an answer stands.
const STANDS_MS: i64 = 1000;
/// With less than this no video can be stored, whatever the operator wants to stay free.
const LEAST_ROOM_BYTES: u64 = 1 << 20;

/// What the last look at the disk found. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct DiskProbe(Arc<Mutex<Option<Look>>>);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    at_ms: i64,
    /// Whether the queue takes writes.
    pub(crate) queue_is_writable: bool,
    /// Whether another video's file has room.
    pub(crate) has_room: bool,
}

impl AppState {
    /// How the disk is, a second ago at most. Who comes while another looks waits for what that one finds.
    pub(crate) async fn look_at_disk(&self) -> Look {
        let mut last = self.disk.0.lock().await;
        let now_ms = self.clock.now_ms();
        if let Some(look) = *last
            // A clock that was set back does not keep an old answer alive.
            && (0..STANDS_MS).contains(&(now_ms - look.at_ms))
        {
            return look;
        }
        let written = self.queue.check_writable().await;
        if let Err(error) = &written {
            tracing::error!(%error, "the queue cannot be written");
        }
        let least = self.limits.min_free_bytes.max(LEAST_ROOM_BYTES);
        // Where nobody can tell, there is no reason to refuse.
        let has_room = (self.free_bytes)().await.is_none_or(|free| free >= least);
        let look = Look { at_ms: now_ms, queue_is_writable: written.is_ok(), has_room };
        *last = Some(look);
        look
    }
}
