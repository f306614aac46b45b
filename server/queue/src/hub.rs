//! The news about videos, in memory: who is running, how far, who wants it cancelled, and who wants to know.
//!
//! Relies on its callers to report a change after its commit and before the next one (they hold the writer), so
//! that news and rows agree in order. Knows no SQL. The rows lag behind on progress, which is written about once a
//! second; readers lay [`Hub::running`] over them and so never see less than a subscriber did.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

use crate::{
    DurableEvent, KeyId, Lease, Progress, Stage, Status, Subscription, Topic, Video, VideoId,
    line::{Ahead, Line, Workers},
    metrics,
    pace::Pace,
    row::Row,
    subscription::point,
};

/// How many items a subscriber may be behind before it must read the events and the row again.
const BACKLOG: usize = 1024;

/// How long progress may stay in memory before it is written to the row.
const WRITE_EVERY_MS: i64 = 1000;

/// Something to tell about a video.
#[derive(Debug, Clone)]
pub enum News {
    /// It happened for good. `seq` rises from one to the next.
    Event {
        /// What happened.
        event: Arc<DurableEvent>,
        /// The video as it then was.
        video: Arc<Video>,
    },
    /// It came further.
    Progress {
        /// The attempt that came further.
        attempt: u32,
        /// How far.
        progress: Progress,
        /// How long the last step took.
        step_ms: Option<f64>,
    },
    /// What it looks like so far.
    Preview {
        /// The attempt.
        attempt: u32,
        /// Steps finished.
        step: u32,
        /// A small picture.
        jpeg: Arc<[u8]>,
    },
}

/// News, and whose they are.
#[derive(Debug, Clone)]
pub struct NewsItem {
    /// The video.
    pub video_id: VideoId,
    /// Its API key.
    pub owner: Option<KeyId>,
    /// What there is to tell.
    pub news: News,
}

/// What a subscriber hears.
#[derive(Debug, Clone)]
pub enum Heard {
    /// One item.
    News(Arc<NewsItem>),
    /// The subscriber was too slow and missed some: the durable ones are in the table.
    Lagged,
}

#[derive(Debug)]
pub(crate) struct Hub {
    news: broadcast::Sender<Arc<NewsItem>>,
    running: Mutex<HashMap<VideoId, Running>>,
    previews: Mutex<HashMap<Topic, usize>>,
    pace: Mutex<Pace>,
    line: Mutex<Line>,
    /// How many workers there are.
    workers: AtomicU32,
    pub(crate) work: Notify,
    pub(crate) deliveries: Notify,
}

/// What the hub knows about a video that a worker has.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    lease: Lease,
    attempt: u32,
    owner: Option<KeyId>,
    megapixels: f64,
    total_steps: u32,
    /// The percents that earlier attempts came to.
    floor_percent: u8,
    /// The steps that its checkpoint holds: it does not fall behind them, unless it has to begin anew.
    floor_step: u32,
    /// Whether the next report may go backwards, its checkpoint being gone.
    begins_anew: bool,
    progress: Option<Progress>,
    /// The last denoising step heard of in this attempt, and when.
    last_step: Option<(u32, i64)>,
    key_name: Option<String>,
    started_at_ms: i64,
    written_at_ms: i64,
    cancel: CancellationToken,
}

/// What became of a report.
pub(crate) enum Advance {
    /// Subscribers know.
    Published,
    /// They do, and the row must.
    Write(Progress),
    /// The lease is not the one that runs.
    Lost,
}

impl Hub {
    pub(crate) fn new(pace: Pace, line: Line) -> Self {
        Self {
            news: broadcast::channel(BACKLOG).0,
            running: Mutex::default(),
            previews: Mutex::default(),
            pace: Mutex::new(pace),
            line: Mutex::new(line),
            workers: AtomicU32::new(1),
            work: Notify::new(),
            deliveries: Notify::new(),
        }
    }

    pub(crate) fn subscribe(&self, topic: Topic) -> Subscription {
        Subscription::new(topic, self.news.subscribe())
    }

