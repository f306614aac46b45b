//! An NVIDIA GPU through its driver: one context, one stream for all work, memory from the driver's pool.
//!
//! Nothing here waits for the device but downloads and `synchronize`. The driver's library is loaded at run time; its
//! absence is an [`Error::Unavailable`]. The kernels are in the binary, as fatbins made by the build script.

mod context;
mod streams;

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex};

use cudarc::driver::{DriverError, result, sys};

use self::context::Context;
pub(crate) use self::streams::{CudaEvent, CudaStream, PinnedMemory};
use crate::cublaslt::CublasLt;
use crate::cudnn::Cudnn;
use crate::device::{Backend, Capability, Settings};
use crate::launch::Launch;
use crate::status::Failure;
use crate::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// Shared memory that a block gets without asking for more.
const DEFAULT_SHARED_BYTES: u32 = 48 << 10;

/// A GPU of this process.
#[derive(Debug)]
pub(crate) struct Cuda {
    context: Arc<Context>,
    stream: Handle<sys::CUstream>,
    pool: Handle<sys::CUmemoryPool>,
    modules: Vec<Handle<sys::CUmodule>>,
    functions: Mutex<HashMap<&'static str, Function>>,
    cublaslt: Option<CublasLt>,
    cudnn: Option<Cudnn>,
    library_notes: Vec<String>,
}

/// A handle of the driver, which may be used from any thread whose current context is the handle's.
#[derive(Clone, Copy, Debug)]
struct Handle<T>(T);

#[expect(unsafe_code, reason = "the driver's handles are pointers")]
// SAFETY: the driver's API is thread-safe; the handles are opaque and are never dereferenced.
unsafe impl<T> Send for Handle<T> {}
#[expect(unsafe_code, reason = "the driver's handles are pointers")]
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

#[derive(Clone, Copy, Debug)]
struct Function {
    handle: Handle<sys::CUfunction>,
    /// Shared memory that it has been allowed.
    shared_bytes: u32,
}

/// Turns the driver's code into one of this crate's errors.
fn check<T>(call: &'static str, outcome: std::result::Result<T, DriverError>) -> Result<T> {
    outcome.map_err(|error| driver_error(call, error))
}

fn driver_error(call: &'static str, error: DriverError) -> Error {
    Failure::of_driver(error.0).error(call, name_of(error))
}

fn name_of(error: DriverError) -> String {
    error.error_name().map_or_else(|_| format!("{:?}", error.0), |name| name.to_string_lossy().into_owned())
}

#[expect(unsafe_code, reason = "the driver's API")]
impl Cuda {
    pub(crate) fn new(ordinal: usize, settings: Settings) -> Result<Self> {
        let context = Arc::new(Context::open(ordinal)?);
        context.bind()?;
        let stream =
            check("cuStreamCreate", result::stream::create(result::stream::StreamKind::NonBlocking))?;
        // SAFETY: the context's device was given by the driver.
        let pool = check("cuDeviceGetMemPool", unsafe { result::device::get_mem_pool(context.device) })?;
        let mut library_notes = Vec::new();
        let (mut cublaslt, mut cudnn) = (None, None);
        if settings.own_kernels {
            library_notes.push("no libraries, as asked; this program's own kernels do their work".to_owned());
        } else {
            let measured = settings.measured_algorithms;
            cublaslt = noted(CublasLt::new(measured), CublasLt::note, &mut library_notes)?;
            // SAFETY: `drop` destroys the stream after the library's handle.
            let opened = unsafe { Cudnn::new(stream.cast(), measured) };
            cudnn = noted(opened, Cudnn::note, &mut library_notes)?;
        }
        let cuda = Self {
            context,
            stream: Handle(stream),
            pool: Handle(pool),
            modules: FATBINS.iter().map(|(_, image)| load_module(image)).collect::<Result<_>>()?,
            functions: Mutex::default(),
            cublaslt,
            cudnn,
            library_notes,
        };
        cuda.keep_freed_memory()?;
        Ok(cuda)
    }

