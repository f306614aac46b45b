//! Where a device-specific choice is made: every heavy operation of the model is called through here.
//!
//! On a CPU the operations work on `f32` slices with the arithmetic vectorised at run time for the machine's widest
//! registers, and round to the tensor's dtype exactly where PyTorch's CPU kernels round. Relies on candle for storage
//! only; must not know the model's configuration.

pub(crate) mod attention;
pub(crate) mod conv;
mod conv_kernel;
pub(crate) mod frame;
pub(crate) mod group_norm;
pub(crate) mod linear;
pub(crate) mod norm;
mod rounding;
pub(crate) mod t5;
#[cfg(test)]
mod tests;
pub(crate) mod vector;

use candle_core::{CpuStorage, DType, Device, Result, Storage, Tensor};

/// A tensor's elements as contiguous `f32` (a copy only where the dtype or the layout asks for one).
pub(crate) fn with_f32<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let tensor = tensor.to_dtype(DType::F32)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(CpuStorage::F32(data)) = &*storage else {
        candle_core::bail!("expected a tensor on the cpu, found {:?}", tensor.device());
    };
    let (begin, end) = layout.contiguous_offsets().expect("made contiguous above");
    f(&data[begin..end])
}

/// `f32` results as a tensor of `dtype` on the CPU, rounded to nearest even.
pub(crate) fn from_f32(data: Vec<f32>, shape: &[usize], dtype: DType) -> Result<Tensor> {
    Tensor::from_vec(data, shape, &Device::Cpu)?.to_dtype(dtype)
}

/// `SiLU` of each element, rounded to the tensor's dtype.
pub(crate) fn silu(x: &Tensor) -> Result<Tensor> {
    let out = with_f32(x, |x| Ok(x.iter().map(|&x| vector::silu(x)).collect()))?;
    from_f32(out, x.dims(), x.dtype())
}

/// Whether no element is NaN or infinite.
pub(crate) fn is_finite(x: &Tensor) -> Result<bool> {
    with_f32(x, |x| Ok(x.iter().all(|x| x.is_finite())))
}

/// Rounds `f32` values to what a dtype can hold, between the steps of a fused operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// `f32` stays as it is.
    None,
    /// To IEEE half precision.
    F16,
    /// To bfloat16.
    Bf16,
}

impl Rounding {
    /// Of a tensor's dtype.
    pub(crate) fn of(dtype: DType) -> Result<Self> {
        match dtype {
            DType::F32 => Ok(Self::None),
            DType::F16 => Ok(Self::F16),
            DType::BF16 => Ok(Self::Bf16),
            other => candle_core::bail!("expected f32, f16 or bf16, found {other:?}"),
        }
    }

    /// One value.
    #[expect(
        clippy::inline_always,
        reason = "called in loops that are compiled for registers chosen at run time"
    )]
    #[inline(always)]
    pub(crate) fn round(self, x: f32) -> f32 {
        match self {
            Self::None => x,
            Self::F16 => rounding::to_f16(x),
            Self::Bf16 => rounding::to_bf16(x),
        }
    }

    /// All values in place.
    pub(crate) fn round_all(self, values: &mut [f32]) {
        if self == Self::None {
            return;
        }
        vector::dispatch(
            #[inline(always)]
            || {
                for value in values.iter_mut() {
                    *value = self.round(*value);
                }
            },
        );
    }
}
