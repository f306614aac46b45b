//! The webhooks' outbox: which ends of videos are still to be told, written with the ends themselves.
//!
//! Whoever delivers takes what is due, tries, and says here how it went; a delivery that nobody reports on is due
//! again, so that a killed server tells twice rather than never.

use sqlx::{Row as _, sqlite::SqliteRow};

use crate::{Error, EventKind, Queue, Result, VideoId, queue::Inner};

/// A webhook to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The event that it tells of; also the delivery's name.
    pub event_seq: i64,
    /// Whose end it is.
    pub video_id: VideoId,
    /// How it ended.
    pub kind: EventKind,
    /// Whom to tell.
    pub url: String,
    /// When it ended.
    pub created_at_ms: i64,
    /// How often it was tried.
    pub attempts: u32,
}

/// How a delivery went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// It arrived.
    Delivered,
    /// It did not, and is tried again in so many milliseconds; or never.
    Failed {
        /// Why, in one line.
        error: String,
        /// When to try again.
        retry_in_ms: Option<i64>,
    },
}

impl Queue {
    /// What is due now, the longest due first.
    pub async fn due_deliveries(&self, limit: u32) -> Result<Vec<Delivery>> {
        let rows = sqlx::query(
            "SELECT * FROM webhook_deliveries WHERE next_attempt_at_ms <= ? ORDER BY next_attempt_at_ms LIMIT ?",
        )
        .bind(self.inner.clock.now_ms())
        .bind(limit)
        .fetch_all(&self.inner.readers)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Notes how a delivery went.
    pub async fn settle_delivery(&self, event_seq: i64, outcome: DeliveryOutcome) -> Result<()> {
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let now_ms = inner.clock.now_ms();
            let (delivered_at_ms, next_ms, error) = match outcome {
                DeliveryOutcome::Delivered => (Some(now_ms), None, None),
                DeliveryOutcome::Failed { error, retry_in_ms } => {
                    (None, retry_in_ms.map(|ms| now_ms.saturating_add(ms)), Some(error))
                }
            };
            sqlx::query(
                "UPDATE webhook_deliveries
                 SET attempts = attempts + 1, delivered_at_ms = ?, next_attempt_at_ms = ?, last_error = ?
                 WHERE event_seq = ?",
            )
            .bind(delivered_at_ms)
            .bind(next_ms)
            .bind(error)
            .bind(event_seq)
            .execute(writer.ready().await?)
            .await?;
            Ok(())
        })
        .await
    }

    /// How many deliveries are still to be made, and how long until the next is due.
    pub async fn outbox(&self) -> Result<Outbox> {
        let (pending, next_ms): (u32, Option<i64>) = sqlx::query_as(
            "SELECT count(*), min(next_attempt_at_ms) FROM webhook_deliveries WHERE next_attempt_at_ms IS NOT NULL",
        )
        .fetch_one(&self.inner.readers)
        .await?;
        let due_in_ms = next_ms.map(|ms| (ms - self.inner.clock.now_ms()).max(0) as u64);
        Ok(Outbox { pending, due_in_ms })
    }

    /// Waits until a delivery was added since the last call.
    pub async fn delivery_added(&self) {
        self.inner.hub.deliveries.notified().await;
    }
}

/// What is left in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outbox {
    /// Deliveries still to be made.
    pub pending: u32,
    /// How long until the next is due.
    pub due_in_ms: Option<u64>,
}

/// Wakes whoever delivers, if this end is somebody's to be told.
pub(crate) fn wake(inner: &Inner, video: &crate::Video) {
    if video.webhook_url.is_some() && video.status.is_terminal() {
        inner.hub.deliveries.notify_one();
    }
}

fn read(row: &SqliteRow) -> Result<Delivery> {
    let event_seq: i64 = row.try_get("event_seq")?;
    let corrupt = |column, found| Error::Corrupt { id: format!("delivery {event_seq}"), column, found };
    let (id, kind): (String, String) = (row.try_get("video_id")?, row.try_get("kind")?);
    Ok(Delivery {
        event_seq,
        video_id: id.parse().map_err(|_| corrupt("video_id", id))?,
        kind: EventKind::from_word(&kind).ok_or_else(|| corrupt("kind", kind))?,
        url: row.try_get("url")?,
        created_at_ms: row.try_get("created_at_ms")?,
        attempts: row.try_get("attempts")?,
    })
}
