//! How a video comes into the queue: limits, its turn, and requests that came before.
//!
//! All of it in one transaction, so that two requests with one idempotency key make one video, and a limit is never
//! overstepped.

use std::collections::HashMap;

use sqlx::SqliteConnection;

use crate::{
    Enqueued, Error, EventKind, KeyId, NewVideo, Queue, Result, Submission, Video, VideoId,
    events::{self, NewEvent},
    hub::Running,
    queue::{Inner, one, to_json},
    row::Row,
};

/// How long a client's own retry, which carries no key, is known for one. The official client gives up sooner.
const RETRY_WINDOW_MS: i64 = 120_000;

impl Queue {
    /// Puts a video at the end of its key's line within its priority; or finds the one that an earlier request of
    /// the same client made.
    ///
    /// # Errors
    /// [`Error::QueueFull`] and [`Error::KeyQueueFull`] when as many wait as may; [`Error::IdempotencyKeyReuse`].
    pub async fn enqueue(&self, new: NewVideo, actor: Option<&str>) -> Result<Enqueued> {
        let actor = actor.map(ToOwned::to_owned);
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let mut tx = writer.begin().await?;
            let now_ms = inner.clock.now_ms();
            let running = inner.hub.running();
            if let Some(submission) = &new.submission
                && let Some(row) = earlier(&mut tx, new.owner.as_ref(), submission, now_ms).await?
            {
                return Ok(Enqueued { video: laid_over(&running, row), replayed: true });
            }
            check_limits(&mut tx, &inner, new.owner.as_ref()).await?;
            let video = insert(&mut tx, &new, now_ms).await?;
            if let Some(Submission { fingerprint, idempotency_key: Some(key), .. }) = &new.submission {
                sqlx::query(
                    "INSERT INTO idempotency_keys (owner, key, fingerprint, video_id, created_at_ms)
                     VALUES (?, ?, ?, ?, ?)",
                )
                .bind(owner_word(new.owner.as_ref()))
                .bind(key)
                .bind(fingerprint)
                .bind(video.id.to_string())
                .bind(now_ms)
                .execute(&mut *tx)
                .await?;
            }
            let told = NewEvent { actor: actor.as_deref(), detail: None };
            let event = events::append(&mut tx, &video, EventKind::Queued, now_ms, told).await?;
            tx.commit().await?;
            inner.hub.publish(&event, &video);
            Ok(Enqueued { video, replayed: false })
        })
        .await
    }

    /// The video that an earlier request of the same client made, if this is the same request. The door asks before
    /// it does anything for a new one; [`Queue::enqueue`] looks again.
    ///
    /// # Errors
    /// [`Error::IdempotencyKeyReuse`].
    pub async fn earlier(&self, owner: Option<&KeyId>, submission: &Submission) -> Result<Option<Video>> {
        let running = self.inner.hub.running();
        let mut reader = self.inner.readers.acquire().await?;
        let earlier = earlier(&mut reader, owner, submission, self.inner.clock.now_ms()).await?;
        Ok(earlier.map(|row| laid_over(&running, row)))
    }
}

/// The turn of an owner's next video: one behind the owner's last that waits or runs, and not ahead of what runs. With
/// nothing running, the line's first stands for it.
pub(crate) async fn next_turn(tx: &mut SqliteConnection, owner: Option<&str>, priority: i32) -> Result<i64> {
    let turn = sqlx::query_scalar(
        "SELECT max(
             coalesce((SELECT max(turn) + 1 FROM videos WHERE status = 'queued' AND owner IS ?1 AND priority = ?2), 0),
             coalesce((SELECT max(turn) + 1 FROM videos
                       WHERE status = 'in_progress' AND owner IS ?1 AND priority = ?2), 0),
             coalesce((SELECT max(turn) FROM videos WHERE status = 'in_progress' AND priority = ?2),
                      (SELECT min(turn) FROM videos WHERE status = 'queued' AND priority = ?2), 0))",
    )
    .bind(owner)
    .bind(priority)
    .fetch_one(tx)
    .await?;
    Ok(turn)
}

/// The row's video, as far as it has come.
fn laid_over(running: &HashMap<VideoId, Running>, mut row: Row) -> Video {
    if let Some(running) = running.get(&row.video.id) {
        running.lay_over(&mut row);
    }
    row.video
}

