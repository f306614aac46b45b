//! Points in a device's work: for the time between two, and for one stream to wait for another.

use std::time::Instant;

use crate::{Device, Result};

/// A point in the order of work.
#[derive(Debug)]
pub struct Event(Kind);

#[derive(Debug)]
enum Kind {
    /// On a device whose calls return when the work is done.
    Host(Instant),
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::CudaEvent),
}

impl Event {
    /// After all work asked of `device` so far.
    ///
    /// # Errors
    /// What the driver says.
    pub fn record(device: &Device) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = device.as_cuda() {
            return Ok(Self(Kind::Cuda(cuda.record_event(cuda.stream())?)));
        }
        let _ = device;
        Ok(Self(Kind::Host(Instant::now())))
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn of_cuda(event: crate::cuda::CudaEvent) -> Self {
        Self(Kind::Cuda(event))
    }

    pub(crate) fn host() -> Self {
        Self(Kind::Host(Instant::now()))
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn as_cuda(&self) -> Option<&crate::cuda::CudaEvent> {
        match &self.0 {
            Kind::Cuda(event) => Some(event),
            Kind::Host(_) => None,
        }
    }

    /// Waits until it is reached.
    ///
    /// # Errors
    /// [`crate::Error::Lost`] if the device faulted.
    pub fn synchronize(&self) -> Result<()> {
        match &self.0 {
            Kind::Host(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Kind::Cuda(event) => event.synchronize(),
        }
    }

    /// From `self` to `end`, which is waited for; both of one device.
    ///
    /// # Errors
    /// [`crate::Error::Lost`] if the device faulted.
    pub fn milliseconds_to(&self, end: &Self) -> Result<f64> {
        match (&self.0, &end.0) {
            (Kind::Host(start), Kind::Host(end)) => {
                Ok(end.saturating_duration_since(*start).as_secs_f64() * 1e3)
            }
            #[cfg(feature = "cuda")]
            (Kind::Cuda(start), Kind::Cuda(end)) => {
                end.synchronize()?;
                start.milliseconds_to(end)
            }
            #[cfg(feature = "cuda")]
            _ => Err(crate::Error::shape("event", "events of different devices")),
        }
    }
}
