//! The news about videos, in memory: who is running, how far, who wants it cancelled, and who wants to know.
//!
//! Relies on its callers to report a change after its commit and before the next one (they hold the writer), so
//! that news and rows agree in order. Knows no SQL. The rows lag behind on progress, which is written about once a
//! second; readers lay [`Hub::running`] over them and so never see less than a subscriber did.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

use crate::{Lease, Progress, Status, Video, VideoId, row::Row};

/// How many events a subscriber may be behind before it is told to read the row again.
const BACKLOG: usize = 1024;

/// How long progress may stay in memory before it is written to the row.
const WRITE_EVERY_MS: i64 = 1000;

/// Something that happened to a video.
#[derive(Debug, Clone)]
pub enum Event {
    /// A worker claimed it.
    Started(Arc<Video>),
    /// It came further.
    Progress {
        /// The attempt that came further.
        attempt: u32,
        /// How far.
        progress: Progress,
    },
    /// It runs, and somebody asked for it to be cancelled.
    Cancelling(Arc<Video>),
    /// It is back in the queue, its worker being stopped or lost.
    Requeued(Arc<Video>),
    /// It is completed, failed or cancelled: nothing follows.
    Settled(Arc<Video>),
    /// The subscriber was too slow and missed something: read the row again.
    Lagged,
}

#[derive(Debug)]
pub(crate) struct Hub {
    news: broadcast::Sender<(VideoId, Event)>,
    running: Mutex<HashMap<VideoId, Running>>,
    pub(crate) work: Notify,
}

/// What the hub knows about a video that a worker has.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    generation: i64,
    attempt: u32,
    progress: Option<Progress>,
    written_at_ms: i64,
    cancel: CancellationToken,
}

/// What became of a report of progress.
pub(crate) enum Advance {
    /// The lease is not the running one.
    Lost,
    /// Published; the row can wait.
    Published,
    /// Published, and the row is due to be told.
    Write(Progress),
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self { news: broadcast::channel(BACKLOG).0, running: Mutex::default(), work: Notify::new() }
    }

    pub(crate) fn subscribe(&self, id: VideoId) -> Subscription {
        Subscription { id, news: self.news.subscribe(), seen: None }
    }

    pub(crate) fn started(&self, row: &Row, now_ms: i64) -> CancellationToken {
        let cancel = CancellationToken::new();
        let running = Running {
            generation: row.generation,
            attempt: row.video.attempt,
            progress: None,
            written_at_ms: now_ms,
            cancel: cancel.clone(),
        };
        self.lock().insert(row.video.id, running);
        self.publish(row.video.id, Event::Started(Arc::new(row.video.clone())));
        cancel
    }

    pub(crate) fn advance(&self, lease: &Lease, mut next: Progress, now_ms: i64) -> Advance {
        let mut all = self.lock();
        let Some(running) = all.get_mut(&lease.video_id).filter(|r| r.generation == lease.generation) else {
            return Advance::Lost;
        };
        next.percent = next.percent.min(99);
        if let Some(last) = running.progress {
            if (next.stage, next.step) < (last.stage, last.step) {
                next = last;
            }
            next.percent = next.percent.max(last.percent);
        }
        let stage_changed = running.progress.is_none_or(|last| last.stage != next.stage);
        if running.progress != Some(next) {
            running.progress = Some(next);
            // Published under the lock, so that reports of one video keep their order.
            self.publish(lease.video_id, Event::Progress { attempt: running.attempt, progress: next });
        }
        if stage_changed || now_ms - running.written_at_ms >= WRITE_EVERY_MS {
            running.written_at_ms = now_ms;
            return Advance::Write(next);
        }
        Advance::Published
    }

    pub(crate) fn cancelling(&self, video: &Video) {
        if let Some(running) = self.lock().get(&video.id) {
            running.cancel.cancel();
        }
        self.publish(video.id, Event::Cancelling(Arc::new(video.clone())));
    }

    pub(crate) fn requeued(&self, video: &Video) {
        self.lock().remove(&video.id);
        self.publish(video.id, Event::Requeued(Arc::new(video.clone())));
        self.work.notify_one();
    }

    pub(crate) fn settled(&self, video: &Video) {
        self.lock().remove(&video.id);
        self.publish(video.id, Event::Settled(Arc::new(video.clone())));
    }

    /// What runs now. Take it *before* reading rows: a row read later is either still in progress, and this is at
    /// most a moment old, or has moved on and does not need it.
    pub(crate) fn running(&self) -> HashMap<VideoId, Running> {
        self.lock().clone()
    }

    fn publish(&self, id: VideoId, event: Event) {
        // No receiver is no failure: nobody is listening.
        let _ = self.news.send((id, event));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<VideoId, Running>> {
        // Nothing panics while holding it, and every entry is whole at any time.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// Lays what is known in memory over a row of the same lease.
    pub(crate) fn lay_over(&self, row: &mut Row) {
        let video = &mut row.video;
        if video.status != Status::InProgress || row.generation != self.generation {
            return;
        }
        if let Some(live) = self.progress
            && point(video) < (Some(live.stage), live.step, live.percent)
        {
            video.stage = Some(live.stage);
            video.step = live.step;
            video.total_steps = live.total_steps;
            video.progress = video.progress.max(live.percent);
        }
    }
}

fn point(video: &Video) -> (Option<crate::Stage>, u32, u8) {
    (video.stage, video.step, video.progress)
}

/// News of one video, from the moment of subscribing.
///
/// Subscribe first, then read the row and say so with [`Subscription::seen`]; then nothing is missed, and nothing
/// older than the row is told again.
#[derive(Debug)]
pub struct Subscription {
    id: VideoId,
    news: broadcast::Receiver<(VideoId, Event)>,
    seen: Option<Video>,
}

impl Subscription {
    /// The row as the subscriber now knows it: events that it already contains are left out from here on.
    pub fn seen(&mut self, video: &Video) {
        self.seen = Some(video.clone());
    }

    /// The next event, or `None` when the queue is gone.
    pub async fn recv(&mut self) -> Option<Event> {
        loop {
            match self.news.recv().await {
                Ok((id, event)) if id == self.id && !self.is_old(&event) => return Some(event),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return Some(Event::Lagged),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    fn is_old(&self, event: &Event) -> bool {
        let Some(seen) = &self.seen else { return false };
        match event {
            Event::Started(video) => video.attempt <= seen.attempt,
            Event::Progress { attempt, progress } => {
                *attempt < seen.attempt
                    || (*attempt == seen.attempt
                        && (Some(progress.stage), progress.step, progress.percent) <= point(seen))
            }
            Event::Cancelling(_) => seen.cancel_requested_at_ms.is_some(),
            Event::Requeued(video) => {
                video.attempt < seen.attempt
                    || (video.attempt == seen.attempt && seen.status != Status::InProgress)
            }
            Event::Settled(_) | Event::Lagged => false,
        }
    }
}
