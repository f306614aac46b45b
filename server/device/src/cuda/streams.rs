//! What stands beside the one stream of work: events, a second stream, pinned host memory.

use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::context::Context;
use super::{Cuda, Handle, check};
use crate::{Error, Result};

/// An event of the driver.
#[derive(Debug)]
pub(crate) struct CudaEvent {
    event: Handle<sys::CUevent>,
    context: Arc<Context>,
}

#[expect(unsafe_code, reason = "the driver's API")]
impl CudaEvent {
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.context.bind()?;
        // SAFETY: the event lives as long as `self`.
        check("cuEventSynchronize", unsafe { result::event::synchronize(self.event.0) })
    }

    /// Both have been reached.
    pub(crate) fn milliseconds_to(&self, end: &Self) -> Result<f64> {
        self.context.bind()?;
        // SAFETY: the events live as long as the borrows.
        check("cuEventElapsedTime", unsafe { result::event::elapsed(self.event.0, end.event.0) })
            .map(f64::from)
    }
}

#[expect(unsafe_code, reason = "the driver's API")]
impl Drop for CudaEvent {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: created by `record_event`; the driver defers the destruction until the event is reached.
            let _ = unsafe { result::event::destroy(self.event.0) };
        }
    }
}

/// A stream beside the device's own.
#[derive(Debug)]
pub(crate) struct CudaStream {
    stream: Handle<sys::CUstream>,
    context: Arc<Context>,
}

impl CudaStream {
    pub(crate) fn raw(&self) -> sys::CUstream {
        self.stream.0
    }
}

#[expect(unsafe_code, reason = "the driver's API")]
impl Drop for CudaStream {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: created by `new_stream`; its work is waited for.
            unsafe {
                let _ = result::stream::synchronize(self.stream.0);
                let _ = result::stream::destroy(self.stream.0);
            }
        }
    }
}

/// Page-locked host memory.
#[derive(Debug)]
pub(crate) struct PinnedMemory {
    context: Arc<Context>,
    pointer: Handle<*mut u8>,
    bytes: usize,
}

#[expect(unsafe_code, reason = "memory of the driver")]
impl PinnedMemory {
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: allocated with this size, zeroed, and owned.
        unsafe { std::slice::from_raw_parts(self.pointer.0, self.bytes) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.0, self.bytes) }
    }
}

#[expect(unsafe_code, reason = "memory of the driver")]
impl Drop for PinnedMemory {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: allocated by `pinned`; freed once.
            let _ = unsafe { result::free_host(self.pointer.0.cast()) };
        }
    }
}

#[expect(unsafe_code, reason = "the driver's API")]
impl Cuda {
    /// After the work in `stream` so far.
    pub(crate) fn record_event(&self, stream: sys::CUstream) -> Result<CudaEvent> {
        self.bind()?;
        let event = check("cuEventCreate", result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT))?;
        let event = CudaEvent { event: Handle(event), context: self.context.clone() };
        // SAFETY: both live.
        check("cuEventRecord", unsafe { result::event::record(event.event.0, stream) })?;
        Ok(event)
    }

    /// Later work in `stream` begins after `event`.
    pub(crate) fn wait(&self, stream: sys::CUstream, event: &CudaEvent) -> Result<()> {
        self.bind()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both live.
        check("cuStreamWaitEvent", unsafe { result::stream::wait_event(stream, event.event.0, flags) })
    }

    pub(crate) fn new_stream(&self) -> Result<CudaStream> {
        self.bind()?;
        let stream =
            check("cuStreamCreate", result::stream::create(result::stream::StreamKind::NonBlocking))?;
        Ok(CudaStream { stream: Handle(stream), context: self.context.clone() })
    }

    /// Zeroed, and known to every context.
    pub(crate) fn pinned(&self, bytes: usize) -> Result<PinnedMemory> {
        self.bind()?;
        // Not write-combined: `Pinned::store` and the loader's threads read and write it by the processor.
        // SAFETY: freed in `drop`.
        let outcome = unsafe { result::malloc_host(bytes.max(1), sys::CU_MEMHOSTALLOC_PORTABLE) };
        // Whatever it is short of, it is not the GPU's memory.
        let pointer = outcome
            .map_err(|error| Error::Call { call: "cuMemHostAlloc", message: super::name_of(error) })?;
        // SAFETY: just allocated with at least this size.
        unsafe { pointer.cast::<u8>().write_bytes(0, bytes) };
        Ok(PinnedMemory { context: self.context.clone(), pointer: Handle(pointer.cast()), bytes })
    }

    /// `bytes` must be pinned and stay as they are until the copy is done.
    pub(crate) fn upload_on(&self, stream: &CudaStream, address: u64, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the ranges are checked by `CopyStream`.
        check("cuMemcpyHtoDAsync", unsafe { result::memcpy_htod_async(address, bytes, stream.raw()) })
    }
}
