//! `ops::elementwise` against the formulas in `f64`.

use half::{bf16, f16};

use super::{Case, FLOATS, Numbers, Outcome, half_unit, rounded};
use crate::ops::elementwise::{add_in_place, cast, gelu_tanh, gelu_tanh_in_place, promoting_add, silu};
use crate::{Device, Dtype, Result, Tensor};

/// One element at a time, and eight; each more than a block.
const LENGTHS: [usize; 2] = [301, 2_056];

pub(super) fn add(cases: &mut Vec<Case>) {
    for dtype in FLOATS {
        for length in LENGTHS {
            cases.push(Case::new(format!("silu {dtype} {length}"), move |device| {
                unary(device, dtype, length, silu, |x| x / (1.0 + (-x).exp()))
            }));
            cases.push(Case::new(format!("gelu tanh {dtype} {length}"), move |device| {
                unary(device, dtype, length, gelu_tanh, gelu_tanh_f64)
            }));
            cases.push(Case::new(format!("gelu tanh in place {dtype} {length}"), move |device| {
                let in_place = |x: &Tensor| gelu_tanh_in_place(x).map(|()| x.clone());
                unary(device, dtype, length, in_place, gelu_tanh_f64)
            }));
            for to in FLOATS {
                cases.push(Case::new(format!("cast {dtype} to {to} {length}"), move |device| {
                    casts(device, dtype, to, length)
                }));
            }
        }
        for (batch, rows, size) in [(2, 3, 7), (3, 5, 24), (1, 4, 9)] {
            cases.push(Case::new(format!("add in place {dtype} {batch}x{rows}x{size}"), move |device| {
                added(device, dtype, [batch, rows, size])
            }));
        }
    }
    for (a, b) in [
        (Dtype::F32, Dtype::F16),
        (Dtype::F16, Dtype::F32),
        (Dtype::Bf16, Dtype::F32),
        (Dtype::F16, Dtype::F16),
        (Dtype::Bf16, Dtype::Bf16),
    ] {
        for length in LENGTHS {
            cases.push(Case::new(format!("promoting add {a} {b} {length}"), move |device| {
                promoted(device, a, b, length)
            }));
        }
    }
}

/// GELU by tanh.
pub(super) fn gelu_tanh_f64(x: f64) -> f64 {
    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
    0.5 * x * (1.0 + u.tanh())
}

/// From -8 to 8, where the activations bend and where they are flat.
fn unary(
    device: &Device,
    dtype: Dtype,
    length: usize,
    op: impl Fn(&Tensor) -> Result<Tensor>,
    reference: impl Fn(f64) -> f64,
) -> Result<Outcome> {
    let mut numbers = Numbers::new(length as u64);
    let values: Vec<f32> = (0..length).map(|_| rounded(8.0 * numbers.next(), dtype)).collect();
    let found = op(&Tensor::from_f32(device, &[length], dtype, &values)?)?.to_f32_vec()?;
    let expected: Vec<f64> = values.iter().map(|x| reference(f64::from(*x))).collect();
    Ok(Outcome::relative(&found, &expected, half_unit(dtype) + 4.0 * half_unit(Dtype::F32)))
}

/// Ties, the largest and smallest values of each format, and ordinary ones.
fn casts(device: &Device, from: Dtype, to: Dtype, length: usize) -> Result<Outcome> {
    let mut numbers = Numbers::new(length as u64);
    let mut values = vec![
        0.0,
        1.000_488_3,
        1.001_464_8,
        1.003_906_3,
        1.011_718_8,
        65_504.0,
        65_519.0,
        65_520.0,
        -1e6,
        6e-8,
        3e-8,
        -5.96e-8,
        1e-39,
        3.4e38,
        f32::INFINITY,
        f32::NEG_INFINITY,
    ];
    values.resize_with(length, || 100.0 * numbers.next());
    let values: Vec<f32> = values.iter().map(|x| rounded(*x, from)).collect();
    let found = cast(&Tensor::from_f32(device, &[length], from, &values)?, to)?;
    let expected = Tensor::from_f32(device, &[length], to, &values)?;
    Ok(Outcome::exact(&found.to_bytes()?, &expected.to_bytes()?))
}

/// A sum of two values in f32, rounded once more, is what a half-precision sum rounds to.
fn added(device: &Device, dtype: Dtype, [batch, rows, size]: [usize; 3]) -> Result<Outcome> {
    let mut numbers = Numbers::new(5);
    let (a, b) = (numbers.take(batch * rows * size, dtype), numbers.take(rows * size, dtype));
    let on_device = Tensor::from_f32(device, &[batch, rows, size], dtype, &a)?;
    add_in_place(&on_device, &Tensor::from_f32(device, &[1, rows, size], dtype, &b)?)?;
    let expected: Vec<f32> = a.iter().zip(b.iter().cycle()).map(|(a, b)| rounded(a + b, dtype)).collect();
    Ok(Outcome::exact(&on_device.to_f32_vec()?, &expected))
}

fn promoted(device: &Device, a: Dtype, b: Dtype, length: usize) -> Result<Outcome> {
    let mut numbers = Numbers::new(6);
    let (x, y) = (numbers.take(length, a), numbers.take(length, b));
    let upload = |dtype, values: &[f32]| Tensor::from_f32(device, &[length], dtype, values);
    let found = promoting_add(&upload(a, &x)?, &upload(b, &y)?)?;
    let dtype = if a == b { a } else { Dtype::F32 };
    let expected = x.iter().zip(&y).map(|(x, y)| x + y);
    Ok(match dtype {
        Dtype::F16 => Outcome::exact(&found.to_vec()?, &expected.map(f16::from_f32).collect::<Vec<_>>()),
        Dtype::Bf16 => Outcome::exact(&found.to_vec()?, &expected.map(bf16::from_f32).collect::<Vec<_>>()),
        _ => Outcome::exact(&found.to_vec()?, &expected.collect::<Vec<_>>()),
    })
}
