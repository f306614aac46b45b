//! A GPU's primary context: opened where there is a driver that is new enough, and kept as long as anything made in it.
//!
//! Streams, events and pinned memory may outlive the [`super::Cuda`] that made them, in any order, and each needs its
//! context to be given back. Must not know what is done in it.

use cudarc::driver::{result, sys};

use super::{Handle, check};
use crate::device::Capability;
use crate::{Error, Result};

/// The driver that came with CUDA 13.0; earlier ones cannot load the kernels.
const LEAST_DRIVER_VERSION: i32 = 13_000;

/// The process' one context of a GPU, retained.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) device: sys::CUdevice,
    /// The product's.
    pub(super) name: String,
    pub(super) capability: Capability,
    handle: Handle<sys::CUcontext>,
}

#[expect(unsafe_code, reason = "the driver's API")]
impl Context {
    /// # Errors
    /// [`Error::Unavailable`] without a driver, with one that is too old, or without such a GPU.
    pub(super) fn open(ordinal: usize) -> Result<Self> {
        let unavailable = |message: String| Error::Unavailable(format!("cuda:{ordinal}: {message}"));
        // SAFETY: it only tries to load the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(unavailable(
                "this machine has no NVIDIA driver (libcuda.so.1 was not found); use --device cpu".to_owned(),
            ));
        }
        check("cuInit", result::init()).map_err(|error| unavailable(error.to_string()))?;
        let mut version = 0;
        // SAFETY: the pointer is valid for the call.
        check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut version) }.result())?;
        if version < LEAST_DRIVER_VERSION {
            let (major, minor) = (version / 1000, version % 1000 / 10);
            return Err(unavailable(format!(
                "expected a driver for CUDA 13.0 (580) or newer, found {major}.{minor}"
            )));
        }
        let count = check("cuDeviceGetCount", result::device::get_count())?;
        if ordinal >= count.max(0) as usize {
            return Err(unavailable(format!("no such GPU, the driver knows {count}")));
        }
        let device = check("cuDeviceGet", result::device::get(ordinal as i32))?;
        let name = check("cuDeviceGetName", result::device::get_name(device))?;
        let attribute = |attribute| {
            // SAFETY: the device was given by the driver.
            check("cuDeviceGetAttribute", unsafe { result::device::get_attribute(device, attribute) })
        };
        let capability = Capability {
            major: attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32,
            minor: attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32,
        };
        if capability.major < 8 {
            let Capability { major, minor } = capability;
            return Err(unavailable(format!(
                "{name}: expected compute capability 8.0 or more, found {major}.{minor}"
            )));
        }
        // SAFETY: the device was given by the driver; the context is released in `drop`.
        let handle = check("cuDevicePrimaryCtxRetain", unsafe { result::primary_ctx::retain(device) })?;
        Ok(Self { device, name, capability, handle: Handle(handle) })
    }

    /// Makes this GPU the calling thread's.
    pub(super) fn bind(&self) -> Result<()> {
        // SAFETY: it is retained as long as `self` lives.
        check("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.handle.0) })
    }
}

#[expect(unsafe_code, reason = "the driver's API")]
impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained in `open`.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}