    /// By default the pool gives memory back at each synchronisation, and every step would ask for it anew.
    fn keep_freed_memory(&self) -> Result<()> {
        let mut threshold = u64::MAX;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        let value = (&raw mut threshold).cast::<c_void>();
        // SAFETY: the attribute is a u64.
        check("cuMemPoolSetAttribute", unsafe {
            result::mem_pool::set_attribute(self.pool.0, attribute, value)
        })
    }

    /// Makes this GPU the calling thread's.
    pub(crate) fn bind(&self) -> Result<()> {
        self.context.bind()
    }

    /// All work goes here.
    pub(crate) fn stream(&self) -> sys::CUstream {
        self.stream.0
    }

    /// For matrix products, where it is installed.
    pub(crate) fn cublaslt(&self) -> Option<&CublasLt> {
        self.cublaslt.as_ref()
    }

    /// For attention and convolutions, where it is installed.
    pub(crate) fn cudnn(&self) -> Option<&Cudnn> {
        self.cudnn.as_ref()
    }

    /// What was found of the optional libraries, a sentence for each.
    pub(crate) fn library_notes(&self) -> &[String] {
        &self.library_notes
    }

    fn function(&self, launch: &Launch) -> Result<sys::CUfunction> {
        let mut functions = self.functions.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut function = match functions.get(launch.kernel) {
            Some(function) => *function,
            None => {
                Function { handle: Handle(self.find(launch.kernel)?), shared_bytes: DEFAULT_SHARED_BYTES }
            }
        };
        if launch.shared_bytes > function.shared_bytes {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of a loaded module.
            let outcome = unsafe {
                result::function::set_function_attribute(
                    function.handle.0,
                    attribute,
                    launch.shared_bytes as i32,
                )
            };
            check("cuFuncSetAttribute", outcome)?;
            function.shared_bytes = launch.shared_bytes;
        }
        functions.insert(launch.kernel, function);
        Ok(function.handle.0)
    }

    fn find(&self, kernel: &'static str) -> Result<sys::CUfunction> {
        let name = CString::new(kernel).expect("kernels' names are identifiers");
        for module in &self.modules {
            // SAFETY: the module is loaded as long as `self` lives.
            if let Ok(function) = unsafe { result::module::get_function(module.0, name.clone()) } {
                return Ok(function);
            }
        }
        Err(Error::Unavailable(format!("kernel {kernel}: this binary has none for {}", self.context.name)))
    }

    fn out_of_memory(&self, requested_bytes: usize) -> Error {
        let (free, total) = result::mem_get_info().unwrap_or_default();
        let limit = format_args!("{} has {total}", self.context.name);
        Error::out_of_memory(requested_bytes, total.saturating_sub(free), limit)
    }

    /// Gives what the pool holds for later tensors back to the driver.
    fn release_freed_memory(&self) -> Result<()> {
        self.synchronize()?;
        // SAFETY: the pool is this device's.
        check("cuMemPoolTrimTo", unsafe { result::mem_pool::trim_to(self.pool.0, 0) })
    }

    /// A library's or launch's failure, after a look at what is behind it. A GPU that faulted says so when it is waited
    /// for. Where memory was short, what the pool holds is given back: whoever tries with less finds it there.
    pub(crate) fn examined(&self, error: Error) -> Error {
        match &error {
            Error::Call { .. } => self.synchronize().err().unwrap_or(error),
            Error::OutOfMemory(_) => match self.release_freed_memory() {
                Err(lost @ Error::Lost(_)) => lost,
                _ => error,
            },
            _ => error,
        }
    }
}

/// An optional library, and a sentence about it: its own, or why it is missing. One that only lacked memory is no
/// missing one.
fn noted<T>(library: Result<T>, note: impl Fn(&T) -> String, notes: &mut Vec<String>) -> Result<Option<T>> {
    match library {
        Err(error) if error.is_of_device() => return Err(error),
        Err(error) => notes.push(format!("{error}; this program's own kernels do its work")),
        Ok(library) => {
            notes.push(note(&library));
            return Ok(Some(library));
        }
    }
    Ok(None)
}

