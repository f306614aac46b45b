//! One reader of a stream: what it is told next.
//!
//! It hears the queue's news and is told them one after the other, as fast as it takes them. While it is behind, the
//! news wait as references: durable ones all of them, of progress and previews the latest only. A reader so far behind
//! that the queue no longer keeps its news is told the durable ones out of the table, from its cursor on; a page at a
//! time, so that also a long absence costs little. So it hears every durable event once, in order, however slow it is.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::{FutureExt as _, Stream};
use metrics::counter;
use queue::{
    DurableEvent, EventKind, Heard, News, NewsItem, PreviewWish, Stage, Subscription, Topic, VideoId,
};
use tokio::sync::watch;
use tokio::task::unconstrained;
use tokio::time::{Instant, sleep_until};

use super::kind::ERROR;
use super::rendering::{self, to_json};
use super::streams::Place;
use crate::error::{Code, Result};
use crate::sse::kind::StreamError;
use crate::state::{AppState, Health};

const PING_EVERY: Duration = Duration::from_secs(15);
const PING: Bytes = Bytes::from_static(b": ping\n\n");
/// The first line of a stream: how long to wait before coming back, in milliseconds.
const RETRY: &str = "retry: 3000\n";
/// Events of the past are read so many at a time.
const PAGE: u32 = 64;

/// What a reader is and where it begins.
pub(crate) struct Opening {
    /// What it follows. A subscription to it, made before anything was read.
    pub(crate) topic: Topic,
    pub(crate) news: Subscription,
    /// Its place among the open streams.
    pub(crate) place: Place,
    /// Held while it wants previews.
    pub(crate) previews: Option<PreviewWish>,
    /// The last durable event that it has.
    pub(crate) cursor: i64,
    /// Whether there may be durable events after the cursor that are no news.
    pub(crate) behind: bool,
    /// Whether nothing can follow but what is in the table.
    pub(crate) finished: bool,
    /// The video as it is, for a reader of one.
    pub(crate) snapshot: Option<queue::Video>,
}

/// Where a reader's next words come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// From the table, after the cursor.
    Behind,
    /// From the news.
    Live,
    /// Nowhere: the stream ends with what is to be sent.
    Ended,
}

/// One reader.
pub(crate) struct Reader {
    state: AppState,
    topic: Topic,
    news: Subscription,
    place: Place,
    previews: Option<PreviewWish>,
    cursor: i64,
    phase: Phase,
    /// Whether a snapshot follows when it is no longer behind.
    snapshot_due: bool,
    /// Whether the stream ends when it is no longer behind.
    end_due: bool,
    health: watch::Receiver<Health>,
    /// The stage last told of each running video.
    stages: HashMap<VideoId, Stage>,
    /// Heard, but not told yet.
    heard: VecDeque<Arc<NewsItem>>,
    /// To be sent as it is.
    out: VecDeque<Bytes>,
    ping_at: Instant,
}

impl Reader {
    /// The stream from its first line to its end.
    pub(crate) fn body(state: AppState, opening: Opening) -> Body {
        let mut reader = Self {
            topic: opening.topic,
            news: opening.news,
            place: opening.place,
            previews: opening.previews,
            cursor: opening.cursor,
            phase: if opening.behind { Phase::Behind } else { Phase::Live },
            snapshot_due: false,
            end_due: opening.finished,
            health: state.health.clone(),
            stages: HashMap::new(),
            heard: VecDeque::new(),
            out: VecDeque::new(),
            ping_at: Instant::now() + PING_EVERY,
            state,
        };
        reader.news.seen(reader.cursor, opening.snapshot.as_ref());
        let first = match opening.snapshot {
            Some(video) => reader.snapshot(video),
            // No event; the id is where the reader comes back to if it is cut off before the first one.
            None => format!("id: {}\n\n", reader.cursor),
        };
        reader.out.push_back(format!("{RETRY}{first}").into());
        Body::from_stream(reader.frames())
    }

    fn frames(self) -> impl Stream<Item = std::result::Result<Bytes, Infallible>> {
        futures_util::stream::unfold(self, async |mut reader| {
            loop {
                if let Some(bytes) = reader.out.pop_front() {
                    return Some((Ok(bytes), reader));
                }
                if reader.phase == Phase::Ended {
                    return None;
                }
                if let Err(error) = reader.advance().await {
                    tracing::warn!(%error, "event stream broke off");
                    reader.break_off(Code::Internal, "the server could not read its videos");
                }
            }
        })
    }

    /// Does the next thing there is to do: at most one page or item is written, so that a reader who takes nothing
    /// makes no work. What looks at the database is boxed: a stream mostly waits, and there are thousands.
    async fn advance(&mut self) -> Result<()> {
        if self.phase == Phase::Behind {
            return Box::pin(self.catch_up()).await;
        }
        if Instant::now() >= self.ping_at {
            return Box::pin(self.ping()).await;
        }
        match self.heard.pop_front() {
            Some(item) => Box::pin(self.tell(&item)).await,
            None => self.listen().await,
        }
    }

    /// Waits until there is something to tell.
    async fn listen(&mut self) -> Result<()> {
        tokio::select! {
            // What has happened goes before the shutdown.
            biased;
            heard = self.news.recv() => {
                self.hear(heard);
                Ok(())
            }
            () = draining(&mut self.health) => {
                self.break_off(Code::ServerDraining, "the server is shutting down");
                Ok(())
            }
            // It is due then, and comes next.
            () = sleep_until(self.ping_at) => Ok(()),
        }
    }

