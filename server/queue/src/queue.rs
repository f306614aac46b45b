//! The queue itself: opening it and looking at it. What comes in is in `enqueue`, what is asked from the door in
//! `door`, the worker's side in `claims` and `settle`.
//!
//! Relies on one writing connection. Whoever holds the writer commits and publishes before letting go, which makes
//! the order of the news the order of the commits. Reads go to other connections and wait for nobody.

use std::{collections::HashMap, fs::File, future::Future, path::Path, sync::Arc};

use sqlx::{SqliteConnection, SqlitePool, sqlite::SqliteRow};
use tokio::sync::Mutex;

use crate::{
    ApiKeys, Clock, Error, KeyId, KeyLimits, Result, State, Subscription, Topic, Unwritable, Video, VideoId,
    database::{self, Writer},
    hub::{Hub, Running},
    line::Line,
    metrics,
    pace::Pace,
    row::Row,
};

/// Finished videos from which the pace is known at the start.
const PACE_FROM_VIDEOS: u32 = 21;

/// What an operator decides about the queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueOptions {
    /// How many videos may wait.
    pub capacity: u32,
    /// How long after its last heartbeat a worker is given up for lost.
    pub lease_ms: i64,
    /// How many attempts in a row a video may lose with their worker, none getting further than those before, until
    /// it is given up too.
    pub max_attempts: u32,
    /// What one API key may take, unless the key says otherwise.
    pub key_limits: KeyLimits,
    /// How often a video may be passed over for later ones whose model is loaded already.
    pub model_run_max: u32,
}

/// The job table. Clones share it.
#[derive(Clone)]
pub struct Queue {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) writer: Mutex<Writer>,
    pub(crate) readers: SqlitePool,
    pub(crate) hub: Hub,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: QueueOptions,
    // Last, so that it outlives the connections: the lock is let go when the file is closed.
    _lock: File,
}

/// Which videos to list.
#[derive(Debug, Clone)]
pub struct ListQuery {
    /// Begin behind this one.
    pub after: Option<VideoId>,
    /// At most so many.
    pub limit: u32,
    /// In this order of creation.
    pub order: Order,
    /// Only those of this API key.
    pub owner: Option<KeyId>,
    /// Only those in these states; empty for all.
    pub states: Vec<State>,
}

/// An order of creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The videos.
    pub videos: Vec<Video>,
    /// Whether more follow.
    pub has_more: bool,
}

/// [`Video::state`] in SQL, held against a list of words.
const IN_STATES: &str =
    "CASE WHEN status = 'in_progress' AND cancel_requested_at_ms IS NOT NULL THEN 'cancelling'
          WHEN status = 'completed' AND expired_at_ms IS NOT NULL THEN 'expired'
          ELSE status END IN (SELECT value FROM json_each(?4))";

