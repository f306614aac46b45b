//! From a row of the table to a [`Video`].

use serde::de::DeserializeOwned;
use sqlx::{Row as _, sqlite::SqliteRow};

use crate::{Error, JobError, Output, Result, Stage, Status, Video};

/// A row: the video, and the lease's generation, which is nobody's business outside this crate.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) video: Video,
    pub(crate) generation: i64,
}

impl Row {
    pub(crate) fn read(row: &SqliteRow) -> Result<Self> {
        let id: String = row.try_get("id")?;
        let corrupt = |column, found: String| Error::Corrupt { id: id.clone(), column, found };

        let status: String = row.try_get("status")?;
        let status = Status::from_word(&status).ok_or_else(|| corrupt("status", status))?;
        let stage = match row.try_get::<Option<String>, _>("stage")? {
            Some(word) => Some(Stage::from_word(&word).ok_or_else(|| corrupt("stage", word))?),
            None => None,
        };
        let error = match row.try_get::<Option<String>, _>("error_code")? {
            Some(code) => Some(JobError {
                code,
                message: row.try_get::<Option<String>, _>("error_message")?.unwrap_or_default(),
            }),
            None => None,
        };
        let output = match row.try_get::<Option<String>, _>("output_key")? {
            Some(key) => Some(Output {
                key,
                bytes: row.try_get::<i64, _>("output_bytes")? as u64,
                sha256: row.try_get("output_sha256")?,
            }),
            None => None,
        };

        let video = Video {
            id: id.parse().map_err(|_| corrupt("id", id.clone()))?,
            model: row.try_get("model")?,
            params: json(row, "params", corrupt)?,
            status,
            stage,
            step: row.try_get("step")?,
            total_steps: row.try_get("total_steps")?,
            progress: row.try_get("progress")?,
            attempt: row.try_get("attempt")?,
            priority: row.try_get("priority")?,
            prompt_tokens: row.try_get("prompt_tokens")?,
            prompt_truncated: row.try_get("prompt_truncated")?,
            metadata: json(row, "metadata", corrupt)?,
            error,
            warnings: json(row, "warnings", corrupt)?,
            output,
            timings: json(row, "timings", corrupt)?,
            cancel_requested_at_ms: row.try_get("cancel_requested_at_ms")?,
            created_at_ms: row.try_get("created_at_ms")?,
            started_at_ms: row.try_get("started_at_ms")?,
            completed_at_ms: row.try_get("completed_at_ms")?,
        };
        Ok(Self { video, generation: row.try_get("lease_generation")? })
    }
}

fn json<T: DeserializeOwned>(
    row: &SqliteRow,
    column: &'static str,
    corrupt: impl Fn(&'static str, String) -> Error,
) -> Result<T> {
    // The place only: serde's message may quote what it found, and prompts stay out of errors.
    serde_json::from_str(row.try_get(column)?)
        .map_err(|e| corrupt(column, format!("JSON of another form, at column {}", e.column())))
}
