//! Tensors between the host, where candle holds them, and a device.

use candle_core::{DType, Device as HostDevice, Tensor as HostTensor};
use device::{Device, Dtype, Tensor};
use safetensors::tensor::View;

use super::source::dtype_of;
use crate::{Error, Result};

/// A floating-point tensor of the host on a device.
pub(super) fn to_device(tensor: &HostTensor, device: &Device) -> Result<Tensor> {
    let dtype = dtype_of(tensor.dtype())?;
    let tensor = &tensor.contiguous()?;
    Ok(Tensor::from_bytes(device, tensor.dims(), dtype, &View::data(&tensor))?)
}

/// A floating-point tensor of a device on the host; waits for it.
pub(super) fn to_host(tensor: &Tensor) -> Result<HostTensor> {
    let dtype = match tensor.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::Bf16 => DType::BF16,
        other => {
            return Err(Error::UnsupportedDtype(format!("expected f32, f16 or bf16, found {other}")));
        }
    };
    Ok(HostTensor::from_raw_buffer(&tensor.to_bytes()?, dtype, tensor.dims(), &HostDevice::Cpu)?)
}