    /// A video was claimed; the news of it follow by [`Hub::publish`].
    pub(crate) fn started(
        &self,
        video: &Video,
        lease: &Lease,
        key_name: Option<String>,
        now_ms: i64,
    ) -> CancellationToken {
        let cancel = CancellationToken::new();
        let running = Running {
            lease: lease.clone(),
            attempt: video.attempt,
            owner: video.owner.clone(),
            megapixels: video.params.megapixels(),
            total_steps: video.total_steps,
            floor_percent: video.progress,
            floor_step: video.checkpoint_step.unwrap_or(0),
            begins_anew: false,
            progress: None,
            last_step: None,
            key_name,
            started_at_ms: now_ms,
            written_at_ms: now_ms,
            cancel: cancel.clone(),
        };
        lock(&self.running).insert(video.id, running);
        cancel
    }

    pub(crate) fn advance(&self, lease: &Lease, mut next: Progress, now_ms: i64) -> Advance {
        let mut all = lock(&self.running);
        let Some(running) = all.get_mut(&lease.video_id).filter(|r| r.lease == *lease) else {
            return Advance::Lost;
        };
        next.percent = next.percent.clamp(running.floor_percent.min(99), 99);
        next.step = next.step.max(running.floor_step);
        if let Some(last) = running.progress {
            if !running.begins_anew && (next.stage, next.step) < (last.stage, last.step) {
                next = last;
            }
            next.percent = next.percent.max(last.percent);
        }
        running.begins_anew = false;
        let stage_changed = running.progress.is_none_or(|last| last.stage != next.stage);
        let step_ms = running.step_ms(next, now_ms);
        if let Some(ms) = step_ms {
            lock(&self.pace).step_took(ms, running.megapixels);
        }
        if running.progress != Some(next) {
            running.progress = Some(next);
            // Published under the lock, so that reports of one video keep their order.
            let news = News::Progress { attempt: running.attempt, progress: next, step_ms };
            self.send(NewsItem { video_id: lease.video_id, owner: running.owner.clone(), news });
        }
        // A clock that was set back must not stop the writing until it has caught up.
        if stage_changed || !(0..WRITE_EVERY_MS).contains(&(now_ms - running.written_at_ms)) {
            running.written_at_ms = now_ms;
            return Advance::Write(next);
        }
        Advance::Published
    }

    /// The checkpoint now holds so many steps, or is gone; the percents that subscribers know by then.
    pub(crate) fn note_checkpoint(&self, lease: &Lease, step: Option<u32>) -> u8 {
        let mut all = lock(&self.running);
        let Some(running) = all.get_mut(&lease.video_id).filter(|r| r.lease == *lease) else { return 0 };
        running.floor_step = step.unwrap_or(0);
        running.begins_anew |= step.is_none();
        running.progress.map_or(0, |progress| progress.percent)
    }

    /// What subscribers know of the videos that run, and the rows may not.
    pub(crate) fn reports(&self) -> Vec<(Lease, Progress)> {
        let all = lock(&self.running);
        all.values().filter_map(|running| Some((running.lease.clone(), running.progress?))).collect()
    }

    pub(crate) fn preview(&self, lease: &Lease, step: u32, jpeg: Vec<u8>) {
        let all = lock(&self.running);
        if let Some(running) = all.get(&lease.video_id).filter(|r| r.lease == *lease) {
            let news = News::Preview { attempt: running.attempt, step, jpeg: jpeg.into() };
            self.send(NewsItem { video_id: lease.video_id, owner: running.owner.clone(), news });
        }
    }

    /// Tells of a change that is committed, and does what it means for whoever runs or waits.
    pub(crate) fn publish(&self, event: &Arc<DurableEvent>, video: &Video) {
        if video.status == Status::InProgress {
            if video.cancel_requested_at_ms.is_some()
                && let Some(running) = lock(&self.running).get(&video.id)
            {
                running.cancel.cancel();
            }
        } else if let Some(ran) = lock(&self.running).remove(&video.id) {
            metrics::worked(ran.key_name.as_deref(), ran.started_at_ms, event.at_ms);
        }
        lock(&self.line).changed(video);
        metrics::happened(event, video);
        if video.status == Status::Queued {
            self.work.notify_one();
        }
        let news = News::Event { event: Arc::clone(event), video: Arc::new(video.clone()) };
        self.send(NewsItem { video_id: video.id, owner: video.owner.clone(), news });
    }

