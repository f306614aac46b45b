//! GPUs as configured, as the device crate opens them and the pipeline is placed on them.
//!
//! The one place that knows whether this program was built for GPUs. Must not know models.

use std::str::FromStr;

use anyhow::bail;
use cogvideox::gpu::{Placement, Precision};
use device::{Device, Settings};

use crate::config::{DType, DeviceSpec};

/// The GPUs of a name; none for the processor.
///
/// # Errors
/// A program built without CUDA, a machine without its driver or without that GPU.
pub(crate) fn open(device: DeviceSpec, settings: Settings) -> anyhow::Result<Vec<Device>> {
    let numbers = match device {
        DeviceSpec::Cpu => Vec::new(),
        DeviceSpec::Cuda(number) => vec![number],
        DeviceSpec::CudaPair(numbers) => numbers.to_vec(),
    };
    numbers.into_iter().map(|number| open_one(number, settings)).collect()
}

#[cfg(feature = "cuda")]
fn open_one(number: usize, settings: Settings) -> anyhow::Result<Device> {
    Ok(Device::cuda(number, settings)?)
}

#[cfg(not(feature = "cuda"))]
fn open_one(number: usize, _settings: Settings) -> anyhow::Result<Device> {
    bail!("device cuda:{number}: this binary was built without CUDA (cargo build --release --features cuda)")
}

/// What `selftest` and `bench` run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// A GPU, by the number that CUDA gives it.
    Cuda(usize),
    /// The kernels on the processor, every access checked.
    Emulator,
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("emulator", _) => Ok(Self::Emulator),
            (_, Ok(DeviceSpec::Cuda(number))) => Ok(Self::Cuda(number)),
            _ => Err(format!("expected cuda, cuda:NUMBER or emulator, found {text:?}")),
        }
    }
}

/// # Errors
/// As [`open`]; a program built without the emulator.
pub(crate) fn open_named(name: DeviceName, settings: Settings) -> anyhow::Result<Device> {
    match name {
        DeviceName::Cuda(number) => open_one(number, settings),
        DeviceName::Emulator => open_emulator(settings),
    }
}

#[cfg(feature = "emulator")]
#[expect(clippy::unnecessary_wraps, reason = "the program without the emulator refuses")]
fn open_emulator(settings: Settings) -> anyhow::Result<Device> {
    Ok(Device::emulator(device::Capability { major: 9, minor: 0 }, false, settings))
}

#[cfg(not(feature = "emulator"))]
fn open_emulator(_settings: Settings) -> anyhow::Result<Device> {
    bail!("device emulator: this binary was built without it (cargo build --release --features emulator)")
}

/// All parts on one GPU; of two, the second has half of the guidance.
///
/// # Errors
/// No GPU, or more than two.
pub(crate) fn placement(gpus: &[Device]) -> anyhow::Result<Placement> {
    match gpus {
        [first] | [first, _] => {
            Ok(Placement { transformer: gpus.to_vec(), ..Placement::single(first.clone()) })
        }
        _ => bail!("device: expected one GPU or two for a video, found {}", gpus.len()),
    }
}

/// Of the weights of the transformer's blocks.
pub(crate) fn precision(dtype: DType) -> Precision {
    match dtype {
        DType::Auto | DType::F32 | DType::F16 | DType::Bf16 => Precision::Dense,
        DType::Fp8 => Precision::Fp8,
        DType::Int8 => Precision::Int8,
        DType::Int8WeightOnly => Precision::Int8WeightOnly,
    }
}
