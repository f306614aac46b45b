//! The queue as a worker sees it while it works: claim, report, keep a checkpoint. How an attempt ends is in
//! `settle`.
//!
//! Relies on the lease: every write here names the row's owner and generation, so a worker that was given up for
//! lost changes nothing.

use sqlx::SqliteConnection;

use crate::{
    Claim, Error, EventKind, Heartbeat, Lease, Owner, Progress, Queue, Result,
    events::{self, NewEvent},
    hub::Advance,
    next,
    queue::{Inner, one},
};

impl Queue {
    /// Takes the next waiting video, if any and if the queue is not paused, for a worker to which all models are the
    /// same: the first of the line. A key that has as many running as it may is passed over.
    pub async fn claim(&self, owner: &Owner) -> Result<Option<Claim>> {
        self.claim_preferring(owner, &[]).await
    }

    /// The same for a worker that has these models loaded, and would rather not swap them: see `next`.
    pub async fn claim_preferring(&self, owner: &Owner, loaded: &[String]) -> Result<Option<Claim>> {
        let (owner, loaded) = (owner.clone(), loaded.to_vec());
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let mut tx = writer.begin().await?;
            let now_ms = inner.clock.now_ms();
            let paused: bool =
                sqlx::query_scalar("SELECT paused FROM queue_state").fetch_one(&mut *tx).await?;
            if paused {
                return Ok(None);
            }
            let Some(id) = next::choose(&mut tx, &inner, &loaded).await? else { return Ok(None) };
            let query = sqlx::query(
                "UPDATE videos SET
                     status = 'in_progress', attempt = attempt + 1,
                     lease_owner = ?1, lease_generation = lease_generation + 1,
                     heartbeat_at_ms = ?2, started_at_ms = ?2
                 WHERE id = ?3
                 RETURNING *",
            )
            .bind(owner.to_string())
            .bind(now_ms)
            .bind(id);
            let Some(row) = one(&query.fetch_all(&mut *tx).await?)? else { return Ok(None) };
            let event =
                events::append(&mut tx, &row.video, EventKind::Started, now_ms, NewEvent::default()).await?;
            let key_name = match &row.video.owner {
                None => None,
                Some(key) => {
                    let name = sqlx::query_scalar("SELECT name FROM api_keys WHERE id = ?").bind(&key.0);
                    name.fetch_optional(&mut *tx).await?
                }
            };
            tx.commit().await?;
            let lease = Lease { video_id: row.video.id, owner, generation: row.generation };
            let cancel = inner.hub.started(&row.video, &lease, key_name, now_ms);
            inner.hub.publish(&event, &row.video);
            // Of several videos that came while nobody listened, only one call is left.
            inner.hub.wake_next();
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
            let row = one(&query.fetch_all(writer.ready().await?).await?)?.ok_or_else(|| lost(&lease))?;
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
            if write_progress(writer.ready().await?, &lease, progress).await? {
                Ok(())
            } else {
                Err(lost(&lease))
            }
        })
        .await
    }

    /// Notes that the video's checkpoint file holds so many steps. If that is further than ever before, the attempts
    /// that were lost until now no longer count against it.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the row is no longer the worker's own.
    pub async fn keep_checkpoint(&self, lease: &Lease, step: u32) -> Result<()> {
        self.note_checkpoint(lease, Some(step)).await
    }

    /// Notes that there is no checkpoint, or none that can be gone on with.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if the row is no longer the worker's own.
    pub async fn drop_checkpoint(&self, lease: &Lease) -> Result<()> {
        self.note_checkpoint(lease, None).await
    }

    async fn note_checkpoint(&self, lease: &Lease, step: Option<u32>) -> Result<()> {
        let lease = lease.clone();
        // What was shown by then: the next attempt begins there, and not at what was last written.
        let percent = self.inner.hub.note_checkpoint(&lease, step);
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let updated = sqlx::query(
                "UPDATE videos SET
                     checkpoint_step = ?1,
                     step = max(step, coalesce(?1, 0)),
                     progress = max(progress, ?5),
                     lost_attempts = CASE WHEN ?1 > furthest_step THEN 0 ELSE lost_attempts END,
                     furthest_step = max(furthest_step, coalesce(?1, 0))
                 WHERE id = ?2 AND lease_owner = ?3 AND lease_generation = ?4 AND status = 'in_progress'",
            )
            .bind(step)
            .bind(lease.video_id.to_string())
            .bind(lease.owner.to_string())
            .bind(lease.generation)
            .bind(percent)
            .execute(writer.ready().await?)
            .await?;
            if updated.rows_affected() == 0 { Err(lost(&lease)) } else { Ok(()) }
        })
        .await
    }
}

/// Writes to the row how far it is; false if the lease no longer holds it.
pub(crate) async fn write_progress(
    connection: &mut SqliteConnection,
    lease: &Lease,
    progress: Progress,
) -> Result<bool> {
    let updated = sqlx::query(
        "UPDATE videos SET stage = ?, step = ?, total_steps = ?, progress = max(progress, ?)
         WHERE id = ? AND lease_owner = ? AND lease_generation = ? AND status = 'in_progress'",
    )
    .bind(progress.stage.as_str())
    .bind(progress.step)
    .bind(progress.total_steps)
    .bind(progress.percent)
    .bind(lease.video_id.to_string())
    .bind(lease.owner.to_string())
    .bind(lease.generation)
    .execute(connection)
    .await?;
    Ok(updated.rows_affected() > 0)
}

/// Writes to the rows what subscribers know already: the last report of an attempt may not have been due for writing,
/// and what was shown must not fall when the attempt ends.
pub(crate) async fn write_reports(tx: &mut SqliteConnection, inner: &Inner) -> Result<()> {
    for (lease, progress) in inner.hub.reports() {
        write_progress(tx, &lease, progress).await?;
    }
    Ok(())
}

pub(crate) fn lost(lease: &Lease) -> Error {
    Error::LeaseLost { id: lease.video_id, generation: lease.generation }
}
