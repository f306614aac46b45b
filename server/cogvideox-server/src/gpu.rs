//! GPUs as configured, as the device crate opens them and the pipeline is placed on them.
//!
//! The one place that knows whether this program was built for GPUs. Must not know models.

use std::str::FromStr;

#[cfg(not(all(feature = "cuda", feature = "emulator")))]
use anyhow::bail;
use cogvideox::gpu::{Placement, Precision};
use device::{Device, Settings};

use crate::config::{DType, DeviceSpec, PartDevice};

/// Parts that lie on other GPUs than the transformer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PartDevices {
    pub(crate) text_encoder: PartDevice,
    pub(crate) vae: PartDevice,
}

/// A model's parts on GPUs.
pub(crate) struct Opened {
    pub(crate) placement: Placement,
    /// Of the placement's devices, in their order.
    pub(crate) numbers: Vec<usize>,
}

/// A model's parts on the GPUs of a name; none on the processor.
///
/// # Errors
/// A program built without CUDA, a machine without its driver or without that GPU.
pub(crate) fn open(
    device: DeviceSpec,
    parts: PartDevices,
    settings: Settings,
) -> anyhow::Result<Option<Opened>> {
    let transformer = match device {
        DeviceSpec::Cpu => return Ok(None),
        DeviceSpec::Cuda(number) => vec![number],
        DeviceSpec::CudaPair(numbers) => numbers.to_vec(),
    };
    let mut numbers = Vec::new();
    let mut devices = Vec::new();
    let mut gpu = |number| {
        let place = numbers.iter().position(|known| *known == number).unwrap_or(numbers.len());
        if place == numbers.len() {
            devices.push(open_one(number, settings)?);
            numbers.push(number);
        }
        anyhow::Ok(devices[place].clone())
    };
    // Of two the second has half of the guidance.
    let placement = Placement {
        transformer: transformer.iter().map(|number| gpu(*number)).collect::<anyhow::Result<_>>()?,
        text_encoder: gpu(parts.text_encoder.0.unwrap_or(transformer[0]))?,
        vae: gpu(parts.vae.0.unwrap_or(transformer[0]))?,
    };
    Ok(Some(Opened { placement, numbers }))
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

/// Of the weights of the transformer's blocks.
pub(crate) fn precision(dtype: DType) -> Precision {
    match dtype {
        DType::Auto | DType::F32 | DType::F16 | DType::Bf16 => Precision::Dense,
        DType::Fp8 => Precision::Fp8,
        DType::Int8 => Precision::Int8,
        DType::Int8WeightOnly => Precision::Int8WeightOnly,
    }
}
