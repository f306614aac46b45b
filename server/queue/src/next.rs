//! The rule by which a worker's next video is chosen, where some models are loaded and others would have to be.
//!
//! The line is: the highest priority, of those the earliest turn, of those the oldest. A worker takes the line's first,
//! unless another model than its own makes that one: then it takes the first of the same priority that its own models
//! make, and notes that the line's first was passed over. One that was passed over `model_run_max` times is passed over
//! no more. So the line moves on after `model_run_max` videos at the latest, nobody in it waits for ever, and a worker
//! that has swapped its model makes so many videos with it before the next swap, if so many wait for it.

use sqlx::{AssertSqlSafe, SqliteConnection};

use crate::{Result, queue::Inner};

/// A video that waits.
#[derive(sqlx::FromRow)]
struct Waiting {
    id: String,
    model: String,
    priority: i32,
    turn: i64,
    passed_over: u32,
}

/// The id of the next video for a worker that has these models loaded, if one waits; it is noted if another is passed
/// over for it.
pub(crate) async fn choose(
    tx: &mut SqliteConnection,
    inner: &Inner,
    loaded: &[String],
) -> Result<Option<String>> {
    let line = Line { max_running: inner.options.key_limits.max_running.unwrap_or(u32::MAX) };
    let Some(first) = line.first(tx, None).await? else { return Ok(None) };
    if loaded.contains(&first.model) || first.passed_over >= inner.options.model_run_max {
        return Ok(Some(first.id));
    }
    let mut own: Option<Waiting> = None;
    for model in loaded {
        let found = line.first(tx, Some((first.priority, model))).await?;
        own = own.into_iter().chain(found).min_by(|a, b| (a.turn, &a.id).cmp(&(b.turn, &b.id)));
    }
    let Some(own) = own else { return Ok(Some(first.id)) };
    sqlx::query("UPDATE videos SET passed_over = passed_over + 1 WHERE id = ?")
        .bind(&first.id)
        .execute(tx)
        .await?;
    Ok(Some(own.id))
}

/// Who may be claimed at all.
struct Line {
    /// By one key at once, unless the key says otherwise.
    max_running: u32,
}

impl Line {
    /// The first of all, or of a priority and a model.
    async fn first(&self, tx: &mut SqliteConnection, of: Option<(i32, &str)>) -> Result<Option<Waiting>> {
        let (priority, model) = of.unzip();
        let only =
            if of.is_some() { "AND priority = ?2 AND model = ?3" } else { "AND ?2 IS NULL AND ?3 IS NULL" };
        let text = format!(
            "SELECT id, model, priority, turn, passed_over FROM videos
             WHERE status = 'queued' {only}
                   -- The keys that have enough are looked up once, however long their lines are.
                   AND (owner IS NULL OR owner NOT IN (
                       SELECT id FROM api_keys
                       WHERE coalesce(json_extract(limits, '$.max_running'), ?1) <=
                             (SELECT count(*) FROM videos running
                              WHERE running.status = 'in_progress' AND running.owner = api_keys.id)))
             ORDER BY priority DESC, turn, id LIMIT 1"
        );
        let query = sqlx::query_as(AssertSqlSafe(text)).bind(self.max_running).bind(priority).bind(model);
        Ok(query.fetch_optional(tx).await?)
    }
}
