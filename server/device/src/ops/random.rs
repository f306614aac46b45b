//! Tensors of random numbers drawn on the device, for benchmarks without weights.

use crate::launch::{FloatKernels, Global, Launch, float_kernels, kernel_args};
use crate::{Device, Dtype, Result, Tensor};

const NORMAL: FloatKernels = float_kernels!("random_normal");
const THREADS: u32 = 256;

kernel_args! {
    struct NormalArgs {
        out: Global,
        seed: u64,
        std: f32,
    }
}

/// Independent values of a normal distribution around 0, a function of `seed` and the element's index alone.
///
/// # Errors
/// [`crate::Error::Shape`] for a dtype other than f32, f16 and bf16; [`crate::Error::OutOfMemory`].
pub fn normal(device: &Device, dims: &[usize], dtype: Dtype, std: f32, seed: u64) -> Result<Tensor> {
    let out = Tensor::empty(device, dims, dtype)?;
    let launch = Launch::over(NORMAL.of("normal", dtype)?, out.len(), THREADS);
    device.launch(&launch, &NormalArgs { out: out.global(), seed, std })?;
    Ok(out)
}