    /// Takes in all that there is to hear.
    fn hear(&mut self, first: Option<Heard>) {
        let mut next = Some(first);
        while let Some(heard) = next {
            match heard {
                // The queue is gone.
                None => self.phase = Phase::Ended,
                Some(Heard::News(item)) => self.note(item),
                Some(Heard::Lagged) => {
                    // What was heard before is in the table too, but for what is no longer worth telling.
                    self.heard.clear();
                    // From the newest on: what the queue still keeps is as good as gone.
                    self.news = self.state.queue.subscribe(self.topic.clone());
                    self.phase = Phase::Behind;
                    self.snapshot_due = matches!(self.topic, Topic::Video(_));
                    counter!("cogvideox_sse_dropped_total").increment(1);
                }
            }
            if self.phase != Phase::Live {
                break;
            }
            // All at once: tokio would have a task pause in the middle, and the news go stale.
            next = unconstrained(self.news.recv()).now_or_never();
        }
    }

    /// Keeps an item for telling, in place of an older one of its sort that was not told yet.
    fn note(&mut self, item: Arc<NewsItem>) {
        if matches!(item.news, News::Preview { .. }) && self.previews.is_none() {
            return;
        }
        let durable = |item: &NewsItem| matches!(item.news, News::Event { .. });
        if !durable(&item) {
            let same = |other: &NewsItem| {
                other.video_id == item.video_id
                    && std::mem::discriminant(&other.news) == std::mem::discriminant(&item.news)
            };
            let late = self.heard.iter().rev().take_while(|other| !durable(other));
            if let Some(back) = late.enumerate().find(|(_, other)| same(other)).map(|(back, _)| back) {
                self.heard.remove(self.heard.len() - 1 - back);
                counter!("cogvideox_sse_dropped_total").increment(1);
            }
        }
        self.heard.push_back(item);
    }

    /// Writes out one item.
    async fn tell(&mut self, item: &NewsItem) -> Result<()> {
        let lines = rendering::news(&self.state, item).await?;
        match &item.news {
            News::Event { event, .. } => {
                self.out.push_back(lines);
                self.told(event);
                if self.end_due {
                    self.phase = Phase::Ended;
                }
            }
            News::Progress { progress, .. } => {
                let id = format!("id: {}.{}\n", self.cursor, progress.step);
                if self.stages.insert(item.video_id, progress.stage) != Some(progress.stage) {
                    let stage = rendering::stage(item.video_id, progress.stage);
                    self.out.push_back(format!("{id}{stage}").into());
                }
                self.out.extend([id.into(), lines]);
            }
            News::Preview { step, .. } => {
                self.out.extend([format!("id: {}.{step}\n", self.cursor).into(), lines]);
            }
        }
        Ok(())
    }

    /// Notes that a durable event is told.
    fn told(&mut self, event: &DurableEvent) {
        self.cursor = event.seq;
        let begins_or_ends = !matches!(event.kind, EventKind::Moved | EventKind::Cancelling);
        if begins_or_ends {
            self.stages.remove(&event.video_id);
        }
        let ends = event.kind.is_end() || matches!(event.kind, EventKind::Expired | EventKind::Deleted);
        self.end_due |= ends && matches!(self.topic, Topic::Video(_));
    }

    /// Tells the next page of what happened behind the cursor.
    async fn catch_up(&mut self) -> Result<()> {
        if *self.health.borrow() == Health::Draining {
            // The cursor knows how far this came.
            self.break_off(Code::ServerDraining, "the server is shutting down");
            return Ok(());
        }
        let events = self.state.queue.events_after(&self.topic, self.cursor, PAGE).await?;
        self.out.extend(rendering::past(&self.state, &events).await?);
        for event in &events {
            self.told(event);
        }
        if events.len() < PAGE as usize {
            self.caught_up().await?;
        }
        Ok(())
    }

    async fn caught_up(&mut self) -> Result<()> {
        self.news.seen(self.cursor, None);
        self.phase = if self.end_due { Phase::Ended } else { Phase::Live };
        let snapshot_due = std::mem::take(&mut self.snapshot_due);
        if let (Phase::Live, true, Topic::Video(id)) = (self.phase, snapshot_due, &self.topic) {
            // After the events: what happens from here on is news, and told again rather than not at all.
            match self.state.queue.get(*id).await {
                Ok(video) => {
                    self.news.seen(self.cursor, Some(&video));
                    let lines = self.snapshot(video);
                    self.out.push_back(lines.into());
                }
                // Gone since: the news say so.
                Err(queue::Error::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn snapshot(&mut self, video: queue::Video) -> String {
        if let Some(stage) = video.stage {
            self.stages.insert(video.id, stage);
        }
        rendering::snapshot(&self.state, self.cursor, video)
    }

    /// Shows that the stream lives, if it may live on.
    async fn ping(&mut self) -> Result<()> {
        self.ping_at = Instant::now() + PING_EVERY;
        if let Some(key) = self.place.key()
            && self.state.api_keys.active(key).await?.is_none()
        {
            self.break_off(Code::InvalidApiKey, "this API key was revoked");
            return Ok(());
        }
        self.out.push_back(PING);
        Ok(())
    }

    fn break_off(&mut self, code: Code, message: &str) {
        self.phase = Phase::Ended;
        let error = StreamError { code: code.as_str(), message: message.to_owned() };
        self.out.push_back(ERROR.lines(&to_json(&error)).into());
    }
}

/// Returns when the server shuts down.
async fn draining(health: &mut watch::Receiver<Health>) {
    if health.wait_for(|health| *health == Health::Draining).await.is_err() {
        // Nobody is left who could say so.
        std::future::pending::<()>().await;
    }
}
