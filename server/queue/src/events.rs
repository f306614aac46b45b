//! The durable events: what happened to each video, in the order of the commits.
//!
//! An event is written in the transaction of the change that it tells of. Server-sent events, webhooks and the audit
//! trail all come from this one table, so they cannot disagree with the rows or with each other.

use std::sync::Arc;

use serde::Serialize;
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use crate::{Error, KeyId, Queue, Result, Status, Video, VideoId};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// It waits in the queue: it is new, or its worker was stopped or lost.
    Queued,
    /// A worker claimed it.
    Started,
    /// It runs, and somebody asked for it to be cancelled.
    Cancelling,
    /// It has another priority.
    Moved,
    /// There is a file.
    Completed,
    /// There is an error.
    Failed,
    /// It was cancelled.
    Cancelled,
    /// Its files were removed to make room.
    Expired,
    /// It was deleted.
    Deleted,
}

impl EventKind {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Queued, "queued"),
        (Self::Started, "started"),
        (Self::Cancelling, "cancelling"),
        (Self::Moved, "moved"),
        (Self::Completed, "completed"),
        (Self::Failed, "failed"),
        (Self::Cancelled, "cancelled"),
        (Self::Expired, "expired"),
        (Self::Deleted, "deleted"),
    ];

    /// The word that is stored and shown.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, word)| word)
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == word).map(|(kind, _)| *kind)
    }

    /// Whether the video's making ended with it.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// What a video that has just come to this status has to tell.
    pub(crate) fn of(status: Status) -> Self {
        match status {
            Status::Queued => Self::Queued,
            Status::InProgress => Self::Started,
            Status::Completed => Self::Completed,
            Status::Failed => Self::Failed,
            Status::Cancelled => Self::Cancelled,
        }
    }
}

/// Something that happened to a video and will have happened for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DurableEvent {
    /// Rises with every event of the database, also across restarts.
    pub seq: i64,
    /// Whose it is.
    pub video_id: VideoId,
    /// The video's API key.
    pub owner: Option<KeyId>,
    /// What happened.
    pub kind: EventKind,
    /// The video's attempt at that time.
    pub attempt: u32,
    /// Who did it: the name of an API key; none if the server did.
    pub actor: Option<String>,
    /// More about it, such as an error's code.
    pub detail: Option<String>,
    /// When.
    pub at_ms: i64,
}

/// Whose news to hear.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// One video's.
    Video(VideoId),
    /// All videos' of one API key.
    Key(KeyId),
    /// All videos'.
    All,
}

impl Topic {
    pub(crate) fn covers(&self, event_video: VideoId, event_owner: Option<&KeyId>) -> bool {
        match self {
            Self::Video(id) => *id == event_video,
            Self::Key(key) => Some(key) == event_owner,
            Self::All => true,
        }
    }
}

/// An event to be written.
#[derive(Debug, Default)]
pub(crate) struct NewEvent<'a> {
    pub(crate) actor: Option<&'a str>,
    pub(crate) detail: Option<&'a str>,
}

/// Writes an event in the transaction of its change; and, where the video's end is somebody's to be told, the
/// delivery.
pub(crate) async fn append(
    tx: &mut SqliteConnection,
    video: &Video,
    kind: EventKind,
    at_ms: i64,
    new: NewEvent<'_>,
) -> Result<Arc<DurableEvent>> {
    let row = sqlx::query(
        "INSERT INTO events (video_id, owner, kind, attempt, actor, detail, at_ms) VALUES (?, ?, ?, ?, ?, ?, ?)
         RETURNING *",
    )
    .bind(video.id.to_string())
    .bind(video.owner.as_ref().map(|key| key.0.as_str()))
    .bind(kind.as_str())
    .bind(video.attempt)
    .bind(new.actor)
    .bind(new.detail)
    .bind(at_ms)
    .fetch_one(&mut *tx)
    .await?;
    let event = read(&row)?;
    if let Some(url) = video.webhook_url.as_ref().filter(|_| kind.is_end()) {
        sqlx::query(
            "INSERT INTO webhook_deliveries (event_seq, video_id, kind, url, created_at_ms, next_attempt_at_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
        )
        .bind(event.seq)
        .bind(video.id.to_string())
        .bind(kind.as_str())
        .bind(url)
        .bind(at_ms)
        .execute(&mut *tx)
        .await?;
    }
    Ok(Arc::new(event))
}

impl Queue {
    /// The events after `seq`, the oldest first, at most `limit`.
    pub async fn events_after(&self, topic: &Topic, seq: i64, limit: u32) -> Result<Vec<DurableEvent>> {
        let (filter, word) = match topic {
            Topic::Video(id) => ("video_id = ?1", id.to_string()),
            Topic::Key(key) => ("owner = ?1", key.0.clone()),
            Topic::All => ("?1 = ''", String::new()),
        };
        // Three texts in all, none of them a client's.
        let text = format!("SELECT * FROM events WHERE {filter} AND seq > ?2 ORDER BY seq LIMIT ?3");
        let rows = sqlx::query(sqlx::AssertSqlSafe(text))
            .bind(word)
            .bind(seq)
            .bind(limit)
            .fetch_all(&self.inner.readers)
            .await?;
        rows.iter().map(read).collect()
    }

    /// The number of the newest event of all, 0 if there is none.
    pub async fn last_event(&self) -> Result<i64> {
        let seq: Option<i64> =
            sqlx::query_scalar("SELECT max(seq) FROM events").fetch_one(&self.inner.readers).await?;
        Ok(seq.unwrap_or(0))
    }
}

pub(crate) fn read(row: &SqliteRow) -> Result<DurableEvent> {
    let seq: i64 = row.try_get("seq")?;
    let corrupt = |column, found| Error::Corrupt { id: format!("event {seq}"), column, found };
    let (id, kind): (String, String) = (row.try_get("video_id")?, row.try_get("kind")?);
    Ok(DurableEvent {
        seq,
        video_id: id.parse().map_err(|_| corrupt("video_id", id))?,
        owner: row.try_get::<Option<String>, _>("owner")?.map(KeyId),
        kind: EventKind::from_word(&kind).ok_or_else(|| corrupt("kind", kind))?,
        attempt: row.try_get("attempt")?,
        actor: row.try_get("actor")?,
        detail: row.try_get("detail")?,
        at_ms: row.try_get("at_ms")?,
    })
}
