//! Everything that can go wrong on a device.
//!
//! What matters to a caller is told apart: no memory left (try with less), a device that is lost to this process
//! (start afresh), and everything else. Must not know how a caller reports it.

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of a device.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such device, or its driver or a library is missing or too old.
    #[error("{0}")]
    Unavailable(String),
    /// The device's memory, or the limit set on it, is used up: by an allocation for a tensor, which tells bytes, or by
    /// one that the driver or a library makes for itself.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The device faulted: nothing that this process asks of it will work again.
    #[error("the device is lost to this process: {0}")]
    Lost(String),
    /// A driver's or library's call failed.
    #[error("{call}: {message}")]
    Call {
        /// Which.
        call: &'static str,
        /// What it said.
        message: String,
    },
    /// A library cannot do this piece of work, which has to be done in another way.
    #[error("{call}: {message}")]
    Unsupported {
        /// Which.
        call: &'static str,
        /// What it said.
        message: String,
    },
    /// An operation was given tensors that do not fit it.
    #[error("{op}: {message}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// Expected and found.
        message: String,
    },
    /// A kernel broke a rule under the emulator.
    #[error("kernel {0}")]
    Kernel(String),
}

impl Error {
    /// For an allocation of so many bytes; `limit` says what bounds it.
    pub(crate) fn out_of_memory(
        requested_bytes: usize,
        used_bytes: usize,
        limit: impl std::fmt::Display,
    ) -> Self {
        Self::OutOfMemory(format!("{requested_bytes} bytes asked for, {used_bytes} in use, {limit}"))
    }

    /// Whether this is about the device rather than about one way of doing the work: then no other way is tried, which
    /// would hide it and make results depend on what else is in memory.
    #[cfg(feature = "cuda")]
    pub(crate) fn is_of_device(&self) -> bool {
        matches!(self, Self::OutOfMemory(_) | Self::Lost(_))
    }

    pub(crate) fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Self::Shape { op, message: message.into() }
    }
}
