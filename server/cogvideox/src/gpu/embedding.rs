//! A table of embeddings: on a device, or in the host's memory, from where a prompt's rows are copied.
//!
//! T5's takes 250 MiB, of which a prompt reads 226 rows. Must not know tokens.

use device::ops::t5;
use device::{CopyStream, Device, Dtype, Event, Pinned, Tensor};

use super::streaming::Residence;
use crate::Result;

/// `[vocabulary, d]`.
pub(super) enum Embedding {
    Resident(Tensor),
    Hosted(Box<Hosted>),
}

/// Rows in the host's memory.
pub(super) struct Hosted {
    /// Dropped, and so waited for, before the memory that it copies from.
    copies: CopyStream,
    table: Pinned,
    device: Device,
    size: usize,
    dtype: Dtype,
}

impl Embedding {
    pub(super) fn new(table: Tensor, residence: Residence) -> Result<Self> {
        if residence == Residence::Resident {
            return Ok(Self::Resident(table));
        }
        let [_, size] = table.dims_n("embedding")?;
        let device = table.device();
        let mut pinned = Pinned::new(device, table.bytes())?;
        pinned.store(0, &table)?;
        Ok(Self::Hosted(Box::new(Hosted {
            copies: CopyStream::new(device)?,
            table: pinned,
            device: device.clone(),
            size,
            dtype: table.dtype(),
        })))
    }

    /// The rows `ids`, `[ids, d]`.
    ///
    /// # Errors
    /// [`device::Error::Shape`] for an id beyond the vocabulary; [`device::Error::OutOfMemory`].
    pub(super) fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        match self {
            Self::Resident(table) => Ok(t5::embedding(table, ids)?),
            Self::Hosted(hosted) => hosted.rows(ids),
        }
    }
}

impl Hosted {
    fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        let out = Tensor::empty(&self.device, &[ids.len(), self.size], self.dtype)?;
        // Its memory comes from the device's order of work.
        self.copies.wait_for_device(&Event::record(&self.device)?)?;
        for (index, id) in ids.iter().enumerate() {
            let row = out.slice(index, 1)?;
            self.copies.upload(&row, &self.table, *id as usize * row.bytes())?;
        }
        self.copies.device_waits(&self.copies.record()?)?;
        Ok(out)
    }
}
