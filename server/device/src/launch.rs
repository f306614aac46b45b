//! How a kernel is started: by name, with a grid of blocks and one plain struct of arguments.

use crate::{Capability, Dtype, Error, Result};

/// The arguments of a kernel, the twin of its struct in C++.
///
/// # Safety
/// The type must be `#[repr(C)]` with the fields of the kernel's `Args` in the same order, and every address in it
/// must be of a tensor that lives until the launch.
#[expect(unsafe_code, reason = "the compiler cannot compare it with the struct in C++")]
pub(crate) unsafe trait KernelArgs: Copy {}

/// A tensor's memory as a kernel sees it; `Global<T>` in C++.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Global {
    pub(crate) address: u64,
    /// Elements.
    pub(crate) len: u64,
}

impl Global {
    /// No tensor: `present()` is false in the kernel.
    pub(crate) const ABSENT: Self = Self { address: 0, len: 0 };
}

/// One start of a kernel.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// As in `KERNEL(name, ..)`.
    pub(crate) kernel: &'static str,
    /// Blocks; at most 65,535 in y and z.
    pub(crate) grid: [u32; 3],
    /// Threads of a block.
    pub(crate) block: [u32; 3],
    /// Dynamic shared memory of a block.
    pub(crate) shared_bytes: u32,
}

impl Launch {
    /// `blocks` of `threads`.
    pub(crate) fn new(kernel: &'static str, blocks: usize, threads: u32) -> Self {
        Self { kernel, grid: [blocks as u32, 1, 1], block: [threads, 1, 1], shared_bytes: 0 }
    }

    /// At least one thread for each of `items`.
    pub(crate) fn over(kernel: &'static str, items: usize, threads: u32) -> Self {
        Self::new(kernel, items.div_ceil(threads as usize), threads)
    }

    pub(crate) fn shared(self, bytes: usize) -> Self {
        Self { shared_bytes: bytes as u32, ..self }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.grid.contains(&0)
    }

    /// # Errors
    /// [`Error::Kernel`] if a device of this capability cannot run it.
    pub(crate) fn check(&self, capability: Capability) -> Result<()> {
        let threads = self.block.iter().product::<u32>();
        let [_, y, z] = self.grid;
        let limits = [
            ("threads of a block", threads, MAX_THREADS),
            ("blocks in y", y, MAX_BLOCKS_YZ),
            ("blocks in z", z, MAX_BLOCKS_YZ),
            ("bytes of shared memory", self.shared_bytes, max_shared_bytes(capability)),
        ];
        match limits.into_iter().find(|(_, found, most)| found > most) {
            Some((what, found, most)) => {
                Err(Error::Kernel(format!("{}: at most {most} {what}, found {found}", self.kernel)))
            }
            None => Ok(()),
        }
    }
}

/// CUDA's, for every capability (CUDA C++ Programming Guide, "Compute capabilities").
const MAX_THREADS: u32 = 1024;
const MAX_BLOCKS_YZ: u32 = 65_535;

/// What a block may ask for (the same table): 227 KiB on 9.0 and 10.x, 163 on 8.0 and 8.7, 99 on the others.
fn max_shared_bytes(capability: Capability) -> u32 {
    let kib = match (capability.major, capability.minor) {
        (9 | 10, _) => 227,
        (8, 0 | 7) => 163,
        _ => 99,
    };
    kib << 10
}

/// The names of one kernel for each floating-point dtype.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FloatKernels {
    pub(crate) f32: &'static str,
    pub(crate) f16: &'static str,
    pub(crate) bf16: &'static str,
}

impl FloatKernels {
    /// For a tensor's dtype.
    pub(crate) fn of(&self, op: &'static str, dtype: Dtype) -> Result<&'static str> {
        match dtype {
            Dtype::F32 => Ok(self.f32),
            Dtype::F16 => Ok(self.f16),
            Dtype::Bf16 => Ok(self.bf16),
            other => Err(Error::shape(op, format!("expected f32, f16 or bf16, found {other}"))),
        }
    }
}

/// The names that `KERNEL_FOR_FLOATS(name, ..)` makes.
macro_rules! float_kernels {
    ($name:literal) => {
        $crate::launch::FloatKernels {
            f32: concat!($name, "_f32"),
            f16: concat!($name, "_f16"),
            bf16: concat!($name, "_bf16"),
        }
    };
}
pub(crate) use float_kernels;

/// Declares structs of arguments: `#[repr(C)]`, with their promise.
macro_rules! kernel_args {
    ($($(#[$doc:meta])* struct $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        struct $name { $($(#[$field_doc])* $field: $type,)* }
        #[expect(unsafe_code, reason = "the promise of KernelArgs")]
        // SAFETY: `repr(C)`, field by field the struct of the same name in the .cu file; the emulator compares sizes.
        unsafe impl $crate::launch::KernelArgs for $name {}
    )*};
}
pub(crate) use kernel_args;
