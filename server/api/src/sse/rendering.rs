//! What is told, written out once for all who are told.
//!
//! Two thousand readers of one video are sent the same bytes. Whoever comes to an item first writes it out, the others
//! share it; only the newest are kept, and a reader that comes later than that writes it out again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use metrics::counter;
use queue::{DurableEvent, EventKind, News, NewsItem, Progress, Stage, VideoId};
use serde::Serialize;
use tokio::sync::OnceCell;

use super::kind::{Kind, PREVIEW, PROGRESS, PreviewEvent, ProgressEvent, SNAPSHOT, STAGE, StageEvent};
use crate::error::Result;
use crate::routes::videos::DeletedVideo;
use crate::state::AppState;
use crate::video::{show, show_all};

/// So many items are kept, and so many bytes of them.
const KEPT: usize = 1024;
const KEPT_BYTES: usize = 8 << 20;

/// One item that many may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Item {
    Event(i64),
    Progress(VideoId, u32, Stage, u32, u8),
    Preview(VideoId, u32, u32),
}

type Shared = Arc<OnceCell<Bytes>>;

/// The newest items, written out.
#[derive(Debug, Default)]
pub(crate) struct Renderings(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Each with its length, once written.
    by_item: HashMap<Item, (Shared, usize)>,
    order: VecDeque<Item>,
    bytes: usize,
}

impl Renderings {
    async fn of(&self, item: Item, write: impl AsyncFnOnce() -> Result<Bytes>) -> Result<Bytes> {
        let shared = self.lock().cell(item);
        let written = async || {
            let bytes = write().await?;
            counter!("cogvideox_sse_rendered_total").increment(1);
            self.lock().wrote(item, bytes.len());
            Ok(bytes)
        };
        shared.get_or_try_init(written).await.cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        // Nothing panics while holding it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn cell(&mut self, item: Item) -> Shared {
        if let Some((shared, _)) = self.by_item.get(&item) {
            return Arc::clone(shared);
        }
        let shared = Shared::default();
        self.by_item.insert(item, (Arc::clone(&shared), 0));
        self.order.push_back(item);
        self.make_room();
        shared
    }

    fn wrote(&mut self, item: Item, bytes: usize) {
        if let Some((_, length)) = self.by_item.get_mut(&item) {
            *length = bytes;
            self.bytes += bytes;
            self.make_room();
        }
    }

    fn make_room(&mut self) {
        while self.bytes > KEPT_BYTES || self.order.len() > KEPT {
            let Some(oldest) = self.order.pop_front() else { break };
            self.bytes -= self.by_item.remove(&oldest).map_or(0, |(_, length)| length);
        }
    }
}

/// The lines of a news item: of an event all of them, of the others all but the id, which is the reader's.
pub(crate) async fn news(state: &AppState, item: &NewsItem) -> Result<Bytes> {
    let (id, shared) = (item.video_id, state.streams.renderings());
    match &item.news {
        News::Event { event, video } => {
            let write = async || {
                let data = match event.kind {
                    EventKind::Deleted => to_json(&DeletedVideo::from(id)),
                    _ => to_json(&show(state, video.as_ref().clone())),
                };
                Ok(durable(event, &data))
            };
            shared.of(Item::Event(event.seq), write).await
        }
        News::Progress { attempt, progress, step_ms } => {
            let Progress { stage, step, percent, .. } = *progress;
            let write = async || Ok(self::progress(state, id, *progress, *step_ms));
            shared.of(Item::Progress(id, *attempt, stage, step, percent), write).await
        }
        News::Preview { attempt, step, jpeg } => {
            let write = async || {
                let (content_type, b64) = ("image/jpeg", STANDARD.encode(jpeg));
                let data = PreviewEvent { video_id: id.to_string(), step: *step, content_type, b64 };
                Ok(PREVIEW.lines(&to_json(&data)).into())
            };
            shared.of(Item::Preview(id, *attempt, *step), write).await
        }
    }
}

/// Events of the past, each with its video as it is now: newer than it was then, and never older than what the reader
/// has seen of it since.
pub(crate) async fn past(state: &AppState, events: &[DurableEvent]) -> Result<Vec<Bytes>> {
    let mut ids: Vec<VideoId> = events.iter().map(|event| event.video_id).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut videos = HashMap::with_capacity(ids.len());
    let rows = state.queue.get_many(&ids).await?;
    let known: Vec<VideoId> = rows.iter().map(|row| row.id).collect();
    for (id, video) in known.into_iter().zip(show_all(state, rows)) {
        videos.insert(id, to_json(&video));
    }
    let write = |event: &DurableEvent| match videos.get(&event.video_id) {
        Some(video) if event.kind != EventKind::Deleted => durable(event, video),
        // Whatever happened to it, it is gone.
        _ => durable(event, &to_json(&DeletedVideo::from(event.video_id))),
    };
    Ok(events.iter().map(write).collect())
}

/// The lines of a snapshot.
pub(crate) fn snapshot(state: &AppState, seq: i64, row: queue::Video) -> String {
    let data = to_json(&show(state, row));
    format!("id: {seq}\n{}", SNAPSHOT.lines(&data))
}

/// The lines of a stage but for the id.
pub(crate) fn stage(id: VideoId, stage: Stage) -> String {
    STAGE.lines(&to_json(&StageEvent { video_id: id.to_string(), stage: stage.into() }))
}

fn progress(state: &AppState, id: VideoId, progress: Progress, step_ms: Option<f64>) -> Bytes {
    let data = ProgressEvent {
        video_id: id.to_string(),
        step: progress.step,
        total_steps: progress.total_steps,
        percent: progress.percent,
        step_seconds: step_ms.map(|ms| ms / 1000.0),
        eta_seconds: state.queue.remaining_ms(id).map(|ms| ms as f64 / 1000.0),
    };
    PROGRESS.lines(&to_json(&data)).into()
}

fn durable(event: &DurableEvent, data: &str) -> Bytes {
    format!("id: {}\n{}", event.seq, Kind::of(event.kind).lines(data)).into()
}

pub(crate) fn to_json(data: &impl Serialize) -> String {
    serde_json::to_string(data).expect("plain structs with string keys become JSON")
}
