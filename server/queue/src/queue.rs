//! The queue as its door sees it: open, enqueue, look, cancel, delete. The worker's side is in `claims`.
//!
//! Relies on SQLite in WAL mode with one writing connection. Whoever holds the writer commits and publishes before
//! letting go, which makes the order of the news the order of the commits. Reads go to other connections and wait
//! for nobody.

use std::{fs::File, future::Future, path::Path, sync::Arc, time::Duration};

use sqlx::{
    Connection as _, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};
use tokio::sync::Mutex;

use crate::{Clock, Error, NewVideo, Result, Status, Subscription, Video, VideoId, hub::Hub, row::Row};

const READERS: u32 = 4;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What an operator decides about the queue.
#[derive(Debug, Clone, Copy)]
pub struct QueueOptions {
    /// How many videos may wait.
    pub capacity: u32,
    /// How long after its last heartbeat a worker is given up for lost.
    pub lease_ms: i64,
    /// How many attempts a video may lose with their worker before it is given up too.
    pub max_attempts: u32,
}

/// The job table. Clones share it.
#[derive(Clone)]
pub struct Queue {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) writer: Mutex<SqliteConnection>,
    readers: SqlitePool,
    pub(crate) hub: Hub,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: QueueOptions,
    // Last, so that it outlives the connections: the lock is let go when the file is closed.
    _lock: File,
}

