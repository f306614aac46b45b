//! A device of any kind behind one type, and what every kind can do.

use std::fmt;
use std::sync::Arc;

use crate::launch::{KernelArgs, Launch};
use crate::memory::{Account, Usage};
use crate::planner::Planner;
use crate::{Error, Result};

/// A GPU's compute capability, such as 9.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability {
    /// Before the point.
    pub major: u32,
    /// Behind it.
    pub minor: u32,
}

impl Capability {
    /// The first whose tensor cores multiply 8-bit floats.
    pub const ADA: Self = Self { major: 8, minor: 9 };
    /// H100 and H200.
    pub const HOPPER: Self = Self { major: 9, minor: 0 };
}

/// What every kind of device does. Calls may return before the work is done; the order of work is the order of calls.
pub(crate) trait Backend: Send + Sync + fmt::Debug {
    /// Memory of unknown content, 256-byte aligned at least.
    fn allocate(&self, bytes: usize) -> Result<u64>;
    /// Gives memory back, after all work asked for so far.
    fn free(&self, address: u64, bytes: usize);
    /// From the host; `bytes` may be reused when it returns.
    fn upload(&self, address: u64, bytes: &[u8]) -> Result<()>;
    /// To the host, after all work asked for so far.
    fn download(&self, address: u64, bytes: &mut [u8]) -> Result<()>;
    /// Within the device.
    fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()>;
    /// Sets every byte.
    fn fill(&self, address: u64, value: u8, bytes: usize) -> Result<()>;
    /// Runs a kernel.
    fn launch(&self, launch: &Launch, args: *const u8, args_bytes: usize) -> Result<()>;
    /// Waits for all work asked for so far.
    fn synchronize(&self) -> Result<()>;
    /// Free and total bytes of the device's memory.
    fn memory(&self) -> Result<(usize, usize)>;
    /// The product's name.
    fn name(&self) -> &str;
    /// Decides which kernels can run.
    fn capability(&self) -> Capability;
}

/// A device, shared by all tensors on it.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    kind: Kind,
    account: Account,
    own_kernels: bool,
}

enum Kind {
    #[cfg(feature = "cuda")]
    Cuda(Box<crate::cuda::Cuda>),
    #[cfg(feature = "emulator")]
    Emulator(crate::emulator::Emulator),
    Planner(Planner),
}

/// How a device is used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Tensors may hold no more than this.
    pub memory_limit_bytes: Option<usize>,
    /// Where a library has several algorithms, the fastest of some is measured when a shape first comes, and two
    /// processes may choose differently and round differently. By default the library's first proposal is taken, so
    /// that a video that one process began and another resumed has the same bytes.
    pub measured_algorithms: bool,
    /// No library is used: this crate's own kernels do all the work.
    pub own_kernels: bool,
}

impl Device {
    fn new(kind: Kind, settings: Settings) -> Self {
        let Settings { memory_limit_bytes, own_kernels, .. } = settings;
        Self(Arc::new(Inner { kind, account: Account::new(memory_limit_bytes), own_kernels }))
    }

    /// The GPU with this number, in the driver's order.
    ///
    /// # Errors
    /// [`Error::Unavailable`] without a driver, or without such a GPU.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: usize, settings: Settings) -> Result<Self> {
        Ok(Self::new(Kind::Cuda(Box::new(crate::cuda::Cuda::new(ordinal, settings)?)), settings))
    }

    /// A GPU of this capability, emulated; `reverse` runs blocks and threads backwards, which no kernel may notice.
    #[cfg(feature = "emulator")]
    pub fn emulator(capability: Capability, reverse: bool, settings: Settings) -> Self {
        Self::new(Kind::Emulator(crate::emulator::Emulator::new(capability, reverse)), settings)
    }

    /// A device that computes nothing, reads as zeros, and counts memory: `total_bytes` of it.
    pub fn planner(capability: Capability, total_bytes: usize, settings: Settings) -> Self {
        Self::new(Kind::Planner(Planner::new(capability, total_bytes)), settings)
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        match &self.0.kind {
            #[cfg(feature = "cuda")]
            Kind::Cuda(cuda) => cuda.as_ref(),
            #[cfg(feature = "emulator")]
            Kind::Emulator(emulator) => emulator,
            Kind::Planner(planner) => planner,
        }
    }

    /// The GPU behind it, for its libraries.
    #[cfg(feature = "cuda")]
    pub(crate) fn as_cuda(&self) -> Option<&crate::cuda::Cuda> {
        match &self.0.kind {
            Kind::Cuda(cuda) => Some(cuda),
            #[allow(unreachable_patterns, reason = "without the emulator the planner is the only other kind")]
            _ => None,
        }
    }

    /// Whether it only counts memory.
    pub fn is_planner(&self) -> bool {
        matches!(self.0.kind, Kind::Planner(_))
    }

    /// Whether no library may be used.
    pub(crate) fn own_kernels(&self) -> bool {
        self.0.own_kernels
    }

    /// Whether it is an emulated one.
    pub fn is_emulator(&self) -> bool {
        #[cfg(feature = "emulator")]
        return matches!(self.0.kind, Kind::Emulator(_));
        #[cfg(not(feature = "emulator"))]
        false
    }

    /// What was found of the libraries that a GPU's speed depends on, a sentence for each, for an operator to read.
    pub fn library_notes(&self) -> &[String] {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = self.as_cuda() {
            return cuda.library_notes();
        }
        &[]
    }

    pub(crate) fn account(&self) -> &Account {
        &self.0.account
    }

    /// The product's name.
    pub fn name(&self) -> &str {
        self.backend().name()
    }

    /// Decides which kernels can run.
    pub fn capability(&self) -> Capability {
        self.backend().capability()
    }

    /// Free and total bytes of the device's memory; what a limit leaves counts as free.
    ///
    /// # Errors
    /// What the driver says.
    pub fn memory(&self) -> Result<(usize, usize)> {
        let (free, total) = self.backend().memory()?;
        let allowed = self
            .account()
            .limit_bytes()
            .map_or(usize::MAX, |limit| limit.saturating_sub(self.usage().used_bytes));
        Ok((free.min(allowed), total))
    }

    /// Bytes in tensors.
    pub fn usage(&self) -> Usage {
        self.account().usage()
    }

    /// Starts a new measurement of the peak.
    pub fn reset_peak(&self) {
        self.account().reset_peak();
    }

    /// Waits until all work asked for is done.
    ///
    /// # Errors
    /// [`Error::Lost`] if it faulted.
    pub fn synchronize(&self) -> Result<()> {
        self.backend().synchronize()
    }

    /// Runs a kernel with its one struct of arguments.
    pub(crate) fn launch<A: KernelArgs>(&self, launch: &Launch, args: &A) -> Result<()> {
        if launch.is_empty() {
            return Ok(());
        }
        launch.check(self.capability())?;
        self.backend().launch(launch, std::ptr::from_ref(args).cast(), size_of::<A>())
    }

    /// Whether two handles are of one device.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn expect_same(&self, op: &'static str, other: &Self) -> Result<()> {
        if self.same(other) { Ok(()) } else { Err(Error::shape(op, "tensors lie on different devices")) }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.backend())
    }
}
