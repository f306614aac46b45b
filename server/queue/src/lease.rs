//! Who works on a video: the owner, its lease on one row, and what passes between a worker and the queue.
//!
//! A lease carries a generation that rises with every claim of the row. Each write by a worker names it, so that a
//! worker that was given up for lost finds no row to write to, however late it comes back.

use std::fmt;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Stage, Video, VideoId};

/// One worker in one life of a server. A restarted server is another life, which is how its predecessor's rows are
/// known; the workers of one life leave each other's rows alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    life: Uuid,
    worker: u32,
}

impl Owner {
    /// The first worker of a life that never was before.
    pub fn unique() -> Self {
        Self { life: Uuid::now_v7(), worker: 0 }
    }

    /// Another worker of the same life, by its number.
    #[must_use]
    pub fn worker(&self, number: u32) -> Self {
        Self { worker: number, ..*self }
    }

    /// What the text of every owner of this life begins with.
    pub(crate) fn life(&self) -> String {
        format!("{}.", self.life.simple())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.life(), self.worker)
    }
}

/// The right to write to one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub(crate) video_id: VideoId,
    pub(crate) owner: Owner,
    pub(crate) generation: i64,
}

impl Lease {
    /// The video it is for.
    pub fn video_id(&self) -> VideoId {
        self.video_id
    }
}

/// A video to work on.
#[derive(Debug)]
pub struct Claim {
    /// The row as claimed.
    pub video: Video,
    /// The right to write to it.
    pub lease: Lease,
    /// Cancelled the moment somebody asks for the video to be cancelled.
    pub cancel: CancellationToken,
}

/// What a heartbeat brings back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Somebody asked for the video to be cancelled.
    pub cancel_requested: bool,
}

/// How far a running video is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Denoising steps finished.
    pub step: u32,
    /// Denoising steps in all.
    pub total_steps: u32,
    /// Share of the whole work, 0 to 99.
    pub percent: u8,
}

/// Where a video stands, and how long until it is finished.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Its place in the line, 1 being the next; none unless it waits.
    pub queue_position: Option<u32>,
    /// How long until it is finished; none before anything was measured, and after the end.
    pub eta_ms: Option<u64>,
}

/// What a rescue did with the rows whose worker is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Put back in their place in the queue.
    pub requeued: u32,
    /// Given up, having lost their worker too often.
    pub failed: u32,
    /// Settled as cancelled, since that was asked for.
    pub cancelled: u32,
}
