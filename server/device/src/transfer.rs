//! Copies from the host beside a device's work: pinned memory and a second stream.
//!
//! The order between the two streams is the caller's to say, with [`CopyStream::wait_for_device`] before memory that
//! the device still reads is overwritten, and [`CopyStream::device_waits`] before the device reads what was copied.

use std::ops::Range;

use crate::{Device, Error, Event, Result, Tensor};

/// Host memory that a device can copy from without the processor's help.
#[derive(Debug)]
pub struct Pinned {
    /// Where it is counted.
    device: Device,
    bytes: usize,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    /// A planner's: nothing is copied.
    None,
    Host(Vec<u8>),
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::PinnedMemory),
}

impl Memory {
    fn new(device: &Device, bytes: usize) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = device.as_cuda() {
            return Ok(Self::Cuda(cuda.pinned(bytes)?));
        }
        Ok(if device.is_planner() { Self::None } else { Self::Host(vec![0; bytes]) })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.device.account().unpin(self.bytes);
    }
}

impl Pinned {
    /// Zeros.
    ///
    /// # Errors
    /// [`Error::Call`] if the system gives no such memory.
    pub fn new(device: &Device, bytes: usize) -> Result<Self> {
        let memory = Memory::new(device, bytes)?;
        device.account().pin(bytes);
        Ok(Self { device: device.clone(), bytes, memory })
    }

    /// How many.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// To be written while no copy from it is under way; empty for a planner.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::None => &mut [],
            Memory::Host(bytes) => bytes,
            #[cfg(feature = "cuda")]
            Memory::Cuda(memory) => memory.as_mut_slice(),
        }
    }

    fn as_slice(&self) -> &[u8] {
        match &self.memory {
            Memory::None => &[],
            Memory::Host(bytes) => bytes,
            #[cfg(feature = "cuda")]
            Memory::Cuda(memory) => memory.as_slice(),
        }
    }

    /// Takes over a tensor's bytes, at `offset_bytes`; waits for them.
    ///
    /// # Errors
    /// [`Error::Shape`] beyond the end.
    pub fn store(&mut self, offset_bytes: usize, tensor: &Tensor) -> Result<()> {
        let range = self.range(offset_bytes, tensor.bytes())?;
        let device = tensor.device().clone();
        if range.is_empty() || matches!(self.memory, Memory::None) {
            return Ok(());
        }
        device.backend().download(tensor.address(), &mut self.as_mut_slice()[range])
    }

    fn range(&self, offset_bytes: usize, bytes: usize) -> Result<Range<usize>> {
        let end = offset_bytes.saturating_add(bytes);
        if end > self.bytes {
            return Err(Error::shape(
                "pinned memory",
                format!("bytes {offset_bytes} to {end} of {}", self.bytes),
            ));
        }
        Ok(offset_bytes..end)
    }
}

/// A second order of work, for copies.
#[derive(Debug)]
pub struct CopyStream {
    device: Device,
    #[cfg(feature = "cuda")]
    stream: Option<crate::cuda::CudaStream>,
}

impl CopyStream {
    /// Beside the device's own.
    ///
    /// # Errors
    /// What the driver says.
    pub fn new(device: &Device) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            #[cfg(feature = "cuda")]
            stream: device.as_cuda().map(crate::cuda::Cuda::new_stream).transpose()?,
        })
    }

    /// Starts to copy `from.bytes()` of a tensor; `from` must stay as it is until an event recorded after this.
    ///
    /// # Errors
    /// [`Error::Shape`] if sizes differ.
    pub fn upload(&self, to: &Tensor, from: &Pinned, offset_bytes: usize) -> Result<()> {
        self.device.expect_same("upload", to.device())?;
        let range = from.range(offset_bytes, to.bytes())?;
        if self.device.is_planner() || range.is_empty() {
            return Ok(());
        }
        let bytes = &from.as_slice()[range];
        #[cfg(feature = "cuda")]
        if let (Some(cuda), Some(stream)) = (self.device.as_cuda(), &self.stream) {
            return cuda.upload_on(stream, to.address(), bytes);
        }
        self.device.backend().upload(to.address(), bytes)
    }

    /// A point after the copies asked for so far.
    ///
    /// # Errors
    /// What the driver says.
    pub fn record(&self) -> Result<Event> {
        #[cfg(feature = "cuda")]
        if let (Some(cuda), Some(stream)) = (self.device.as_cuda(), &self.stream) {
            return Ok(Event::of_cuda(cuda.record_event(stream.raw())?));
        }
        Ok(Event::host())
    }

    /// Later copies begin after `event` of the device's work.
    ///
    /// # Errors
    /// What the driver says.
    pub fn wait_for_device(&self, event: &Event) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let (Some(cuda), Some(stream), Some(event)) =
            (self.device.as_cuda(), &self.stream, event.as_cuda())
        {
            return cuda.wait(stream.raw(), event);
        }
        let _ = event;
        Ok(())
    }

    /// The device's later work begins after `event` of the copies.
    ///
    /// # Errors
    /// What the driver says.
    pub fn device_waits(&self, event: &Event) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let (Some(cuda), Some(event)) = (self.device.as_cuda(), event.as_cuda()) {
            return cuda.wait(cuda.stream(), event);
        }
        let _ = event;
        Ok(())
    }
}