    pub(crate) fn finished(&self, video: &Video) {
        // The stages of a video that was gone on with are those of its last attempt only.
        if video.attempt == 1 {
            lock(&self.pace).video_took(&video.params, &video.timings);
        }
    }

    /// What runs now. Take it *before* reading rows: a row read later is either still in progress, and this is at
    /// most a moment old, or has moved on and does not need it.
    pub(crate) fn running(&self) -> HashMap<VideoId, Running> {
        lock(&self.running).clone()
    }

    pub(crate) fn set_workers(&self, workers: u32) {
        self.workers.store(workers, Ordering::Relaxed);
    }

    /// Calls the next worker, if anything waits.
    pub(crate) fn wake_next(&self) {
        if !lock(&self.line).is_empty() {
            self.work.notify_one();
        }
    }

    /// Where these videos stand, those among them that wait.
    pub(crate) fn ahead(&self, ids: impl Iterator<Item = VideoId>) -> HashMap<VideoId, Ahead> {
        let (workers, ms_per_cost) = (self.busy_workers(), self.pace(|pace| pace.waiting_ms(1.0)));
        lock(&self.line).ahead(ids, workers, ms_per_cost)
    }

    /// Milliseconds until everything that runs and waits now is finished.
    pub(crate) fn all_ms(&self) -> Option<f64> {
        let (workers, ms_per_cost) = (self.busy_workers(), self.pace(|pace| pace.waiting_ms(1.0))?);
        Some(lock(&self.line).all_ms(workers, ms_per_cost))
    }

    pub(crate) fn pace<T>(&self, ask: impl FnOnce(&Pace) -> T) -> T {
        ask(&lock(&self.pace))
    }

    /// Milliseconds until this running video is finished.
    pub(crate) fn remaining_ms(&self, id: VideoId) -> Option<f64> {
        let running = lock(&self.running).get(&id).cloned()?;
        self.pace(|pace| pace.remaining_ms(running.megapixels, running.total_steps, running.progress))
    }

    /// The workers with what they have in hand, as far as known how long that takes.
    fn busy_workers(&self) -> Workers {
        let running = self.running();
        let mut workers = Workers::free(self.workers.load(Ordering::Relaxed));
        self.pace(|pace| {
            for r in running.values() {
                workers.take(pace.remaining_ms(r.megapixels, r.total_steps, r.progress).unwrap_or(0.0));
            }
        });
        workers
    }

    /// The API key of a running video.
    pub(crate) fn owner_of(&self, id: VideoId) -> Option<KeyId> {
        lock(&self.running).get(&id).and_then(|running| running.owner.clone())
    }

    pub(crate) fn previews(&self) -> MutexGuard<'_, HashMap<Topic, usize>> {
        lock(&self.previews)
    }

    fn send(&self, item: NewsItem) {
        // No receiver is no failure: nobody is listening.
        let _ = self.news.send(Arc::new(item));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while holding one, and what they hold is whole at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    /// Lays what is known in memory over a row of the same lease.
    pub(crate) fn lay_over(&self, row: &mut Row) {
        let video = &mut row.video;
        if video.status != Status::InProgress || row.generation != self.lease.generation {
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

    /// How long each step since the last report took.
    fn step_ms(&mut self, next: Progress, now_ms: i64) -> Option<f64> {
        if next.stage != Stage::Denoise {
            self.last_step = None;
            return None;
        }
        let (last, at_ms) =
            self.last_step.filter(|(last, _)| *last <= next.step).unwrap_or((next.step, now_ms));
        if last == next.step {
            self.last_step = Some((last, at_ms));
            return None;
        }
        self.last_step = Some((next.step, now_ms));
        // A clock that was set back measured nothing.
        (now_ms >= at_ms).then(|| (now_ms - at_ms) as f64 / f64::from(next.step - last))
    }
}
