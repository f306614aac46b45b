//! Large uploads from memory that the system pages in, such as mapped files, at the speed of disk and bus.
//!
//! A few threads copy pieces into a ring of pinned memory, which is where the pages are read; each piece then goes to
//! the device beside the next one's copying. Must not know where the bytes come from.

use std::sync::{Mutex, PoisonError};

use crate::{CopyStream, Device, Error, Event, Pinned, Result, Tensor};

/// Of a piece: long enough to outweigh a copy's start, short enough that the ring is small.
const PIECE_BYTES: usize = 8 << 20;
/// Pieces under way: one being filled, the others being copied.
const PIECES: usize = 4;
/// Below it a thread takes longer to start than to copy.
const LEAST_SHARED_BYTES: usize = 1 << 20;
/// Threads that fill a piece; one alone reads and copies no faster than about 10 GB/s.
const THREADS: usize = 4;

/// A ring of pinned memory, and a stream.
#[derive(Debug)]
pub struct Uploader(Mutex<Ring>);

#[derive(Debug)]
struct Ring {
    device: Device,
    /// Dropped, and so waited for, before the memory that it copies from.
    copies: CopyStream,
    pieces: Vec<Piece>,
    next: usize,
}

#[derive(Debug)]
struct Piece {
    memory: Pinned,
    /// After its last copy.
    copied: Option<Event>,
}

impl Uploader {
    /// # Errors
    /// [`Error::Call`] if the system gives no pinned memory.
    pub fn new(device: &Device) -> Result<Self> {
        let piece = || Ok(Piece { memory: Pinned::new(device, PIECE_BYTES)?, copied: None });
        let pieces = (0..PIECES).map(|_| piece()).collect::<Result<_>>()?;
        Ok(Self(Mutex::new(Ring {
            device: device.clone(),
            copies: CopyStream::new(device)?,
            pieces,
            next: 0,
        })))
    }

    /// Overwrites a tensor. `bytes` may be reused when this returns; the device's later work sees them.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of bytes.
    pub fn upload(&self, tensor: &Tensor, bytes: &[u8]) -> Result<()> {
        if bytes.len() != tensor.bytes() {
            let message = format!("expected {} bytes, found {}", tensor.bytes(), bytes.len());
            return Err(Error::shape("upload", message));
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).upload(tensor, bytes)
    }
}

impl Ring {
    fn upload(&mut self, tensor: &Tensor, bytes: &[u8]) -> Result<()> {
        if self.device.is_planner() || bytes.is_empty() {
            return Ok(());
        }
        // The tensor's memory comes from the device's order of work.
        self.copies.wait_for_device(&Event::record(&self.device)?)?;
        for (index, source) in bytes.chunks(PIECE_BYTES).enumerate() {
            let number = self.next;
            self.next = (number + 1) % self.pieces.len();
            let piece = &mut self.pieces[number];
            if let Some(copied) = piece.copied.take() {
                copied.synchronize()?;
            }
            fill(&mut piece.memory.as_mut_slice()[..source.len()], source);
            let target = tensor.view(index * PIECE_BYTES, &[source.len()], crate::Dtype::U8)?;
            self.copies.upload(&target, &piece.memory, 0)?;
            piece.copied = Some(self.copies.record()?);
        }
        self.copies.device_waits(&self.copies.record()?)
    }
}

/// Copies, on a few threads where that pays.
fn fill(to: &mut [u8], from: &[u8]) {
    if from.len() < LEAST_SHARED_BYTES {
        return to.copy_from_slice(from);
    }
    let part = from.len().div_ceil(THREADS).max(1);
    std::thread::scope(|scope| {
        for (to, from) in to.chunks_mut(part).zip(from.chunks(part)) {
            scope.spawn(move || to.copy_from_slice(from));
        }
    });
}