/// The video of an earlier request that this one repeats.
async fn earlier(
    tx: &mut SqliteConnection,
    owner: Option<&KeyId>,
    submission: &Submission,
    now_ms: i64,
) -> Result<Option<Row>> {
    let id: Option<String> = if let Some(key) = &submission.idempotency_key {
        let known: Option<(String, String)> =
            sqlx::query_as("SELECT fingerprint, video_id FROM idempotency_keys WHERE owner = ? AND key = ?")
                .bind(owner_word(owner))
                .bind(key)
                .fetch_optional(&mut *tx)
                .await?;
        match known {
            Some((fingerprint, _)) if fingerprint != submission.fingerprint => {
                return Err(Error::IdempotencyKeyReuse);
            }
            known => known.map(|(_, id)| id),
        }
    } else if submission.retry_count > 0 {
        sqlx::query_scalar(
            "SELECT id FROM videos WHERE fingerprint = ? AND owner IS ? AND retry_count < ? AND created_at_ms >= ?
             ORDER BY id DESC LIMIT 1",
        )
        .bind(&submission.fingerprint)
        .bind(owner.map(|key| key.0.as_str()))
        .bind(submission.retry_count)
        .bind(now_ms - RETRY_WINDOW_MS)
        .fetch_optional(&mut *tx)
        .await?
    } else {
        None
    };
    let Some(id) = id else { return Ok(None) };
    let rows = sqlx::query("SELECT * FROM videos WHERE id = ?").bind(id).fetch_all(tx).await?;
    one(&rows)
}

async fn check_limits(tx: &mut SqliteConnection, inner: &Inner, owner: Option<&KeyId>) -> Result<()> {
    let capacity = inner.options.capacity;
    let queued: u32 =
        sqlx::query_scalar("SELECT count(*) FROM videos WHERE status = 'queued'").fetch_one(&mut *tx).await?;
    if queued >= capacity {
        return Err(Error::QueueFull { capacity });
    }
    let Some(owner) = owner else { return Ok(()) };
    let own: Option<u32> =
        sqlx::query_scalar("SELECT json_extract(limits, '$.max_queued') FROM api_keys WHERE id = ?")
            .bind(&owner.0)
            .fetch_optional(&mut *tx)
            .await?
            .flatten();
    let Some(limit) = own.or(inner.options.key_limits.max_queued) else { return Ok(()) };
    let queued: u32 = sqlx::query_scalar("SELECT count(*) FROM videos WHERE status = 'queued' AND owner = ?")
        .bind(&owner.0)
        .fetch_one(tx)
        .await?;
    if queued >= limit { Err(Error::KeyQueueFull { limit }) } else { Ok(()) }
}

async fn insert(tx: &mut SqliteConnection, new: &NewVideo, now_ms: i64) -> Result<Video> {
    let owner = new.owner.as_ref().map(|key| key.0.as_str());
    let turn = next_turn(tx, owner, new.priority).await?;
    let rows = sqlx::query(
        "INSERT INTO videos (id, model, params, metadata, warnings, prompt_tokens, prompt_truncated, priority,
                             total_steps, created_at_ms, owner, turn, sent_prompt, remixed_from, retry_of,
                             webhook_url, fingerprint, retry_count)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
         RETURNING *",
    )
    // Made while holding the writer, so that ids rise in the order of the commits.
    .bind(VideoId::new().to_string())
    .bind(&new.model)
    .bind(to_json(&new.params))
    .bind(to_json(&new.metadata))
    .bind(to_json(&new.warnings))
    .bind(new.prompt_tokens)
    .bind(new.prompt_truncated)
    .bind(new.priority)
    .bind(new.params.num_inference_steps)
    .bind(now_ms)
    .bind(owner)
    .bind(turn)
    .bind(&new.sent_prompt)
    .bind(new.remixed_from.map(|id| id.to_string()))
    .bind(new.retry_of.map(|id| id.to_string()))
    .bind(&new.webhook_url)
    .bind(new.submission.as_ref().map(|submission| submission.fingerprint.as_str()))
    .bind(new.submission.as_ref().map_or(0, |submission| submission.retry_count))
    .fetch_all(tx)
    .await?;
    Ok(one(&rows)?.ok_or(sqlx::Error::RowNotFound)?.video)
}

/// Idempotency keys of a server without API keys belong to nobody, which is one owner too.
fn owner_word(owner: Option<&KeyId>) -> &str {
    owner.map_or("", |key| key.0.as_str())
}
