//! An engine made ready, its execution, and the choice between several.
//!
//! Relies on [`super::engine`]; must not know what is computed.

use std::cell::Cell;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::time::Duration;

use super::builder::ALIGNMENT_BYTES;
use super::descriptor::Descriptor;
use super::library::Handle;
use super::sys::{self, attribute};
use super::{Engine, Operand, Target};
use crate::{Error, Result};

/// What a workspace's address is a multiple of.
const WORKSPACE_ALIGNMENT_BYTES: u64 = 256;

/// An engine that is ready to execute. It moves between threads, and serves one at a time.
#[derive(Debug)]
pub struct Plan {
    descriptor: Descriptor,
    engine: Engine,
    workspace_bytes: usize,
    /// cuDNN does not promise that a plan may be used by two threads at once (PyTorch keeps one for each thread).
    not_sync: PhantomData<Cell<()>>,
}

/// Memory on the device that an execution may overwrite.
#[derive(Clone, Copy, Debug)]
pub struct Workspace {
    /// A multiple of 256.
    pub address: u64,
    /// How much.
    pub bytes: usize,
}

impl Plan {
    pub(super) fn new(descriptor: Descriptor, engine: Engine) -> Result<Self> {
        let workspace_bytes =
            usize::try_from(descriptor.i64(attribute::EXECUTION_PLAN_WORKSPACE_SIZE)?).unwrap_or(0);
        Ok(Self { descriptor, engine, workspace_bytes, not_sync: PhantomData })
    }

    /// What it is a plan of.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// That an execution needs; may be 0.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }

    /// That an execution is given the addresses of.
    pub fn operands(&self) -> &[Operand] {
        &self.engine.graph().0.operands
    }

    /// Enqueues the work on the handle's stream, for operands at these addresses: pairs of an operand's id and its
    /// address, each once.
    ///
    /// # Safety
    /// From each address on, the operand's `span_bytes` are the handle's device's, and so is the workspace, until the
    /// work is done. Nothing else writes there meanwhile. The plan was made for that device, whose context is the
    /// calling thread's.
    ///
    /// # Errors
    /// [`Error::Shape`] for a missing, unknown or unaligned operand, or too small a workspace. [`Error::Call`] if cuDNN
    /// refuses; whether the device is lost, a synchronisation tells.
    #[expect(unsafe_code, reason = "cuDNN's API")]
    pub unsafe fn execute(
        &self,
        handle: &Handle,
        addresses: &[(i64, u64)],
        workspace: Workspace,
    ) -> Result<()> {
        self.check(addresses, workspace)?;
        let constants = &self.engine.graph().0.constants;
        let mut ids: Vec<i64> = addresses.iter().map(|(id, _)| *id).collect();
        let mut pointers: Vec<*mut c_void> =
            addresses.iter().map(|(_, address)| device_pointer(*address)).collect();
        for (id, value) in constants {
            ids.push(*id);
            // On the host: it is read before the execution returns, and never written.
            pointers.push(std::ptr::from_ref(value).cast_mut().cast());
        }
        let mut pack = Descriptor::new(handle.library(), sys::VARIANT_PACK)?;
        pack.set_i64s(attribute::VARIANT_PACK_UNIQUE_IDS, &ids)?;
        pack.set_addresses(attribute::VARIANT_PACK_DATA_POINTERS, &pointers)?;
        pack.set_addresses(attribute::VARIANT_PACK_WORKSPACE, &[device_pointer(workspace.address)])?;
        let pack = pack.finalize()?;
        let execute = handle.library().functions().execute;
        // SAFETY: all three are alive and final; the memory is the caller's promise.
        let status = unsafe { execute(handle.raw(), self.descriptor.raw(), pack.raw()) };
        handle.library().check("cudnnBackendExecute", self.engine.graph_name(), status)
    }

