//! Names of devices: what an operator calls something that computes. Whether there is one is not known here.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Something that computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceSpec {
    /// The processor.
    Cpu,
    /// A GPU, by the number that CUDA gives it.
    Cuda(usize),
    /// Two GPUs that make one video together.
    CudaPair([usize; 2]),
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::CudaPair([first, second]) => write!(f, "cuda:{first}+cuda:{second}"),
        }
    }
}

impl FromStr for DeviceSpec {
    type Err = String;

    /// `cpu`, `cuda` for the first GPU, `cuda:N`, or `cuda:N+cuda:M` of two different ones.
    fn from_str(text: &str) -> Result<Self, String> {
        let spec = match text.split_once('+') {
            None if text == "cpu" => Some(Self::Cpu),
            None => gpu_number(text).map(Self::Cuda),
            Some((first, second)) => match (gpu_number(first), gpu_number(second)) {
                (Some(first), Some(second)) if first != second => Some(Self::CudaPair([first, second])),
                _ => None,
            },
        };
        spec.ok_or_else(|| {
            format!("expected cpu, cuda, cuda:NUMBER or cuda:NUMBER+cuda:NUMBER, found {text:?}")
        })
    }
}

/// The GPU of a part of the model, by the number that CUDA gives it; none for the transformer's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PartDevice(pub Option<usize>);

impl TryFrom<String> for PartDevice {
    type Error = String;

    /// Nothing, `cuda` for the first GPU, or `cuda:N`.
    fn try_from(text: String) -> Result<Self, String> {
        match gpu_number(&text) {
            None if !text.is_empty() => Err(format!("expected cuda, cuda:NUMBER or nothing, found {text:?}")),
            number => Ok(Self(number)),
        }
    }
}

impl From<PartDevice> for String {
    fn from(PartDevice(number): PartDevice) -> Self {
        number.map_or_else(Self::new, |number| format!("cuda:{number}"))
    }
}

fn gpu_number(text: &str) -> Option<usize> {
    if text == "cuda" { Some(0) } else { text.strip_prefix("cuda:")?.parse().ok() }
}

impl TryFrom<String> for DeviceSpec {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceSpec> for String {
    fn from(device: DeviceSpec) -> Self {
        device.to_string()
    }
}
