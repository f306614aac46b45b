//! What is asked of the queue from the door, but for looking: cancel, another priority, delete, pause.
//!
//! Each change writes its event in its own transaction and names who asked. Nobody is authorised here.

use crate::{
    Error, EventKind, Queue, Result, Status, Video, VideoId,
    events::{self, NewEvent},
    outbox,
    queue::one,
};

impl Queue {
    /// Asks for a video to be cancelled and returns it as it then is. A waiting one is cancelled at once; a running
    /// one stays in progress until its worker has stopped; a settled one stays as it is. `actor` is the name of the
    /// API key that asks.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn request_cancel(&self, id: VideoId, actor: Option<&str>) -> Result<Video> {
        let actor = actor.map(ToOwned::to_owned);
        let changed = self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let mut tx = writer.begin().await?;
            let now_ms = inner.clock.now_ms();
            let query = sqlx::query(
                "UPDATE videos SET
                     cancel_requested_at_ms = ?1,
                     completed_at_ms = CASE status WHEN 'queued' THEN ?1 END,
                     checkpoint_step = CASE status WHEN 'queued' THEN NULL ELSE checkpoint_step END,
                     status = CASE status WHEN 'queued' THEN 'cancelled' ELSE status END
                 WHERE id = ?2 AND status IN ('queued', 'in_progress') AND cancel_requested_at_ms IS NULL
                 RETURNING *",
            )
            .bind(now_ms)
            .bind(id.to_string());
            let running = inner.hub.running();
            let Some(mut row) = one(&query.fetch_all(&mut *tx).await?)? else { return Ok(None) };
            let settled = row.video.status == Status::Cancelled;
            let kind = if settled { EventKind::Cancelled } else { EventKind::Cancelling };
            let new = NewEvent { actor: actor.as_deref(), detail: None };
            let event = events::append(&mut tx, &row.video, kind, now_ms, new).await?;
            tx.commit().await?;
            if let Some(running) = running.get(&id) {
                running.lay_over(&mut row);
            }
            inner.hub.publish(&event, &row.video);
            outbox::wake(&inner, &row.video);
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

    /// Changes the priority of a waiting video, which goes to the end of its key's line there.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NotQueued`].
    pub async fn set_priority(&self, id: VideoId, priority: i32, actor: Option<&str>) -> Result<Video> {
        let actor = actor.map(ToOwned::to_owned);
        let changed = self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let mut tx = writer.begin().await?;
            let owner: Option<Option<String>> = sqlx::query_scalar("SELECT owner FROM videos WHERE id = ?")
                .bind(id.to_string())
                .fetch_optional(&mut *tx)
                .await?;
            let owner = owner.ok_or(Error::NotFound(id))?;
            let turn = crate::enqueue::next_turn(&mut tx, owner.as_deref(), priority).await?;
            let query = sqlx::query(
                "UPDATE videos SET priority = ?1, turn = CASE WHEN priority = ?1 THEN turn ELSE ?2 END
                 WHERE id = ?3 AND status = 'queued' RETURNING *",
            )
            .bind(priority)
            .bind(turn)
            .bind(id.to_string());
            let Some(row) = one(&query.fetch_all(&mut *tx).await?)? else { return Ok(None) };
            let new = NewEvent { actor: actor.as_deref(), detail: None };
            let event =
                events::append(&mut tx, &row.video, EventKind::Moved, inner.clock.now_ms(), new).await?;
            tx.commit().await?;
            inner.hub.publish(&event, &row.video);
            Ok(Some(row.video))
        });
        match changed.await? {
            Some(video) => Ok(video),
            None => Err(Error::NotQueued { id, status: self.get(id).await?.status }),
        }
    }

    /// Removes a settled video and returns it as it was, so that its files can be removed too.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::NotTerminal`] while it waits or runs.
    pub async fn delete(&self, id: VideoId, actor: Option<&str>) -> Result<Video> {
        let actor = actor.map(ToOwned::to_owned);
        let deleted = self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            let mut tx = writer.begin().await?;
            let query = sqlx::query(
                "DELETE FROM videos WHERE id = ? AND status IN ('completed', 'failed', 'cancelled') RETURNING *",
            )
            .bind(id.to_string());
            let Some(row) = one(&query.fetch_all(&mut *tx).await?)? else { return Ok(None) };
            let new = NewEvent { actor: actor.as_deref(), detail: None };
            let event = events::append(&mut tx, &row.video, EventKind::Deleted, inner.clock.now_ms(), new).await?;
            tx.commit().await?;
            inner.hub.publish(&event, &row.video);
            Ok(Some(row))
        });
        match deleted.await? {
            Some(row) => Ok(row.video),
            None => Err(Error::NotTerminal { id, status: self.get(id).await?.status }),
        }
    }

    /// Stops or resumes claiming, for good: a restarted server stays paused.
    pub async fn set_paused(&self, paused: bool) -> Result<()> {
        self.write(async move |inner| {
            let mut writer = inner.writer.lock().await;
            sqlx::query("UPDATE queue_state SET paused = ?")
                .bind(paused)
                .execute(writer.ready().await?)
                .await?;
            tracing::info!(paused, "the queue is paused or resumed");
            inner.hub.work.notify_one();
            Ok(())
        })
        .await
    }
}