/// How much there is to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Counts {
    /// Waiting for a worker.
    pub queued: u32,
    /// With a worker.
    pub in_progress: u32,
    /// When the oldest of those that wait was enqueued.
    pub oldest_queued_at_ms: Option<i64>,
    /// Whether nothing is claimed for now.
    pub paused: bool,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl Queue {
    /// Opens the database at `path`, making it if need be, and brings its tables up to date.
    ///
    /// # Errors
    /// [`Error::Locked`] while another process has it: `<path>.lock` is held until the last clone is dropped, or
    /// the process dies. [`Error::Database`] also where it can be read and not written.
    pub async fn open(path: &Path, clock: Arc<dyn Clock>, options: QueueOptions) -> Result<Self> {
        let lock = database::lock(path)?;
        let mut writer = database::connect(path).await?;
        database::migrate(&mut writer).await?;
        // SQLite lets a transaction begin on a file that it may only read: a server that could accept nothing says so
        // here, not at its first request.
        sqlx::query("UPDATE queue_state SET id = id").execute(&mut writer).await?;
        let hub = Hub::new(past_pace(&mut writer).await?, waiting(&mut writer).await?);
        metrics::begin();
        let readers = database::pool(database::options(path).create_if_missing(false).read_only(true));
        let writer = Mutex::new(Writer::new(writer, path));
        let inner = Inner { writer, readers, hub, clock, options, _lock: lock };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The API keys of the same database, for looking keys up.
    pub fn api_keys(&self) -> ApiKeys {
        ApiKeys::of_pool(self.inner.readers.clone(), Arc::clone(&self.inner.clock))
    }

    /// The video, as far as it has come.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get(&self, id: VideoId) -> Result<Video> {
        Ok(self.snapshot(id).await?.0)
    }

    /// The video, and the number of its newest event: what a subscriber has then seen.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn snapshot(&self, id: VideoId) -> Result<(Video, i64)> {
        let running = self.inner.hub.running();
        let query = sqlx::query(
            "SELECT *, coalesce((SELECT max(seq) FROM events WHERE video_id = videos.id), 0) AS last_seq
             FROM videos WHERE id = ?",
        )
        .bind(id.to_string());
        let rows = query.fetch_all(&self.inner.readers).await?;
        let row = one(&rows)?.ok_or(Error::NotFound(id))?;
        Ok((laid_over(row, &running), sqlx::Row::try_get(&rows[0], "last_seq")?))
    }

    /// Those of these videos that are there, as far as they have come, in no order.
    pub async fn get_many(&self, ids: &[VideoId]) -> Result<Vec<Video>> {
        let running = self.inner.hub.running();
        let rows = sqlx::query("SELECT * FROM videos WHERE id IN (SELECT value FROM json_each(?))")
            .bind(to_json(&ids))
            .fetch_all(&self.inner.readers)
            .await?;
        rows.iter().map(|row| Ok(laid_over(Row::read(row)?, &running))).collect()
    }

    /// A part of all videos, in the order of their creation.
    ///
    /// # Errors
    /// [`Error::NotFound`] if `after` is not there to begin behind.
    pub async fn list(&self, query: ListQuery) -> Result<Page> {
        if let Some(after) = query.after {
            let known = self.get(after).await?;
            if query.owner.is_some() && known.owner != query.owner {
                return Err(Error::NotFound(after));
            }
        }
        let running = self.inner.hub.running();
        // Before and behind every id: a comparison that is always there is one that an index serves.
        let (compare, direction, outside) = match query.order {
            Order::Ascending => (">", "ASC", ""),
            Order::Descending => ("<", "DESC", "w"),
        };
        let owner = if query.owner.is_some() { "owner = ?3" } else { "?3 IS NULL" };
        // Few texts in all, none of them a client's.
        let states = if query.states.is_empty() { "?4 = '[]'" } else { IN_STATES };
        let text = format!(
            "SELECT * FROM videos WHERE id {compare} ?1 AND {owner} AND {states} ORDER BY id {direction} LIMIT ?2"
        );
        let words: Vec<&str> = query.states.iter().map(|state| state.as_str()).collect();
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(query.after.map_or(outside.to_owned(), |id| id.to_string()))
            // One more than asked for tells whether more follow.
            .bind(i64::from(query.limit) + 1)
            .bind(query.owner.map(|key| key.0))
            .bind(to_json(&words))
            .fetch_all(&self.inner.readers)
            .await?;
        let videos = rows.iter().map(|row| Ok(laid_over(Row::read(row)?, &running)));
        let mut videos = videos.collect::<Result<Vec<_>>>()?;
        let has_more = videos.len() > query.limit as usize;
        videos.truncate(query.limit as usize);
        Ok(Page { videos, has_more })
    }

    /// How much there is to do.
    pub async fn counts(&self) -> Result<Counts> {
        let (queued, in_progress, oldest_queued_at_ms, paused) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM videos WHERE status = 'queued'),
                    (SELECT count(*) FROM videos WHERE status = 'in_progress'),
                    -- The ids sort by creation.
                    (SELECT created_at_ms FROM videos WHERE id = (SELECT min(id) FROM videos WHERE status = 'queued')),
                    (SELECT paused FROM queue_state)",
        )
        .fetch_one(&self.inner.readers)
        .await?;
        Ok(Counts { queued, in_progress, oldest_queued_at_ms, paused })
    }

    /// The time that the rows are written by.
    pub fn now_ms(&self) -> i64 {
        self.inner.clock.now_ms()
    }

    /// Writes nothing new, to find out whether it could.
    ///
    /// # Errors
    /// What the database says, such as that its disk is full.
    pub async fn check_writable(&self) -> Result<()> {
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            sqlx::query("UPDATE queue_state SET paused = paused").execute(writer.ready().await?).await?;
            Ok(())
        })
        .await
    }

    /// What an operator decided.
    pub fn options(&self) -> QueueOptions {
        self.inner.options
    }

    /// News of a topic. Subscribe before reading what there is.
    pub fn subscribe(&self, topic: Topic) -> Subscription {
        self.inner.hub.subscribe(topic)
    }

    /// Waits until a video was put in the queue since the last call, or the queue was resumed.
    pub async fn work_available(&self) {
        self.inner.hub.work.notified().await;
    }

    /// Runs a change to its end even if the caller goes away in the middle (a client that hangs up drops its
    /// handler): between a commit and its publication there is no way out.
    pub(crate) async fn write<T, W, F>(&self, change: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(Arc<Inner>) -> F,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        match tokio::spawn(change(Arc::clone(&self.inner))).await {
            Ok(result) => result.inspect_err(count_busy),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::Stopping),
            },
        }
    }
}

fn count_busy(error: &Error) {
    if error.unwritable() == Some(Unwritable::Busy) {
        ::metrics::counter!("cogvideox_db_busy_total").increment(1);
    }
}

/// The only row of a result. Callers fetch all rows, because a statement that is dropped after its first row commits
/// some time later, and a change must be committed before it is published.
pub(crate) fn one(rows: &[SqliteRow]) -> Result<Option<Row>> {
    rows.first().map(Row::read).transpose()
}

/// The video of a row, as far as its worker says.
fn laid_over(mut row: Row, running: &HashMap<VideoId, Running>) -> Video {
    if let Some(running) = running.get(&row.video.id) {
        running.lay_over(&mut row);
    }
    row.video
}

pub(crate) fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain structs with string keys become JSON")
}

async fn waiting(connection: &mut SqliteConnection) -> Result<Line> {
    let rows = sqlx::query("SELECT * FROM videos WHERE status = 'queued'").fetch_all(connection).await?;
    let mut line = Line::default();
    for row in &rows {
        line.changed(&Row::read(row)?.video);
    }
    Ok(line)
}

async fn past_pace(connection: &mut SqliteConnection) -> Result<Pace> {
    let rows = sqlx::query(
        "SELECT * FROM videos WHERE status = 'completed' AND attempt = 1 ORDER BY completed_at_ms DESC LIMIT ?",
    )
    .bind(PACE_FROM_VIDEOS)
    .fetch_all(connection)
    .await?;
    let mut pace = Pace::default();
    for row in rows.iter().rev() {
        let video = Row::read(row)?.video;
        pace.video_took(&video.params, &video.timings);
    }
    Ok(pace)
}
