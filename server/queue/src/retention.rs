//! What is given up to make room: the files of old videos, and old entries of the side tables.
//!
//! The row goes first: it says that the video has expired, and what it returns are files that nobody can ask for any
//! more. A file whose removal then fails is swept at the next start.
//!
//! Names its index where `SQLite`, left to itself, would read every video that was ever completed.

use crate::{
    EventKind, Queue, Result, Video, VideoId,
    events::{self, NewEvent},
    row::Row,
};

/// Files of so many videos are given up in one transaction.
const BATCH: u32 = 100;

impl Queue {
    /// Gives up the files of videos that ended before `cutoff_ms`, the oldest first, a batch at a time: call again
    /// until nothing comes.
    pub async fn expire_before(&self, cutoff_ms: i64) -> Result<Vec<Video>> {
        self.expire(cutoff_ms, i64::MAX).await
    }

    /// Gives up the files of the oldest videos until at least `bytes` are freed, or a batch is full, or none is left.
    pub async fn expire_oldest(&self, bytes: u64) -> Result<Vec<Video>> {
        self.expire(i64::MAX, i64::try_from(bytes).unwrap_or(i64::MAX)).await
    }

    async fn expire(&self, cutoff_ms: i64, bytes: i64) -> Result<Vec<Video>> {
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let mut tx = writer.begin().await?;
            let now_ms = inner.clock.now_ms();
            let rows = sqlx::query(
                "UPDATE videos SET expired_at_ms = ?1
                 WHERE id IN (
                     SELECT id FROM (
                         SELECT id, sum(files_bytes) OVER (ORDER BY completed_at_ms, id ROWS UNBOUNDED PRECEDING)
                                    - files_bytes AS freed_before
                         FROM (SELECT id, completed_at_ms, files_bytes FROM videos INDEXED BY videos_by_end
                               WHERE status = 'completed' AND expired_at_ms IS NULL AND completed_at_ms < ?2
                               ORDER BY completed_at_ms, id LIMIT ?4))
                     WHERE freed_before < ?3)
                 RETURNING *",
            )
            .bind(now_ms)
            .bind(cutoff_ms)
            .bind(bytes)
            .bind(BATCH)
            .fetch_all(&mut *tx)
            .await?;
            let mut expired = Vec::with_capacity(rows.len());
            for row in &rows {
                let video = Row::read(row)?.video;
                let event =
                    events::append(&mut tx, &video, EventKind::Expired, now_ms, NewEvent::default()).await?;
                expired.push((event, video));
            }
            tx.commit().await?;
            for (event, video) in &expired {
                inner.hub.publish(event, video);
            }
            Ok(expired.into_iter().map(|(_, video)| video).collect())
        })
        .await
    }

    /// Gives up the pictures that videos were to start from which failed or were cancelled before `cutoff_ms`: what
    /// nobody has tried once more since, nobody will.
    pub async fn expire_images(&self, cutoff_ms: i64) -> Result<Vec<Video>> {
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let mut tx = writer.begin().await?;
            let rows = sqlx::query(
                "UPDATE videos SET expired_at_ms = ?
                 WHERE status IN ('failed', 'cancelled') AND completed_at_ms < ? AND expired_at_ms IS NULL
                       AND json_extract(params, '$.image.key') IS NOT NULL
                 RETURNING *",
            )
            .bind(inner.clock.now_ms())
            .bind(cutoff_ms)
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            rows.iter().map(|row| Ok(Row::read(row)?.video)).collect()
        })
        .await
    }

    /// Bytes of all files that are there.
    pub async fn files_bytes(&self) -> Result<u64> {
        let bytes: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(files_bytes), 0) FROM videos INDEXED BY videos_by_end
             WHERE status = 'completed' AND expired_at_ms IS NULL",
        )
        .fetch_one(&self.inner.readers)
        .await?;
        Ok(bytes as u64)
    }

    /// Forgets events, settled deliveries and idempotency keys from before `cutoff_ms`. The newest event of a video
    /// that is still there stays, so that a reader who comes back learns how it ended.
    pub async fn prune(&self, cutoff_ms: i64) -> Result<u64> {
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let mut tx = writer.begin().await?;
            let mut removed = 0;
            for statement in [
                "DELETE FROM events WHERE at_ms < ?
                 AND (seq < (SELECT max(seq) FROM events later WHERE later.video_id = events.video_id)
                      OR NOT EXISTS (SELECT 1 FROM videos WHERE id = events.video_id))",
                "DELETE FROM webhook_deliveries WHERE created_at_ms < ? AND next_attempt_at_ms IS NULL",
                "DELETE FROM idempotency_keys WHERE created_at_ms < ?",
            ] {
                removed += sqlx::query(statement).bind(cutoff_ms).execute(&mut *tx).await?.rows_affected();
            }
            tx.commit().await?;
            Ok(removed)
        })
        .await
    }

    /// The keys of all files that are there, for the store to sweep by.
    pub async fn file_keys(&self) -> Result<Vec<String>> {
        let keys = sqlx::query_scalar(
            "SELECT output_key FROM videos WHERE output_key IS NOT NULL AND expired_at_ms IS NULL
             UNION ALL
             SELECT json_extract(thumbnail, '$.key') FROM videos WHERE thumbnail IS NOT NULL AND expired_at_ms IS NULL
             UNION ALL
             SELECT json_extract(spritesheet, '$.key') FROM videos
             WHERE spritesheet IS NOT NULL AND expired_at_ms IS NULL
             UNION ALL
             SELECT json_extract(params, '$.image.key') FROM videos
             WHERE json_extract(params, '$.image.key') IS NOT NULL AND expired_at_ms IS NULL",
        )
        .fetch_all(&self.inner.readers)
        .await?;
        Ok(keys)
    }

    /// The videos that may still need a checkpoint.
    pub async fn unsettled(&self) -> Result<Vec<VideoId>> {
        let ids: Vec<String> =
            sqlx::query_scalar("SELECT id FROM videos WHERE status IN ('queued', 'in_progress')")
                .fetch_all(&self.inner.readers)
                .await?;
        ids.iter().map(|id| id.parse()).collect()
    }
}
