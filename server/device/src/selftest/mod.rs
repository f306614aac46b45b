//! Every kernel against a plain reference in `f64`, on any device: CI runs it on the emulator, an operator on a GPU.
//!
//! A case draws its own inputs, runs an operation, and compares. Sizes are small and odd, but for those of
//! [`sampled_cases`]. Bounds follow from the formats: what is rounded once may be off by half a unit of its dtype.

mod attention;
mod conv;
mod elementwise;
mod epilogue;
mod group_norm;
mod layout;
mod linear;
mod low_rank;
mod norm;
mod patch;
mod qk_norm_rope;
mod quantize;
mod random;
mod sampled;
mod t5;
mod video;

pub use self::sampled::{Sizes, sampled_cases};
use crate::{Device, Result};

type Run = dyn Fn(&Device) -> Result<Outcome>;

/// One comparison of an operation with its reference.
pub struct Case {
    /// Operation, dtype and size.
    pub name: String,
    run: Box<Run>,
}

/// What a comparison found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The largest error found, in the unit of `bound`.
    pub error: f64,
    /// What it may be at most.
    pub bound: f64,
}

impl Outcome {
    /// Whether the operation is right.
    pub fn passed(&self) -> bool {
        // Not a number is not right.
        self.error <= self.bound
    }

    /// The largest difference of two sequences relative to the largest magnitude in `expected`; infinite if the
    /// lengths differ or anything is not finite.
    pub(crate) fn relative(found: &[f32], expected: &[f64], bound: f64) -> Self {
        let scale = expected.iter().fold(f64::MIN_POSITIVE, |scale, x| scale.max(x.abs()));
        let differences = found.iter().zip(expected).map(|(found, expected)| {
            let difference = (f64::from(*found) - expected).abs() / scale;
            if difference.is_finite() { difference } else { f64::INFINITY }
        });
        let error =
            if found.len() == expected.len() { differences.fold(0.0, f64::max) } else { f64::INFINITY };
        Self { error, bound }
    }

    /// For results rounded as `expected` is: as [`Self::relative`], and in half precision all but one in fifty equal.
    ///
    /// A sum in another order moves a rounding now and then; a rounding left out or put in moves many.
    pub(crate) fn same_roundings(found: &[f32], expected: &[f32], dtype: crate::Dtype, bound: f64) -> Self {
        let differing = Self::exact(found, expected).error;
        if dtype != crate::Dtype::F32 && differing * 50.0 > expected.len() as f64 {
            return Self { error: f64::INFINITY, bound };
        }
        let expected: Vec<f64> = expected.iter().map(|x| f64::from(*x)).collect();
        Self::relative(found, &expected, bound)
    }

    /// The number of elements that differ; none may.
    pub(crate) fn exact<T: PartialEq>(found: &[T], expected: &[T]) -> Self {
        let differing = found.iter().zip(expected).filter(|(found, expected)| found != expected).count();
        let missing = found.len().abs_diff(expected.len());
        Self { error: (differing + missing) as f64, bound: 0.0 }
    }
}

impl Case {
    pub(crate) fn new(name: impl Into<String>, run: impl Fn(&Device) -> Result<Outcome> + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }

    /// Runs it.
    ///
    /// # Errors
    /// What the device says.
    pub fn run(&self, device: &Device) -> Result<Outcome> {
        (self.run)(device)
    }
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    attention::add(&mut cases);
    qk_norm_rope::add(&mut cases);
    elementwise::add(&mut cases);
    epilogue::add(&mut cases);
    linear::add(&mut cases);
    low_rank::add(&mut cases);
    norm::add(&mut cases);
    patch::add(&mut cases);
    quantize::add(&mut cases);
    random::add(&mut cases);
    t5::add(&mut cases);
    conv::add(&mut cases);
    group_norm::add(&mut cases);
    layout::add(&mut cases);
    video::add(&mut cases);
    cases
}

/// The emulator's kernels but those that are wrong on purpose, and how often each has run in this process.
#[cfg(feature = "emulator")]
pub fn emulated_kernels() -> Vec<(String, u64)> {
    crate::emulator::kernels().into_iter().filter(|(name, _)| !name.starts_with("fault_")).collect()
}

/// Runs a kernel that is wrong on purpose over 64 ones, and gives what comes out if the emulator lets it pass.
///
/// # Errors
/// The fault that it found.
#[cfg(feature = "emulator")]
pub fn emulated_fault(device: &Device, kernel: &'static str) -> Result<Vec<f32>> {
    use crate::launch::{Global, Launch, kernel_args};

    kernel_args! {
        struct FaultArgs {
            x: Global,
        }
    }
    let x = crate::Tensor::from_slice(device, &[64], &[1f32; 64])?;
    device.launch(&Launch::new(kernel, 1, 64).shared(1024), &FaultArgs { x: x.global() })?;
    x.to_vec()
}

/// Half a unit in the last place of a dtype, relative to the largest value.
pub(crate) fn half_unit(dtype: crate::Dtype) -> f64 {
    match dtype {
        crate::Dtype::F16 => 2f64.powi(-11),
        crate::Dtype::Bf16 => 2f64.powi(-8),
        crate::Dtype::F8E4M3 => 2f64.powi(-4),
        _ => 2f64.powi(-24),
    }
}

/// The dtypes that most operations run in.
pub(crate) const FLOATS: [crate::Dtype; 3] = [crate::Dtype::F32, crate::Dtype::F16, crate::Dtype::Bf16];

/// The sum of products.
pub(crate) fn dot<T: Copy + Into<f64>>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (*a).into() * (*b).into()).sum()
}

/// Reproducible values in -1 to 1, for inputs.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> f32 {
        // xorshift64 (Marsaglia 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / 8_388_608.0 - 1.0
    }

    /// `n` values, each already rounded to `dtype`, so that a reference starts from what the device has.
    pub(crate) fn take(&mut self, n: usize, dtype: crate::Dtype) -> Vec<f32> {
        (0..n).map(|_| rounded(self.next(), dtype)).collect()
    }
}

/// To nearest even in f16 or bf16; itself in f32.
pub(crate) fn rounded(x: f32, dtype: crate::Dtype) -> f32 {
    match dtype {
        crate::Dtype::F16 => half::f16::from_f32(x).to_f32(),
        crate::Dtype::Bf16 => half::bf16::from_f32(x).to_f32(),
        _ => x,
    }
}
