//! How an attempt ends: the video is settled, or goes back to its place in the queue. What a lost worker leaves is
//! `rescue`'s.
//!
//! Relies on the lease, as `claims` does. Each end is one transaction: the row and its event.

use std::sync::Arc;

use sqlx::{Sqlite, SqliteConnection, Transaction};

use crate::{
    Error, EventKind, Finished, JobError, Lease, Queue, Result, Status,
    claims::{lost, write_reports},
    events::{self, NewEvent},
    outbox,
    queue::{Inner, one, to_json},
    row::Row,
};

impl Queue {
    /// Settles the video as completed. Its files must be in place and on the disk.
    ///
    /// # Errors
    /// [`Error::CancelRequested`] if somebody asked for it to be cancelled before: who was told that the
    /// cancellation is on its way never finds the video completed. [`Error::LeaseLost`] if the row is no longer the
    /// worker's own.
    pub async fn complete(&self, lease: &Lease, finished: Finished) -> Result<()> {
        let lease = lease.clone();
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let mut tx = writer.begin().await?;
            let Finished { output, timings, peak_memory_bytes } = finished;
            let files_bytes: u64 = output.files().map(|file| file.bytes).sum();
            let query = sqlx::query(
                "UPDATE videos SET
                     status = 'completed', progress = 100, step = total_steps, completed_at_ms = ?,
                     output_key = ?, output_bytes = ?, output_sha256 = ?, thumbnail = ?, spritesheet = ?,
                     files_bytes = ? + coalesce(json_extract(params, '$.image.bytes'), 0), timings = ?, peak_memory_bytes = ?, checkpoint_step = NULL,
                     lease_owner = NULL, heartbeat_at_ms = NULL
                 WHERE id = ? AND lease_owner = ? AND lease_generation = ? AND status = 'in_progress'
                       AND cancel_requested_at_ms IS NULL
                 RETURNING *",
            )
            .bind(inner.clock.now_ms())
            .bind(&output.video.key)
            .bind(output.video.bytes as i64)
            .bind(&output.video.sha256)
            .bind(output.thumbnail.as_ref().map(to_json))
            .bind(output.spritesheet.as_ref().map(to_json))
            .bind(files_bytes as i64)
            .bind(to_json(&timings))
            .bind(peak_memory_bytes.map(|bytes| bytes as i64))
            .bind(lease.video_id.to_string())
            .bind(lease.owner.to_string())
            .bind(lease.generation);
            match one(&query.fetch_all(&mut *tx).await?)? {
                Some(row) => {
                    release(&inner, tx, &row, None).await?;
                    inner.hub.finished(&row.video);
                    Ok(())
                }
                None if holds(&mut tx, &lease).await? => Err(Error::CancelRequested(lease.video_id)),
                None => Err(lost(&lease)),
            }
        })
        .await
    }

    /// Settles the video as failed.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the row is no longer the worker's own.
    pub async fn fail(&self, lease: &Lease, error: JobError) -> Result<()> {
        self.settle(lease, Status::Failed, Some(error)).await
    }

    /// Settles the video as cancelled.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the row is no longer the worker's own.
    pub async fn cancelled(&self, lease: &Lease) -> Result<()> {
        self.settle(lease, Status::Cancelled, None).await
    }

    async fn settle(&self, lease: &Lease, status: Status, error: Option<JobError>) -> Result<()> {
        let lease = lease.clone();
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let mut tx = writer.begin().await?;
            write_reports(&mut tx, &inner).await?;
            let row = end(&mut tx, &lease, status, error.as_ref(), inner.clock.now_ms()).await?;
            release(&inner, tx, &row, error.as_ref().map(|e| e.code.as_str())).await
        })
        .await
    }

    /// Hands the video back to its place in the queue, as an orderly shutdown does; one that was to be cancelled is
    /// settled as that instead.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the row is no longer the worker's own.
    pub async fn requeue(&self, lease: &Lease) -> Result<()> {
        self.hand_back(lease, None).await
    }

    /// Hands the video back to be made in the mode that takes less memory, and says so in its warnings.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the row is no longer the worker's own.
    pub async fn requeue_in_low_memory(&self, lease: &Lease, warning: &str) -> Result<()> {
        self.hand_back(lease, Some(warning.to_owned())).await
    }

    async fn hand_back(&self, lease: &Lease, low_memory_warning: Option<String>) -> Result<()> {
        let lease = lease.clone();
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let mut tx = writer.begin().await?;
            write_reports(&mut tx, &inner).await?;
            let query = sqlx::query(
                "UPDATE videos SET
                     status = 'queued',
                     low_memory = CASE WHEN ?4 IS NULL THEN low_memory ELSE 1 END,
                     warnings = CASE WHEN ?4 IS NULL THEN warnings ELSE json_insert(warnings, '$[#]', ?4) END,
                     stage = NULL, step = coalesce(checkpoint_step, 0), started_at_ms = NULL,
                     lease_owner = NULL, heartbeat_at_ms = NULL
                 WHERE id = ?1 AND lease_owner = ?2 AND lease_generation = ?3 AND status = 'in_progress'
                       AND cancel_requested_at_ms IS NULL
                 RETURNING *",
            )
            .bind(lease.video_id.to_string())
            .bind(lease.owner.to_string())
            .bind(lease.generation)
            .bind(&low_memory_warning);
            let row = match one(&query.fetch_all(&mut *tx).await?)? {
                Some(row) => row,
                None => end(&mut tx, &lease, Status::Cancelled, None, inner.clock.now_ms()).await?,
            };
            let detail = match row.video.status {
                Status::Queued if low_memory_warning.is_some() => Some("out_of_memory"),
                Status::Queued => Some("worker_stopped"),
                _ => None,
            };
            release(&inner, tx, &row, detail).await
        })
        .await
    }
}

