//! What can go wrong with starting a worker. What goes wrong with a video is written to its row instead.

/// An error of the worker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system gives no thread.
    #[error("the generator's thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// A result of the worker.
pub type Result<T, E = Error> = std::result::Result<T, E>;
