//! The kernels on the CPU: the same source, compiled as C++, with every access checked (`kernels/emulator`).
//!
//! Memory is the host's, filled with bytes that are not a number in any format, so that what is read before it was
//! written shows.

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::{CStr, CString, c_char};
use std::slice;

use crate::device::{Backend, Capability};
use crate::launch::Launch;
use crate::{Error, Result};

#[repr(C)]
struct EmulatorLaunch {
    name: *const c_char,
    args: *const u8,
    args_bytes: u32,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    reverse: u32,
}

#[expect(unsafe_code, reason = "the emulator is C++")]
unsafe extern "C" {
    fn emulator_launch(launch: *const EmulatorLaunch, message: *mut c_char, message_bytes: u32) -> i32;
    fn emulator_kernel(index: u32, launches: *mut u64) -> *const c_char;
}

/// The names of all kernels, and how often each has run in this process.
pub(crate) fn kernels() -> Vec<(String, u64)> {
    let mut all = Vec::new();
    loop {
        let mut launches = 0;
        #[expect(unsafe_code, reason = "a call into C++")]
        // SAFETY: the pointer is valid for the call.
        let name = unsafe { emulator_kernel(all.len() as u32, &raw mut launches) };
        if name.is_null() {
            return all;
        }
        #[expect(unsafe_code, reason = "a string of C++")]
        // SAFETY: not null, and the registry keeps its names for ever.
        let name = unsafe { CStr::from_ptr(name) };
        all.push((name.to_string_lossy().into_owned(), launches));
    }
}

/// An emulated GPU.
#[derive(Debug)]
pub(crate) struct Emulator {
    capability: Capability,
    reverse: bool,
}

/// As a GPU aligns.
const ALIGNMENT_BYTES: usize = 512;
/// Memory of a machine that could run this: 24 GiB.
const TOTAL_BYTES: usize = 24 << 30;
const UNWRITTEN: u8 = 0xff;

impl Emulator {
    pub(crate) fn new(capability: Capability, reverse: bool) -> Self {
        Self { capability, reverse }
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, ALIGNMENT_BYTES).expect("a size that the account has admitted")
}

#[expect(unsafe_code, reason = "addresses of the emulated device are the host's")]
impl Backend for Emulator {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        // SAFETY: the account never asks for 0 bytes.
        let pointer = unsafe { alloc(layout(bytes)) };
        if pointer.is_null() {
            return Err(Error::out_of_memory(bytes, 0, "the host gives no more"));
        }
        // SAFETY: just allocated with this size.
        unsafe { pointer.write_bytes(UNWRITTEN, bytes) };
        Ok(pointer as u64)
    }

    fn free(&self, address: u64, bytes: usize) {
        // SAFETY: `Buffer` frees what it allocated, once, with the same size.
        unsafe { dealloc(address as *mut u8, layout(bytes)) };
    }

    fn upload(&self, address: u64, bytes: &[u8]) -> Result<()> {
        // SAFETY: `Tensor` uploads into its own range of a buffer.
        unsafe { slice::from_raw_parts_mut(address as *mut u8, bytes.len()) }.copy_from_slice(bytes);
        Ok(())
    }

    fn download(&self, address: u64, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: `Tensor` downloads its own range of a buffer.
        bytes.copy_from_slice(unsafe { slice::from_raw_parts(address as *const u8, bytes.len()) });
        Ok(())
    }

    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        // SAFETY: ranges of two tensors; `copy` allows them to overlap.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    fn fill(&self, address: u64, value: u8, bytes: usize) -> Result<()> {
        // SAFETY: a tensor's own range.
        unsafe { (address as *mut u8).write_bytes(value, bytes) };
        Ok(())
    }

    fn launch(&self, launch: &Launch, args: *const u8, args_bytes: usize) -> Result<()> {
        let name = CString::new(launch.kernel).expect("kernels' names are identifiers");
        let request = EmulatorLaunch {
            name: name.as_ptr(),
            args,
            args_bytes: args_bytes as u32,
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            reverse: u32::from(self.reverse),
        };
        let mut message = [0u8; 512];
        // SAFETY: the pointers outlive the call; kernels check each access against the lengths in the arguments.
        let failed =
            unsafe { emulator_launch(&raw const request, message.as_mut_ptr().cast(), message.len() as u32) };
        if failed == 0 {
            return Ok(());
        }
        let message = CStr::from_bytes_until_nul(&message).unwrap_or_default();
        Err(Error::Kernel(message.to_string_lossy().into_owned()))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn memory(&self) -> Result<(usize, usize)> {
        Ok((TOTAL_BYTES, TOTAL_BYTES))
    }

    fn name(&self) -> &'static str {
        "emulator"
    }

    fn capability(&self) -> Capability {
        self.capability
    }
}
