//! cuDNN on a [`Cuda`] device: its handle on the device's stream, workspaces from the device's own memory.
//!
//! A workspace is a tensor that lives for one call: the device's pool gives the same memory again, and it is counted.
//! Relies on [`super::plans`]; must not know which work is worth giving to cuDNN.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Handle, Library, Plan, Plans, Timing, Work, Workspace};
use crate::cuda::Cuda;
use crate::device::Backend;
use crate::{Device, Dtype, Error, Result, Tensor};

const WARM_UP_RUNS: usize = 2;
const MEASURED_RUNS: usize = 5;
/// With less than this free, a failure is taken for a lack of memory: an engine's code is some ten megabytes.
const SCARCE_BYTES: usize = 256 << 20;

/// The library, ready for one GPU.
#[derive(Debug)]
pub(crate) struct Cudnn {
    version: String,
    /// Measures engines; otherwise takes the first.
    measured: bool,
    plans: Mutex<Plans>,
}

/// One call on a device.
struct Call<'a> {
    device: &'a Device,
    cuda: &'a Cuda,
    addresses: &'a [(i64, u64)],
}

impl Cudnn {
    /// For the GPU that is the calling thread's.
    ///
    /// # Safety
    /// The stream is of that GPU and outlives the result.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without the library, with an older one, or if it does not take the GPU;
    /// [`Error::OutOfMemory`].
    #[expect(unsafe_code, reason = "the caller's promise is handed on")]
    pub(crate) unsafe fn new(stream: *mut std::ffi::c_void, measured: bool) -> Result<Self> {
        let library = Library::open(None)?;
        let version = library.version_text();
        // SAFETY: the caller's promise.
        let handle = unsafe { Handle::new(&library, stream) }.map_err(|error| match error {
            error if error.is_of_device() => error,
            other => Error::Unavailable(format!("cuDNN {version}: {other}")),
        })?;
        Ok(Self { version, measured, plans: Mutex::new(Plans::new(handle)) })
    }

    /// For an operator.
    pub(crate) fn note(&self) -> String {
        format!("cuDNN {}", self.version)
    }

    /// Enqueues the work; false if the library cannot do it. `addresses` are of the operands, by their ids.
    ///
    /// A GPU that is short of memory for an engine's code makes cuDNN fail with statuses that do not say so: whatever
    /// fails on a sound GPU is tried once more with the memory that the pool kept, and what fails then for another reason
    /// is left to the next engine for good.
    ///
    /// # Safety
    /// As of [`Plan::execute`], for operands on `device`, whose library this is.
    ///
    /// # Errors
    /// [`Error::Lost`] if the GPU faulted, [`Error::OutOfMemory`] for a workspace or for what cuDNN itself asks for,
    /// otherwise what cuDNN says.
    #[expect(unsafe_code, reason = "the caller's promise is handed on")]
    pub(crate) unsafe fn run(
        &self,
        device: &Device,
        cuda: &Cuda,
        work: &Work,
        workspace_limit_bytes: usize,
        addresses: &[(i64, u64)],
    ) -> Result<bool> {
        cuda.bind()?;
        let call = Call { device, cuda, addresses };
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller's promise.
        let time = |handle: &Handle, plan: &Plan| unsafe { call.time(handle, plan) };
        let timing: Option<Timing<'_>> = if self.measured { Some(&time) } else { None };
        let attempt = |plans: &mut Plans| {
            // SAFETY: as above.
            let execute = |handle: &Handle, plan: &Plan| unsafe { call.execute(handle, plan) };
            plans.run(work, workspace_limit_bytes, timing, execute).map_err(|error| cuda.examined(error))
        };
        loop {
            match attempt(&mut plans) {
                Err(Error::Call { .. }) => {}
                outcome => return outcome,
            }
            let (free_bytes, _) = cuda.memory()?;
            match attempt(&mut plans) {
                Err(error @ Error::Call { .. }) if free_bytes < SCARCE_BYTES => {
                    return Err(Error::OutOfMemory(format!("{free_bytes} bytes free; {error}")));
                }
                Err(Error::Call { .. }) => plans.pass_over(work, workspace_limit_bytes, timing)?,
                outcome => return outcome,
            }
        }
    }
}

#[expect(unsafe_code, reason = "executions")]
impl Call<'_> {
    /// # Safety
    /// As of [`Cudnn::run`].
    unsafe fn execute(&self, handle: &Handle, plan: &Plan) -> Result<()> {
        let workspace = Tensor::empty(self.device, &[plan.workspace_bytes()], Dtype::U8)?;
        let bytes = Workspace { address: workspace.address(), bytes: workspace.bytes() };
        // SAFETY: the caller's promise; the workspace is given back in the stream's order.
        unsafe { plan.execute(handle, self.addresses, bytes) }
    }

    /// Of one execution, the mean of some.
    ///
    /// # Safety
    /// As of [`Cudnn::run`].
    unsafe fn time(&self, handle: &Handle, plan: &Plan) -> Result<Duration> {
        for _ in 0..WARM_UP_RUNS {
            // SAFETY: the caller's promise.
            unsafe { self.execute(handle, plan) }?;
        }
        let start = self.cuda.record_event(self.cuda.stream())?;
        for _ in 0..MEASURED_RUNS {
            // SAFETY: the caller's promise.
            unsafe { self.execute(handle, plan) }?;
        }
        let end = self.cuda.record_event(self.cuda.stream())?;
        end.synchronize()?;
        Ok(Duration::from_secs_f64(start.milliseconds_to(&end)? / 1e3 / MEASURED_RUNS as f64))
    }
}