#[expect(unsafe_code, reason = "the driver's API")]
fn load_module(image: &[u8]) -> Result<Handle<sys::CUmodule>> {
    // SAFETY: a whole fatbin, which carries its own length.
    check("cuModuleLoadData", unsafe { result::module::load_data(image.as_ptr().cast()) }).map(Handle)
}

#[expect(unsafe_code, reason = "the driver's API")]
impl Backend for Cuda {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.bind()?;
        // SAFETY: the memory is used on this stream, or on others after waiting for it.
        match unsafe { result::malloc_async(self.stream.0, bytes) } {
            Ok(address) => return Ok(address),
            Err(error) if error.0 != sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                return Err(driver_error("cuMemAllocAsync", error));
            }
            Err(_) => {}
        }
        // The pool may hold enough in pieces that are too small: give them back and ask once more.
        self.release_freed_memory()?;
        // SAFETY: as above.
        unsafe { result::malloc_async(self.stream.0, bytes) }.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => self.out_of_memory(bytes),
            _ => driver_error("cuMemAllocAsync", error),
        })
    }

    fn free(&self, address: u64, _bytes: usize) {
        // A failure here is seen by the next call that can report one.
        if self.bind().is_ok() {
            // SAFETY: `Buffer` frees what it allocated, once.
            let _ = unsafe { result::free_async(address, self.stream.0) };
        }
    }

    fn upload(&self, address: u64, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        // From pageable memory the driver copies into its own before it returns (CUDA driver API, "API
        // synchronization behavior").
        // SAFETY: `Tensor` uploads into its own range of a buffer.
        check("cuMemcpyHtoDAsync", unsafe { result::memcpy_htod_async(address, bytes, self.stream.0) })
    }

    fn download(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: `Tensor` downloads its own range; the wait below ends the borrow of `bytes`.
        check("cuMemcpyDtoHAsync", unsafe { result::memcpy_dtoh_async(bytes, address, self.stream.0) })?;
        self.synchronize()
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: ranges of two tensors of this device.
        check("cuMemcpyDtoDAsync", unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.0) })
    }

    fn fill(&self, address: u64, value: u8, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: a tensor's own range.
        check("cuMemsetD8Async", unsafe { result::memset_d8_async(address, value, bytes, self.stream.0) })
    }

    fn launch(&self, launch: &Launch, args: *const u8, _args_bytes: usize) -> Result<()> {
        self.bind()?;
        let function = self.function(launch)?;
        let mut params = [args.cast_mut().cast::<c_void>()];
        let [grid, block] = [launch.grid, launch.block].map(|[x, y, z]| (x, y, z));
        // SAFETY: the function takes one struct, which the driver copies during the call (`KernelArgs`).
        let outcome = unsafe {
            result::launch_kernel(function, grid, block, launch.shared_bytes, self.stream.0, &mut params)
        };
        outcome.map_err(|error| {
            let message = format!("{}: {}", launch.kernel, name_of(error));
            self.examined(Failure::of_driver(error.0).error("cuLaunchKernel", message))
        })
    }

    fn synchronize(&self) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream lives as long as `self`.
        check("cuStreamSynchronize", unsafe { result::stream::synchronize(self.stream.0) })
    }

    fn memory(&self) -> Result<(usize, usize)> {
        // The driver counts as used what the pool keeps of tensors that are no more, which is for new ones to have.
        self.release_freed_memory()?;
        check("cuMemGetInfo", result::mem_get_info())
    }

    fn name(&self) -> &str {
        &self.context.name
    }

    fn capability(&self) -> Capability {
        self.context.capability
    }
}

#[expect(unsafe_code, reason = "the driver's API")]
impl Drop for Cuda {
    fn drop(&mut self) {
        if self.bind().is_err() {
            return;
        }
        let _ = self.release_freed_memory();
        // While the context still lives.
        self.cublaslt = None;
        self.cudnn = None;
        // SAFETY: nothing uses the stream or the modules after this.
        unsafe {
            for module in &self.modules {
                let _ = result::module::unload(module.0);
            }
            let _ = result::stream::destroy(self.stream.0);
        }
    }
}