/// Which videos to list.
#[derive(Debug, Clone, Copy)]
pub struct ListQuery {
    /// Begin behind this one.
    pub after: Option<VideoId>,
    /// At most so many.
    pub limit: u32,
    /// In this order of creation.
    pub order: Order,
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

/// How much there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Waiting for a worker.
    pub queued: u32,
    /// With a worker.
    pub in_progress: u32,
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
    /// the process dies.
    pub async fn open(path: &Path, clock: Arc<dyn Clock>, options: QueueOptions) -> Result<Self> {
        let lock = lock(path)?;
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let mut writer = SqliteConnection::connect_with(&connect).await?;
        sqlx::migrate!("../../migrations/sqlite").run(&mut writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_lazy_with(connect.create_if_missing(false).read_only(true));
        let writer = Mutex::new(writer);
        let inner = Inner { writer, readers, hub: Hub::new(), clock, options, _lock: lock };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Puts a video at the end of its priority's line.
    ///
    /// # Errors
    /// [`Error::QueueFull`] when as many wait as may.
    pub async fn enqueue(&self, new: NewVideo) -> Result<Video> {
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let query = sqlx::query(
                "INSERT INTO videos (id, model, params, metadata, warnings, prompt_tokens, prompt_truncated,
                                     priority, total_steps, created_at_ms)
                 SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
                 WHERE (SELECT count(*) FROM videos WHERE status = 'queued') < ?
                 RETURNING *",
            )
            // Made while holding the writer, so that ids rise in the order of the commits.
            .bind(VideoId::new().to_string())
            .bind(new.model)
            .bind(to_json(&new.params))
            .bind(to_json(&new.metadata))
            .bind(to_json(&new.warnings))
            .bind(new.prompt_tokens)
            .bind(new.prompt_truncated)
            .bind(new.priority)
            .bind(new.params.num_inference_steps)
            .bind(inner.clock.now_ms())
            .bind(inner.options.capacity);
            let row = one(&query.fetch_all(&mut *writer).await?)?;
            let row = row.ok_or(Error::QueueFull { capacity: inner.options.capacity })?;
            inner.hub.work.notify_one();
            Ok(row.video)
        })
        .await
    }

    /// The video, as far as it has come.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get(&self, id: VideoId) -> Result<Video> {
        let running = self.inner.hub.running();
        let query = sqlx::query("SELECT * FROM videos WHERE id = ?").bind(id.to_string());
        let mut row = one(&query.fetch_all(&self.inner.readers).await?)?.ok_or(Error::NotFound(id))?;
        if let Some(running) = running.get(&id) {
            running.lay_over(&mut row);
        }
        Ok(row.video)
    }

    /// A part of all videos, in the order of their creation.
    ///
    /// # Errors
    /// [`Error::NotFound`] if `after` is not there to begin behind.
    pub async fn list(&self, query: ListQuery) -> Result<Page> {
        if let Some(after) = query.after {
            self.get(after).await?;
        }
        let running = self.inner.hub.running();
        let after = query.after.map(|id| id.to_string());
        let rows = match query.order {
            Order::Ascending => {
                sqlx::query("SELECT * FROM videos WHERE ?1 IS NULL OR id > ?1 ORDER BY id LIMIT ?2")
            }
            Order::Descending => {
                sqlx::query("SELECT * FROM videos WHERE ?1 IS NULL OR id < ?1 ORDER BY id DESC LIMIT ?2")
            }
        };
        // One more than asked for tells whether more follow.
        let rows = rows.bind(after).bind(i64::from(query.limit) + 1).fetch_all(&self.inner.readers).await?;
        let mut videos = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut row = Row::read(row)?;
            if let Some(running) = running.get(&row.video.id) {
                running.lay_over(&mut row);
            }
            videos.push(row.video);
        }
        let has_more = videos.len() > query.limit as usize;
        videos.truncate(query.limit as usize);
        Ok(Page { videos, has_more })
    }

    /// Asks for a video to be cancelled and returns it as it then is. A waiting one is cancelled at once; a running
    /// one stays in progress until its worker has stopped; a settled one stays as it is.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn request_cancel(&self, id: VideoId) -> Result<Video> {
        let changed = self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let query = sqlx::query(
                "UPDATE videos SET
                     cancel_requested_at_ms = ?1,
                     completed_at_ms = CASE status WHEN 'queued' THEN ?1 END,
                     status = CASE status WHEN 'queued' THEN 'cancelled' ELSE status END
                 WHERE id = ?2 AND status IN ('queued', 'in_progress') AND cancel_requested_at_ms IS NULL
                 RETURNING *",
            )
            .bind(inner.clock.now_ms())
            .bind(id.to_string());
            let running = inner.hub.running();
            let Some(mut row) = one(&query.fetch_all(&mut *writer).await?)? else { return Ok(None) };
            if let Some(running) = running.get(&id) {
                running.lay_over(&mut row);
            }
            if row.video.status == Status::Cancelled {
                inner.hub.settled(&row.video);
            } else {
                inner.hub.cancelling(&row.video);
            }
            Ok(Some(row.video))
        });
        match changed.await? {
            Some(video) => {
                tracing::info!(job.id = %id, job.status = %video.status, "cancel requested");
                Ok(video)
            }
            None => self.get(id).await,
        }
    }

    /// Removes a settled video and returns it as it was, so that its file can be removed too.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NotTerminal`] while it waits or runs.
    pub async fn delete(&self, id: VideoId) -> Result<Video> {
        let deleted = self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let query = sqlx::query(
                "DELETE FROM videos WHERE id = ? AND status IN ('completed', 'failed', 'cancelled') RETURNING *",
            )
            .bind(id.to_string());
            one(&query.fetch_all(&mut *writer).await?)
        });
        match deleted.await? {
            Some(row) => Ok(row.video),
            None => Err(Error::NotTerminal { id, status: self.get(id).await?.status }),
        }
    }

    /// The place of a waiting video, 1 being the next to be claimed; `None` unless it waits.
    pub async fn queue_position(&self, id: VideoId) -> Result<Option<u32>> {
        let position: Option<u32> = sqlx::query_scalar(
            "SELECT (SELECT count(*) FROM videos v WHERE v.status = 'queued'
                     AND (v.priority > me.priority OR (v.priority = me.priority AND v.id <= me.id)))
             FROM videos me WHERE me.id = ? AND me.status = 'queued'",
        )
        .bind(id.to_string())
        .fetch_optional(&self.inner.readers)
        .await?;
        Ok(position)
    }

    /// How much there is to do.
    pub async fn counts(&self) -> Result<Counts> {
        let (queued, in_progress) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM videos WHERE status = 'queued'),
                    (SELECT count(*) FROM videos WHERE status = 'in_progress')",
        )
        .fetch_one(&self.inner.readers)
        .await?;
        Ok(Counts { queued, in_progress })
    }

    /// The keys of all finished files, for the store to sweep by.
    pub async fn output_keys(&self) -> Result<Vec<String>> {
        let keys = sqlx::query_scalar("SELECT output_key FROM videos WHERE output_key IS NOT NULL")
            .fetch_all(&self.inner.readers)
            .await?;
        Ok(keys)
    }

    /// News of a video. Subscribe before reading its row.
    pub fn subscribe(&self, id: VideoId) -> Subscription {
        self.inner.hub.subscribe(id)
    }

    /// Waits until a video was put in the queue since the last call.
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
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::Stopping),
            },
        }
    }
}

/// The only row of a result. Callers fetch all rows, because a statement that is dropped after its first row commits
/// some time later, and a change must be committed before it is published.
pub(crate) fn one(rows: &[SqliteRow]) -> Result<Option<Row>> {
    rows.first().map(Row::read).transpose()
}

pub(crate) fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain structs with string keys become JSON")
}

fn lock(path: &Path) -> Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let path = Path::new(&name);
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|source| Error::LockFile { path: path.to_owned(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Locked { path: path.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(Error::LockFile { path: path.to_owned(), source }),
    }
}
