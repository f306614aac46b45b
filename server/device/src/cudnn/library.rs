//! cuDNN itself: found at run time, its version checked; and a handle of it on a GPU's stream.
//!
//! Relies on [`super::sys`]; must not know graphs.

use std::ffi::{CStr, OsString, c_char, c_void};
use std::path::Path;
use std::sync::Arc;

use super::sys::{self, Functions, Opaque};
use crate::status::Failure;
use crate::{Error, Result};

/// The name that all of cuDNN 9 has.
const FILE_NAME: &str = "libcudnn.so.9";
/// 9.15.1. Attention over lengths that are no multiple of 128, as a video's are, is faulty before it (PyTorch's
/// `check_prefer_cudnn_attention`, pytorch#169849), and 3-D convolutions in bf16 are from 9.8 to 9.14 (pytorch#163539).
const LEAST_VERSION: usize = 91_501;
/// Longer messages are cut off.
const MESSAGE_BYTES: usize = 4096;

/// cuDNN, loaded into this process. Clones are the same library.
#[derive(Clone, Debug)]
pub struct Library(Arc<Functions>);

impl Library {
    /// Loads cuDNN 9.15.1 or newer from `folder`, or without one from where the dynamic linker looks.
    ///
    /// It is never unloaded: it has threads and static objects of its own.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if it is not there, or older.
    pub fn open(folder: Option<&Path>) -> Result<Self> {
        let path = folder.map_or_else(|| OsString::from(FILE_NAME), |folder| folder.join(FILE_NAME).into());
        let unavailable =
            |message: String| Error::Unavailable(format!("cuDNN ({}): {message}", path.display()));
        let functions = load(&path).map_err(|error| unavailable(loading_error(&error)))?;
        let library = Self(Arc::new(functions));
        let version = library.version();
        if version < LEAST_VERSION {
            let [found, expected] = [version, LEAST_VERSION].map(version_text);
            return Err(unavailable(format!("expected {expected} or newer, found {found}")));
        }
        Ok(library)
    }

    pub(super) fn functions(&self) -> &Functions {
        &self.0
    }

    #[expect(unsafe_code, reason = "cuDNN's API")]
    fn version(&self) -> usize {
        // SAFETY: it takes nothing and only answers.
        unsafe { (self.0.version)() }
    }

    /// Such as 9.28.1.
    pub fn version_text(&self) -> String {
        version_text(self.version())
    }

    /// Turns a status into an error with cuDNN's own words; `subject` is what the call was about. What cuDNN does not
    /// support is [`Error::Unsupported`]; if it finds no room on the GPU, that is [`Error::OutOfMemory`].
    pub(super) fn check(
        &self,
        call: &'static str,
        subject: impl std::fmt::Display,
        status: u32,
    ) -> Result<()> {
        if status == sys::SUCCESS {
            return Ok(());
        }
        let message = format!("{subject}: status {status}: {}", self.last_error());
        Err(Failure::of_cudnn(status).error(call, message))
    }

    /// What went wrong last on this thread.
    #[expect(unsafe_code, reason = "cuDNN's API")]
    fn last_error(&self) -> String {
        let mut message = [0; MESSAGE_BYTES];
        // SAFETY: the array has the size that is told; the call ends the text with a zero.
        unsafe { (self.0.last_error)(message.as_mut_ptr().cast::<c_char>(), MESSAGE_BYTES) };
        let text = CStr::from_bytes_until_nul(&message).unwrap_or_default();
        text.to_string_lossy().trim().replace('\n', "; ")
    }
}

#[expect(unsafe_code, reason = "loading a library runs its code")]
fn load(path: &OsString) -> std::result::Result<Functions, libloading::Error> {
    // SAFETY: cuDNN's initialisers may run in any process; `forget` keeps the promise never to unload it.
    unsafe {
        let library = libloading::Library::new(path)?;
        let functions = Functions::load(&library);
        std::mem::forget(library);
        functions
    }
}

/// With the dynamic linker's own words, which are behind the error.
fn loading_error(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// `major * 10000 + minor * 100 + patch` (`cudnn_version.h`, since 9.0), for people.
fn version_text(version: usize) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

/// cuDNN on one GPU, with all its work on one stream. It moves between threads, and serves one at a time.
#[derive(Debug)]
pub struct Handle {
    library: Library,
    raw: Opaque,
}

#[expect(unsafe_code, reason = "cuDNN's handles are pointers")]
// SAFETY: cuDNN lets any thread use a handle, if none other does at the time; `Handle` is not `Sync`.
unsafe impl Send for Handle {}

impl Handle {
    /// For the GPU whose context is the calling thread's, and this `CUstream` of it.
    ///
    /// # Safety
    /// The stream and the context outlive the handle.
    ///
    /// # Errors
    /// What cuDNN says, such as that it does not know the GPU.
    #[expect(unsafe_code, reason = "cuDNN's API")]
    pub unsafe fn new(library: &Library, stream: *mut c_void) -> Result<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the call.
        library.check("cudnnCreate", "handle", unsafe { (library.0.create)(&raw mut raw) })?;
        let handle = Self { library: library.clone(), raw };
        // SAFETY: the handle was just created; the stream is the caller's promise.
        library.check("cudnnSetStream", "handle", unsafe { (library.0.set_stream)(raw, stream) })?;
        Ok(handle)
    }

    pub(super) fn library(&self) -> &Library {
        &self.library
    }

    pub(super) fn raw(&self) -> Opaque {
        self.raw
    }
}

impl Drop for Handle {
    #[expect(unsafe_code, reason = "cuDNN's API")]
    fn drop(&mut self) {
        // SAFETY: created in `new` and used by nobody after this. A failure has no one left to care.
        let _ = unsafe { (self.library.0.destroy)(self.raw) };
    }
}
