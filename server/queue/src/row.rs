//! From a row of the table to a [`Video`].

use serde::de::DeserializeOwned;
use sqlx::{Row as _, sqlite::SqliteRow};

use crate::{Error, JobError, KeyId, Output, OutputFile, Result, Stage, Status, Video, VideoId};

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
                video: OutputFile {
                    key,
                    bytes: row.try_get::<i64, _>("output_bytes")? as u64,
                    sha256: row.try_get("output_sha256")?,
                },
                thumbnail: optional_json(row, "thumbnail", corrupt)?,
                spritesheet: optional_json(row, "spritesheet", corrupt)?,
            }),
            None => None,
        };
        let other = |column| -> Result<Option<VideoId>> {
            let id: Option<String> = row.try_get(column)?;
            id.map(|id| id.parse().map_err(|_| corrupt(column, id))).transpose()
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
            expired_at_ms: row.try_get("expired_at_ms")?,
            owner: row.try_get::<Option<String>, _>("owner")?.map(KeyId),
            sent_prompt: row.try_get("sent_prompt")?,
            remixed_from: other("remixed_from")?,
            retry_of: other("retry_of")?,
            webhook_url: row.try_get("webhook_url")?,
            checkpoint_step: row.try_get("checkpoint_step")?,
            low_memory: row.try_get("low_memory")?,
            peak_memory_bytes: row.try_get::<Option<i64>, _>("peak_memory_bytes")?.map(|bytes| bytes as u64),
            turn: row.try_get("turn")?,
        };
        Ok(Self { video, generation: row.try_get("lease_generation")? })
    }
}

fn json<T: DeserializeOwned>(
    row: &SqliteRow,
    column: &'static str,
    corrupt: impl Fn(&'static str, String) -> Error,
) -> Result<T> {
    let text: String = row.try_get(column)?;
    parse(&text).map_err(|found| corrupt(column, found))
}

fn optional_json<T: DeserializeOwned>(
    row: &SqliteRow,
    column: &'static str,
    corrupt: impl Fn(&'static str, String) -> Error,
) -> Result<Option<T>> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| parse(&text).map_err(|found| corrupt(column, found))).transpose()
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    // The place only: serde's message may quote what it found, and prompts stay out of errors.
    serde_json::from_str(text).map_err(|e| format!("JSON of another form, at column {}", e.column()))
}
