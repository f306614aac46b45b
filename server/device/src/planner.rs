//! A device that does no work: it knows what is allocated, nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::device::{Backend, Capability};
use crate::launch::Launch;
use crate::{Error, Result};

#[derive(Debug)]
pub(crate) struct Planner {
    capability: Capability,
    total_bytes: usize,
    free_bytes: AtomicU64,
    next_address: AtomicU64,
}

impl Planner {
    pub(crate) fn new(capability: Capability, total_bytes: usize) -> Self {
        let free_bytes = AtomicU64::new(total_bytes as u64);
        Self { capability, total_bytes, free_bytes, next_address: AtomicU64::new(1 << 20) }
    }
}

impl Backend for Planner {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        let taken = self
            .free_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(bytes as u64));
        match taken {
            Ok(_) => Ok(self.next_address.fetch_add(bytes.next_multiple_of(512) as u64, Ordering::Relaxed)),
            Err(free) => {
                let (used, total) = (self.total_bytes - free as usize, self.total_bytes);
                Err(Error::out_of_memory(bytes, used, format_args!("the device has {total}")))
            }
        }
    }

    fn free(&self, _address: u64, bytes: usize) {
        self.free_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn upload(&self, _address: u64, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download(&self, _address: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }

    fn copy(&self, _to: u64, _from: u64, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn fill(&self, _address: u64, _value: u8, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn launch(&self, _launch: &Launch, _args: *const u8, _args_bytes: usize) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn memory(&self) -> Result<(usize, usize)> {
        Ok((self.free_bytes.load(Ordering::Relaxed) as usize, self.total_bytes))
    }

    fn name(&self) -> &'static str {
        "planner"
    }

    fn capability(&self) -> Capability {
        self.capability
    }
}