    fn check(&self, addresses: &[(i64, u64)], workspace: Workspace) -> Result<()> {
        let shape = |message: String| Err(Error::shape(self.engine.graph_name(), message));
        for Operand { id, name, .. } in self.operands() {
            let given: Vec<u64> =
                addresses.iter().filter(|(given, _)| given == id).map(|(_, at)| *at).collect();
            match given[..] {
                [address] if address != 0 && address.is_multiple_of(ALIGNMENT_BYTES) => {}
                [address] => {
                    return shape(format!(
                        "{name}: expected a multiple of {ALIGNMENT_BYTES}, found {address:#x}"
                    ));
                }
                _ => return shape(format!("{name}: expected one address, found {}", given.len())),
            }
        }
        if addresses.len() != self.operands().len() {
            return shape(format!("expected {} operands, found {}", self.operands().len(), addresses.len()));
        }
        if workspace.bytes < self.workspace_bytes
            || !workspace.address.is_multiple_of(WORKSPACE_ALIGNMENT_BYTES)
        {
            let (needed, found) = (self.workspace_bytes, workspace.bytes);
            return shape(format!(
                "workspace: expected {needed} bytes at a multiple of {WORKSPACE_ALIGNMENT_BYTES}, found {found} at {:#x}",
                workspace.address
            ));
        }
        Ok(())
    }
}

/// A device's address in the form in which C has it.
fn device_pointer(address: u64) -> *mut c_void {
    std::ptr::without_provenance_mut(address as usize)
}

/// The first engine that can be made ready and needs no more workspace than this.
///
/// # Errors
/// Why the last one failed, if all do. [`Error::OutOfMemory`] and [`Error::Lost`] end the search.
pub fn first_plan(engines: Vec<Engine>, target: &Target<'_>, workspace_limit_bytes: usize) -> Result<Plan> {
    let mut failure = None;
    for engine in engines {
        match ready(engine, target, workspace_limit_bytes) {
            Ok(plan) => return Ok(plan),
            Err(error) if error.is_of_device() => return Err(error),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(no_engine))
}

/// The fastest of the first `candidates` engines that can be made ready and need no more workspace than this; `time`
/// executes a plan and says how long it took. Of equals the one that cuDNN prefers.
///
/// Engines round differently: a caller that promises the same bytes in another process keeps the choice.
///
/// # Errors
/// Why the last one failed, if all do. A plan whose execution cuDNN refuses is passed over; any other error of `time`
/// ends the search.
pub fn fastest_plan(
    engines: Vec<Engine>,
    target: &Target<'_>,
    workspace_limit_bytes: usize,
    candidates: usize,
    mut time: impl FnMut(&Plan) -> Result<Duration>,
) -> Result<Plan> {
    let mut failure = None;
    let mut fastest: Option<(Duration, Plan)> = None;
    let mut timed = 0;
    for engine in engines {
        if timed == candidates {
            break;
        }
        let plan = match ready(engine, target, workspace_limit_bytes) {
            Ok(plan) => plan,
            Err(error) if error.is_of_device() => return Err(error),
            Err(error) => {
                failure = Some(error);
                continue;
            }
        };
        timed += 1;
        match time(&plan) {
            Ok(duration) if fastest.as_ref().is_none_or(|(least, _)| duration < *least) => {
                fastest = Some((duration, plan));
            }
            Ok(_) => {}
            Err(error @ (Error::Call { .. } | Error::Unsupported { .. })) => failure = Some(error),
            Err(error) => return Err(error),
        }
    }
    fastest.map(|(_, plan)| plan).ok_or_else(|| failure.unwrap_or_else(no_engine))
}

fn ready(engine: Engine, target: &Target<'_>, workspace_limit_bytes: usize) -> Result<Plan> {
    let plan = engine.plan(target)?;
    if plan.workspace_bytes > workspace_limit_bytes {
        let needed = plan.workspace_bytes;
        let message = format!(
            "engine {} needs {needed} bytes of workspace, {workspace_limit_bytes} are allowed",
            plan.engine.number()
        );
        return Err(Error::Unsupported { call: "cuDNN", message });
    }
    Ok(plan)
}

fn no_engine() -> Error {
    Error::Unsupported { call: "cuDNN", message: "no engine to choose from".to_owned() }
}
