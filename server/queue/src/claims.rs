//! The queue as a worker sees it: claim, report, settle, and take over what a lost worker left.
//!
//! Relies on the lease: every write here names the row's owner and generation, so a worker that was given up for
//! lost changes nothing.

use sqlx::SqliteConnection;

use crate::{
    Claim, Error, Heartbeat, JobError, Lease, Output, Owner, Progress, Queue, Rescued, Result, Status,
    Timings,
    hub::Advance,
    queue::{Inner, one, to_json},
    row::Row,
};

impl Queue {
    /// Takes the next waiting video, if any: the highest priority, and the oldest of those.
    pub async fn claim(&self, owner: &Owner) -> Result<Option<Claim>> {
        let owner = owner.clone();
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let now_ms = inner.clock.now_ms();
            let query = sqlx::query(
                "UPDATE videos SET
                     status = 'in_progress', attempt = attempt + 1,
                     lease_owner = ?1, lease_generation = lease_generation + 1,
                     heartbeat_at_ms = ?2, started_at_ms = ?2
                 WHERE id = (SELECT id FROM videos WHERE status = 'queued' ORDER BY priority DESC, id LIMIT 1)
                 RETURNING *",
            )
            .bind(owner.to_string())
            .bind(now_ms);
            let Some(row) = one(&query.fetch_all(&mut *writer).await?)? else { return Ok(None) };
            let cancel = inner.hub.started(&row, now_ms);
            let lease = Lease { video_id: row.video.id, owner, generation: row.generation };
            Ok(Some(Claim { video: row.video, lease, cancel }))
        })
        .await
    }

    /// Shows that the worker lives.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the row is no longer its own.
    pub async fn heartbeat(&self, lease: &Lease) -> Result<Heartbeat> {
        let lease = lease.clone();
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let query = sqlx::query(
                "UPDATE videos SET heartbeat_at_ms = ?
                 WHERE id = ? AND lease_owner = ? AND lease_generation = ? AND status = 'in_progress'
                 RETURNING *",
            )
            .bind(inner.clock.now_ms())
            .bind(lease.video_id.to_string())
            .bind(lease.owner.to_string())
            .bind(lease.generation);
            let row = one(&query.fetch_all(&mut *writer).await?)?.ok_or_else(|| lost(&lease))?;
            Ok(Heartbeat { cancel_requested: row.video.cancel_requested_at_ms.is_some() })
        })
        .await
    }

    /// Reports how far the video is. Subscribers and readers learn it at once, the row about once a second and at
    /// each new stage. A report that goes backwards is raised to what was reported before.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the row is no longer the worker's own.
    pub async fn set_progress(&self, lease: &Lease, progress: Progress) -> Result<()> {
        let progress = match self.inner.hub.advance(lease, progress, self.inner.clock.now_ms()) {
            Advance::Lost => return Err(lost(lease)),
            Advance::Published => return Ok(()),
            Advance::Write(progress) => progress,
        };
        let lease = lease.clone();
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let updated = sqlx::query(
                "UPDATE videos SET stage = ?, step = ?, total_steps = ?, progress = ?
                 WHERE id = ? AND lease_owner = ? AND lease_generation = ? AND status = 'in_progress'",
            )
            .bind(progress.stage.as_str())
            .bind(progress.step)
            .bind(progress.total_steps)
            .bind(progress.percent)
            .bind(lease.video_id.to_string())
            .bind(lease.owner.to_string())
            .bind(lease.generation)
            .execute(&mut *writer)
            .await?;
            if updated.rows_affected() == 0 { Err(lost(&lease)) } else { Ok(()) }
        })
        .await
    }

    /// Settles the video as completed. Its file must be in place and on the disk.
    ///
    /// # Errors
    /// [`Error::CancelRequested`] if somebody asked for it to be cancelled before: who was told that the
    /// cancellation is on its way never finds the video completed. [`Error::LeaseLost`] if the row is no longer the
    /// worker's own.
    pub async fn complete(&self, lease: &Lease, output: Output, timings: Timings) -> Result<()> {
        let lease = lease.clone();
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let query = sqlx::query(
                "UPDATE videos SET
                     status = 'completed', progress = 100, step = total_steps, completed_at_ms = ?,
                     output_key = ?, output_bytes = ?, output_sha256 = ?, timings = ?,
                     lease_owner = NULL, heartbeat_at_ms = NULL
                 WHERE id = ? AND lease_owner = ? AND lease_generation = ? AND status = 'in_progress'
                       AND cancel_requested_at_ms IS NULL
                 RETURNING *",
            )
            .bind(inner.clock.now_ms())
            .bind(output.key)
            .bind(output.bytes as i64)
            .bind(output.sha256)
            .bind(to_json(&timings))
            .bind(lease.video_id.to_string())
            .bind(lease.owner.to_string())
            .bind(lease.generation);
            match one(&query.fetch_all(&mut *writer).await?)? {
                Some(row) => {
                    inner.hub.settled(&row.video);
                    Ok(())
                }
                None if holds(&mut writer, &lease).await? => Err(Error::CancelRequested(lease.video_id)),
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
            let (code, message) = error.map(|e| (e.code, e.message)).unzip();
            let query = sqlx::query(
                "UPDATE videos SET
                     status = ?, error_code = ?, error_message = ?, completed_at_ms = ?,
                     lease_owner = NULL, heartbeat_at_ms = NULL
                 WHERE id = ? AND lease_owner = ? AND lease_generation = ? AND status = 'in_progress'
                 RETURNING *",
            )
            .bind(status.as_str())
            .bind(code)
            .bind(message)
            .bind(inner.clock.now_ms())
            .bind(lease.video_id.to_string())
            .bind(lease.owner.to_string())
            .bind(lease.generation);
            let row = one(&query.fetch_all(&mut *writer).await?)?.ok_or_else(|| lost(&lease))?;
            inner.hub.settled(&row.video);
            Ok(())
        })
        .await
    }

    /// Hands the video back to its place in the queue, as an orderly shutdown does; one that was to be cancelled is
    /// settled as that instead.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the row is no longer the worker's own.
    pub async fn requeue(&self, lease: &Lease) -> Result<()> {
        let lease = lease.clone();
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let query = sqlx::query(
                "UPDATE videos SET
                     status = CASE WHEN cancel_requested_at_ms IS NULL THEN 'queued' ELSE 'cancelled' END,
                     completed_at_ms = CASE WHEN cancel_requested_at_ms IS NULL THEN NULL ELSE ? END,
                     stage = NULL, step = 0, progress = 0, started_at_ms = NULL,
                     lease_owner = NULL, heartbeat_at_ms = NULL
                 WHERE id = ? AND lease_owner = ? AND lease_generation = ? AND status = 'in_progress'
                 RETURNING *",
            )
            .bind(inner.clock.now_ms())
            .bind(lease.video_id.to_string())
            .bind(lease.owner.to_string())
            .bind(lease.generation);
            let row = one(&query.fetch_all(&mut *writer).await?)?.ok_or_else(|| lost(&lease))?;
            publish_release(&inner, &row);
            Ok(())
        })
        .await
    }

    /// Takes over the rows whose worker is gone: those of another owner, which are all that a killed server left
    /// behind, and those whose heartbeat stopped a lease ago. A worker calls it at its start and while it has
    /// nothing to do, never while it holds a lease.
    pub async fn rescue(&self, owner: &Owner) -> Result<Rescued> {
        let owner = owner.clone();
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let now_ms = inner.clock.now_ms();
            let rows = sqlx::query(
                "UPDATE videos SET
                     (status, error_code, error_message) = (
                         SELECT 'cancelled', NULL, NULL WHERE cancel_requested_at_ms IS NOT NULL
                         UNION ALL
                         SELECT 'failed', 'worker_lost', 'the server stopped ' || (lost_attempts + 1)
                                || ' times while working on this video' WHERE lost_attempts + 1 >= ?3
                         UNION ALL
                         SELECT 'queued', NULL, NULL
                         LIMIT 1),
                     completed_at_ms = CASE WHEN cancel_requested_at_ms IS NOT NULL OR lost_attempts + 1 >= ?3
                                            THEN ?4 END,
                     lost_attempts = lost_attempts + 1,
                     stage = NULL, step = 0, progress = 0, started_at_ms = NULL,
                     lease_owner = NULL, heartbeat_at_ms = NULL
                 WHERE status = 'in_progress' AND (lease_owner <> ?1 OR heartbeat_at_ms < ?2)
                 RETURNING *",
            )
            .bind(owner.to_string())
            .bind(now_ms - inner.options.lease_ms)
            .bind(inner.options.max_attempts)
            .bind(now_ms)
            .fetch_all(&mut *writer)
            .await?;
            let mut rescued = Rescued::default();
            for row in &rows {
                let row = Row::read(row)?;
                match row.video.status {
                    Status::Cancelled => rescued.cancelled += 1,
                    Status::Failed => rescued.failed += 1,
                    _ => rescued.requeued += 1,
                }
                tracing::warn!(job.id = %row.video.id, job.attempt = row.video.attempt,
                               job.status = %row.video.status, "a video had lost its worker");
                publish_release(&inner, &row);
            }
            Ok(rescued)
        })
        .await
    }
}

fn publish_release(inner: &Inner, row: &Row) {
    if row.video.status.is_terminal() {
        inner.hub.settled(&row.video);
    } else {
        inner.hub.requeued(&row.video);
    }
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

fn lost(lease: &Lease) -> Error {
    Error::LeaseLost { id: lease.video_id, generation: lease.generation }
}
