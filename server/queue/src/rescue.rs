//! What a lost worker leaves: its rows go back to their place in the queue, or come to their end.
//!
//! Relies on the owners: the lock on the database says that whoever is of another life is gone, and the heartbeats say
//! it of the workers of this one.

use std::sync::Arc;

use sqlx::{Sqlite, Transaction};

use crate::{
    EventKind, Lease, Owner, Queue, Rescued, Result, Status,
    claims::{lost, write_reports},
    events::{self, NewEvent},
    outbox,
    queue::Inner,
    row::Row,
};

/// The detail of the event with which a row is taken over from a lost worker.
pub(crate) const WORKER_LOST: &str = "worker_lost";

/// Before every time: when a worker was last heard of that is known to be gone.
const NEVER_MS: i64 = i64::MIN;

impl Queue {
    /// Takes over the rows whose worker is gone: those of another life, which are all that a killed server left
    /// behind, and those whose heartbeat stopped a lease ago. A worker calls it at its start and while it has
    /// nothing to do, never while it holds a lease; what the other workers of its life hold stays theirs.
    pub async fn rescue(&self, owner: &Owner) -> Result<Rescued> {
        let owner = owner.clone();
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let tx = writer.begin().await?;
            take_over(&inner, tx, &owner).await
        })
        .await
    }

    /// A worker says that it is lost itself, its device being gone: what it holds is rescued at once, and counts as
    /// an attempt that was lost.
    ///
    /// # Errors
    /// [`crate::Error::LeaseLost`] if the row is no longer its own.
    pub async fn abandon(&self, lease: &Lease) -> Result<()> {
        let lease = lease.clone();
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let mut tx = writer.begin().await?;
            let silenced = sqlx::query(
                "UPDATE videos SET heartbeat_at_ms = ?
                 WHERE id = ? AND lease_owner = ? AND lease_generation = ? AND status = 'in_progress'",
            )
            .bind(NEVER_MS)
            .bind(lease.video_id.to_string())
            .bind(lease.owner.to_string())
            .bind(lease.generation)
            .execute(&mut *tx)
            .await?;
            if silenced.rows_affected() == 0 {
                return Err(lost(&lease));
            }
            take_over(&inner, tx, &lease.owner).await.map(drop)
        })
        .await
    }
}

/// Takes over every row that is neither of the owner's life nor heard of within a lease, and commits.
async fn take_over(inner: &Arc<Inner>, mut tx: Transaction<'_, Sqlite>, owner: &Owner) -> Result<Rescued> {
    let now_ms = inner.clock.now_ms();
    write_reports(&mut tx, inner).await?;
    let stale_ms = now_ms - inner.options.lease_ms;
    let mut rows = sqlx::query(
        "UPDATE videos SET
             status = 'queued', lost_attempts = lost_attempts + 1,
             stage = NULL, step = coalesce(checkpoint_step, 0), started_at_ms = NULL,
             lease_owner = NULL, heartbeat_at_ms = NULL
         WHERE status = 'in_progress' AND (instr(lease_owner, ?1) <> 1 OR heartbeat_at_ms < ?2)
               AND cancel_requested_at_ms IS NULL AND lost_attempts + 1 < ?3
         RETURNING *",
    )
    .bind(owner.life())
    .bind(stale_ms)
    .bind(inner.options.max_attempts)
    .fetch_all(&mut *tx)
    .await?;
    // The others that are gone have come to their end.
    let ended = sqlx::query(
        "UPDATE videos SET
             (status, error_code, error_message) = (
                 SELECT 'cancelled', NULL, NULL WHERE cancel_requested_at_ms IS NOT NULL
                 UNION ALL
                 SELECT 'failed', 'worker_lost', 'the server stopped ' || (lost_attempts + 1)
                        || ' times in a row while working on this video, which came no further'
                 LIMIT 1),
             completed_at_ms = ?3, lost_attempts = lost_attempts + 1, checkpoint_step = NULL,
             lease_owner = NULL, heartbeat_at_ms = NULL
         WHERE status = 'in_progress' AND (instr(lease_owner, ?1) <> 1 OR heartbeat_at_ms < ?2)
         RETURNING *",
    )
    .bind(owner.life())
    .bind(stale_ms)
    .bind(now_ms)
    .fetch_all(&mut *tx)
    .await?;
    rows.extend(ended);
    let mut released = Vec::with_capacity(rows.len());
    for row in &rows {
        let row = Row::read(row)?;
        let told = NewEvent { actor: None, detail: Some(WORKER_LOST) };
        let kind = EventKind::of(row.video.status);
        let event = events::append(&mut tx, &row.video, kind, now_ms, told).await?;
        released.push((event, row.video));
    }
    tx.commit().await?;
    let mut rescued = Rescued::default();
    for (event, video) in released {
        match video.status {
            Status::Cancelled => rescued.cancelled += 1,
            Status::Failed => rescued.failed += 1,
            _ => rescued.requeued += 1,
        }
        tracing::warn!(job.id = %video.id, job.attempt = video.attempt, job.status = %video.status,
                       "a video had lost its worker");
        inner.hub.publish(&event, &video);
        outbox::wake(inner, &video);
    }
    Ok(rescued)
}
