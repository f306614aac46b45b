//! cuDNN's graphs for the model's real shapes, planned for GPUs that are only described.
//!
//! The tests with described GPUs need cuDNN, in the folder that `COGVIDEOX_CUDNN_LIB_DIR` names, or where the dynamic linker looks
//! (`server/device/toolkit.sh all` brings it). Without it, and without the variable, the tests say so and end. How plans are executed
//! is tested with a stand-in for cuDNN.

mod attention;
mod convolution;
mod execution;
mod fake;
mod gpus;
mod library;
mod plans;
mod vae;

use std::path::PathBuf;

use device::cudnn::{Engine, Library, Notes, Target, TargetDescription, first_plan};
use device::{Capability, Device, Settings};

use gpus::{GPUS, Gpu};

/// The video memory that a convolution or attention may take besides its tensors.
const WORKSPACE_LIMIT_BYTES: usize = 512 << 20;

/// A device for tensors that are only described.
fn planner() -> Device {
    Device::planner(Capability { major: 9, minor: 0 }, 1 << 40, Settings::default())
}

/// cuDNN, if it is there; it must be where it is said to be.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn cudnn() -> Option<Library> {
    let folder = std::env::var_os("COGVIDEOX_CUDNN_LIB_DIR").map(PathBuf::from);
    match Library::open(folder.as_deref()) {
        Ok(library) => Some(library),
        Err(error) if folder.is_none() => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("COGVIDEOX_CUDNN_LIB_DIR: {error}"),
    }
}

/// Runs a check for each GPU, if cuDNN is there.
fn for_each_gpu(check: impl Fn(&Gpu, &Target<'_>)) {
    let Some(library) = cudnn() else { return };
    for gpu in GPUS {
        let description = TargetDescription::from_json(&library, &gpu.json()).expect(gpu.arch);
        check(gpu, &Target::Described(&description));
    }
}

/// What the first engine is, once it is known to become a plan.
struct Row {
    count: usize,
    number: i64,
    notes: Notes,
    workspace: String,
}

impl Row {
    /// # Panics
    /// If there is no engine or none becomes a plan.
    fn new(engines: Vec<Engine>, target: &Target<'_>, what: &str) -> Self {
        let first = engines.first().unwrap_or_else(|| panic!("{what}: no engine"));
        let (count, number, notes) = (engines.len(), first.number(), first.notes());
        let workspace = match first_plan(engines, target, WORKSPACE_LIMIT_BYTES) {
            Ok(plan) => plan.workspace_bytes().to_string(),
            // A driver's stand-in that loads nothing; the kernel was compiled for it.
            Err(error) if error.to_string().contains("status 5001") => "(not loaded)".to_owned(),
            Err(error) => panic!("{what}: {error}"),
        };
        Self { count, number, notes, workspace }
    }

    #[expect(clippy::print_stdout, reason = "the table that --nocapture shows")]
    fn print(&self, gpu: &Gpu, what: &str) {
        let Self { count, number, notes, workspace } = self;
        println!(
            "{:6} {what:56} {count:3} engines, first {number:3} ({notes}), workspace {workspace}",
            gpu.arch
        );
    }
}
