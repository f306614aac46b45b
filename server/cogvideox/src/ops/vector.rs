//! Elementary functions on `f32`, written so that a loop over them vectorises.
//!
//! No branches, no calls, no table look-ups: inside [`dispatch`] the compiler turns a loop over these functions into
//! AVX2 or AVX-512 code chosen at run time. Accurate to about 2 ulp, which is what PyTorch's own vectorised (SLEEF)
//! functions promise. Knows nothing of tensors.

#![expect(
    clippy::inline_always,
    reason = "only inlined code is compiled for the registers that `dispatch` chose"
)]

/// Runs `f` compiled for the widest vector registers that this machine has.
#[inline(always)]
pub(crate) fn dispatch<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// `e^x`. Saturates below -87.3 and above 88.3 instead of reaching 0 and infinity.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves round(x) in the low mantissa bits.
    const MAGIC: f32 = 12_582_912.0;
    // ln 2 in two parts, so that n * LN2_HI is exact (Cephes expf).
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 88.3);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = n.mul_add(-LN2_LO, n.mul_add(-LN2_HI, x));
    // Cephes expf: degree-5 minimax polynomial of (e^r - 1 - r) / r^2 on |r| <= ln(2)/2.
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    y * scale
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// GELU by tanh, as `torch.nn.functional.gelu(approximate="tanh")` and T5's `gelu_new`.
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    // sqrt(2 / pi), doubled because 0.5 * (1 + tanh u) = sigmoid(2 u).
    const TWO_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    let u = TWO_SQRT_2_OVER_PI * (0.044_715 * x * x).mul_add(x, x);
    x / (1.0 + exp(-u))
}

/// Lanes of the running totals below: one AVX-512 register.
const LANES: usize = 16;

/// Folds a slice with [`LANES`] independent totals, which a compiler may not introduce by itself.
#[inline(always)]
fn fold(values: &[f32], start: f32, step: impl Fn(f32, f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut totals = [start; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (total, value) in totals.iter_mut().zip(chunk) {
            *total = step(*total, *value);
        }
    }
    for (total, value) in totals.iter_mut().zip(rest) {
        *total = step(*total, *value);
    }
    totals.into_iter().reduce(join).unwrap_or(start)
}

/// The sum of a slice.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    fold(values, 0.0, |a, x| a + x, |a, b| a + b)
}

/// The sum of `(x - mean)^2`.
#[inline(always)]
pub(crate) fn sum_of_squared_deviations(values: &[f32], mean: f32) -> f32 {
    fold(values, 0.0, |a, x| (x - mean).mul_add(x - mean, a), |a, b| a + b)
}

/// The greatest value; a NaN is passed over.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    // `f32::max` would cost a NaN check per element.
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    fold(values, f32::NEG_INFINITY, greater, greater)
}

/// Replaces each `x` by `e^(x - shift)` and returns the sum of the results.
#[inline(always)]
pub(crate) fn exp_in_place(values: &mut [f32], shift: f32) -> f32 {
    let mut totals = [0.0; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (total, value) in totals.iter_mut().zip(chunk) {
            *value = exp(*value - shift);
            *total += *value;
        }
    }
    for (total, value) in totals.iter_mut().zip(rest) {
        *value = exp(*value - shift);
        *total += *value;
    }
    totals.into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::{exp, gelu_tanh, silu};

    #[test]
    fn functions_follow_their_definitions_to_a_few_ulp() {
        for i in -8600..8800 {
            let x = i as f32 * 0.01;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "exp({x})");
            let (x64, sigmoid) = (f64::from(x), 1.0 / (1.0 + (-f64::from(x)).exp()));
            assert!(
                (f64::from(silu(x)) - x64 * sigmoid).abs() <= 4e-7 * (x64 * sigmoid).abs() + 1e-30,
                "silu({x})"
            );
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x64 + 0.044_715 * x64.powi(3));
            let gelu = 0.5 * x64 * (1.0 + u.tanh());
            assert!((f64::from(gelu_tanh(x)) - gelu).abs() <= 1e-6 * gelu.abs() + 2e-6, "gelu({x})");
        }
    }
}
