//! What can go wrong with the queue, by what the caller can do about it.

use std::path::PathBuf;

use crate::{Status, VideoId};

/// An error of the queue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No row has this id.
    #[error("video {0} does not exist")]
    NotFound(VideoId),
    /// As many videos wait as may.
    #[error("the queue is full: {capacity} videos wait already")]
    QueueFull {
        /// How many may wait.
        capacity: u32,
    },
    /// As many videos of one API key wait as may.
    #[error("{limit} videos of this API key wait already, which is its limit")]
    KeyQueueFull {
        /// How many of one key may wait.
        limit: u32,
    },
    /// An idempotency key came again with another request.
    #[error("this idempotency key was used for another request before")]
    IdempotencyKeyReuse,
    /// Only a waiting video has a priority that can be changed.
    #[error("video {id} is {status}, expected queued")]
    NotQueued {
        /// The video.
        id: VideoId,
        /// What it is instead.
        status: Status,
    },
    /// No API key has this name or id.
    #[error("no API key has the name or id {0:?}")]
    KeyNotFound(String),
    /// An API key has this name already.
    #[error("an API key has the name {0:?} already")]
    KeyNameTaken(String),
    /// Not a name for an API key.
    #[error("{0:?} is not a name for an API key, expected 1 to 64 of a-z, A-Z, 0-9, '_', '-' and '.'")]
    InvalidKeyName(String),
    /// Only a settled video can be deleted.
    #[error("video {id} is {status}, expected completed, failed or cancelled")]
    NotTerminal {
        /// The video.
        id: VideoId,
        /// What it is instead.
        status: Status,
    },
    /// The row has moved on since this lease was given: the worker must drop what it has.
    #[error("the lease on video {id} is lost: generation {generation} no longer holds it")]
    LeaseLost {
        /// The video.
        id: VideoId,
        /// The generation that the worker claimed with.
        generation: i64,
    },
    /// The video was cancelled before its result arrived: the worker settles it as cancelled.
    #[error("video {0} was cancelled before it was completed")]
    CancelRequested(VideoId),
    /// Not an id of ours.
    #[error("{0:?} is not a video id, expected \"video_\" and 32 hexadecimal digits")]
    InvalidId(String),
    /// Another process has the database.
    #[error("{path} is held by another server: one process owns a database")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file cannot be made.
    #[error("{path} cannot be locked: {source}")]
    LockFile {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A row that this version did not write.
    #[error("video row {id}: column {column} holds {found}")]
    Corrupt {
        /// The row's id as stored.
        id: String,
        /// The column.
        column: &'static str,
        /// What it holds, or why it cannot be read.
        found: String,
    },
    /// A later release has been at work on the database.
    #[error(
        "the database has tables of a newer release (schema {found}, this program knows up to {known}): run that \
         release, or restore a backup from before the upgrade"
    )]
    NewerSchema {
        /// The newest migration in the database.
        found: i64,
        /// The newest one that this program knows.
        known: i64,
    },
    /// The database cannot be brought to this version's tables.
    #[error("the migrations failed: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The database said no.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The async runtime is going away.
    #[error("the server is stopping")]
    Stopping,
}

/// Why the database takes no change for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritable {
    /// Another process holds it, for longer than is waited for.
    Busy,
    /// Its disk is full.
    Full,
    /// Its disk fails, or may only be read.
    Failing,
}

impl Error {
    /// Whether this is trouble with the database's disk or with another process, which may pass.
    pub fn unwritable(&self) -> Option<Unwritable> {
        let Self::Database(error) = self else { return None };
        let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
        // Extended codes keep the primary one in their low byte: sqlite3.h.
        match code & 0xff {
            // SQLITE_BUSY, SQLITE_LOCKED.
            5 | 6 => Some(Unwritable::Busy),
            // SQLITE_FULL.
            13 => Some(Unwritable::Full),
            // SQLITE_READONLY, SQLITE_IOERR, SQLITE_CANTOPEN.
            8 | 10 | 14 => Some(Unwritable::Failing),
            _ => None,
        }
    }
}

/// A result of the queue.
pub type Result<T, E = Error> = std::result::Result<T, E>;
