//! Device memory that is owned: given back when the last tensor in it is dropped, and counted.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Device, Error, Result};

/// Bytes in use on a device by this process' tensors, now and at most.
#[derive(Debug, Default)]
pub(crate) struct Account {
    used: AtomicUsize,
    peak: AtomicUsize,
    /// Of the host's memory.
    pinned: AtomicUsize,
    /// No more than this may be in use; `usize::MAX` for no limit.
    limit: AtomicUsize,
}

/// What a device's tensors take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Now.
    pub used_bytes: usize,
    /// At most since the last reset.
    pub peak_bytes: usize,
    /// Pinned memory of the host, now.
    pub pinned_bytes: usize,
}

/// Allocations are rounded up to this, as the driver's pools do (cuMemAllocAsync returns 512-byte blocks).
const GRANULARITY_BYTES: usize = 512;

impl Account {
    pub(crate) fn new(limit_bytes: Option<usize>) -> Self {
        Self { limit: AtomicUsize::new(limit_bytes.unwrap_or(usize::MAX)), ..Self::default() }
    }

    fn take(&self, bytes: usize) -> Result<()> {
        let limit = self.limit.load(Ordering::Relaxed);
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if used > limit {
            self.give(bytes);
            return Err(Error::out_of_memory(bytes, used - bytes, format_args!("limited to {limit}")));
        }
        self.peak.fetch_max(used, Ordering::Relaxed);
        Ok(())
    }

    fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn usage(&self) -> Usage {
        let [used_bytes, peak_bytes, pinned_bytes] =
            [&self.used, &self.peak, &self.pinned].map(|bytes| bytes.load(Ordering::Relaxed));
        Usage { used_bytes, peak_bytes, pinned_bytes }
    }

    pub(crate) fn pin(&self, bytes: usize) {
        self.pinned.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn unpin(&self, bytes: usize) {
        self.pinned.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn reset_peak(&self) {
        self.peak.store(self.used.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(crate) fn limit_bytes(&self) -> Option<usize> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit != usize::MAX)
    }
}

/// An allocation on a device.
#[derive(Debug)]
pub struct Buffer {
    device: Device,
    address: u64,
    bytes: usize,
}

impl Buffer {
    /// Of unknown content. A size of 0 has no address.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(device: &Device, bytes: usize) -> Result<Self> {
        let rounded = bytes.next_multiple_of(GRANULARITY_BYTES);
        device.account().take(rounded)?;
        match if bytes == 0 { Ok(0) } else { device.backend().allocate(rounded) } {
            Ok(address) => Ok(Self { device: device.clone(), address, bytes }),
            Err(error) => {
                device.account().give(rounded);
                Err(error)
            }
        }
    }

    /// Where it is.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// As asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whose memory it is.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let rounded = self.bytes.next_multiple_of(GRANULARITY_BYTES);
        if self.bytes > 0 {
            self.device.backend().free(self.address, rounded);
        }
        self.device.account().give(rounded);
    }
}
