//! What can go wrong with the store.

use std::{
    io,
    path::{Path, PathBuf},
};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing lies under this key.
    #[error("{0} is not in the store")]
    NotFound(String),
    /// A key that the server would not make.
    #[error("{0:?} is not a key, expected [a-z0-9_]+.(mp4|webp|jpg|ckpt|image)")]
    InvalidKey(String),
    /// The file system said no.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The async runtime is going away.
    #[error("the server is stopping")]
    Stopping,
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// An error of a reader, who may have asked for what is not there.
    pub(crate) fn reading(key: String, action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound(key),
            _ => Self::io(action, path, source),
        }
    }
}

/// A result of the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;
