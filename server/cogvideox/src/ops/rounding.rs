//! Rounding of `f32` to the half types and back, written so that a loop over it vectorises.
//!
//! The `half` crate's conversions are the same, but branch, and ask for the machine's features, for every value.

#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined is not compiled for the registers chosen at run time"
)]

/// To the nearest bfloat16, ties to even.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    if x.is_nan() { x } else { f32::from_bits(rounded) }
}

/// To the nearest IEEE half, ties to even; infinite from 65520 on.
#[inline(always)]
pub(crate) fn to_f16(x: f32) -> f32 {
    let bits = x.to_bits();
    let normal = f32::from_bits(bits.wrapping_add(0x0fff + (bits >> 13 & 1)) & 0xffff_e000);
    // Below 2^-14 halves are multiples of 2^-24, as `f32` values next to 0.5 are.
    let subnormal = ((x.abs() + 0.5) - 0.5).copysign(x);
    let finite = if x.abs() < 6.103_515_6e-5 { subnormal } else { normal };
    let bounded = if finite.abs() > 65504.0 { f32::INFINITY.copysign(x) } else { finite };
    if x.is_nan() { x } else { bounded }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::{to_bf16, to_f16};

    #[test]
    fn rounding_is_that_of_the_half_types() {
        // Every 997th bit pattern, both signs, subnormals, infinities and NaNs among them.
        for bits in (0..=u32::MAX).step_by(997).chain([
            0x7f80_0000,
            0xff80_0000,
            0x7fff_ffff,
            0x477f_efff,
            0x477f_f000,
        ]) {
            let x = f32::from_bits(bits);
            let (as_bf16, as_f16) = (bf16::from_f32(x).to_f32(), f16::from_f32(x).to_f32());
            assert!(
                x.is_nan() && to_bf16(x).is_nan() || to_bf16(x).to_bits() == as_bf16.to_bits(),
                "bf16 of {x:e}"
            );
            assert!(
                x.is_nan() && to_f16(x).is_nan() || to_f16(x).to_bits() == as_f16.to_bits(),
                "f16 of {x:e}"
            );
        }
    }
}