/// Settles the row of a lease as failed or cancelled.
async fn end(
    tx: &mut SqliteConnection,
    lease: &Lease,
    status: Status,
    error: Option<&JobError>,
    now_ms: i64,
) -> Result<Row> {
    let query = sqlx::query(
        "UPDATE videos SET
             status = ?, error_code = ?, error_message = ?, completed_at_ms = ?, checkpoint_step = NULL,
             lease_owner = NULL, heartbeat_at_ms = NULL
         WHERE id = ? AND lease_owner = ? AND lease_generation = ? AND status = 'in_progress'
         RETURNING *",
    )
    .bind(status.as_str())
    .bind(error.map(|e| e.code.as_str()))
    .bind(error.map(|e| e.message.as_str()))
    .bind(now_ms)
    .bind(lease.video_id.to_string())
    .bind(lease.owner.to_string())
    .bind(lease.generation);
    one(&query.fetch_all(tx).await?)?.ok_or_else(|| lost(lease))
}

/// Writes the event of a row that has just left its worker, commits both, and tells.
async fn release(
    inner: &Arc<Inner>,
    mut tx: Transaction<'_, Sqlite>,
    row: &Row,
    detail: Option<&str>,
) -> Result<()> {
    let video = &row.video;
    let told = NewEvent { actor: None, detail };
    let event =
        events::append(&mut tx, video, EventKind::of(video.status), inner.clock.now_ms(), told).await?;
    tx.commit().await?;
    inner.hub.publish(&event, video);
    outbox::wake(inner, video);
    Ok(())
}

/// Whether the lease still holds its row.
async fn holds(writer: &mut SqliteConnection, lease: &Lease) -> Result<bool> {
    let held: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM videos
                        WHERE id = ? AND lease_owner = ? AND lease_generation = ? AND status = 'in_progress')",
    )
    .bind(lease.video_id.to_string())
    .bind(lease.owner.to_string())
    .bind(lease.generation)
    .fetch_one(writer)
    .await?;
    Ok(held)
}
