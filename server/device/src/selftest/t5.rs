//! `ops::t5` against the formulas, with every rounding of transformers' modules.

use super::elementwise::gelu_tanh_f64;
use super::{Case, FLOATS, Numbers, Outcome, half_unit, rounded};
use crate::ops::t5::{clamp_f16_in_place, embedding, gated_gelu, rms_norm};
use crate::{Device, Dtype, Result, Tensor};

const EPS: f32 = 1e-6;
/// Of a vocabulary of 11; some twice, and both ends.
const IDS: [u32; 6] = [10, 0, 3, 3, 10, 1];

pub(super) fn add(cases: &mut Vec<Case>) {
    for dtype in FLOATS {
        for size in [131, 40] {
            cases.push(Case::new(format!("embedding {dtype} {size}"), move |device| {
                embedded(device, dtype, size)
            }));
            cases.push(Case::new(format!("rms norm {dtype} {size}"), move |device| {
                normed(device, dtype, dtype, size)
            }));
            cases.push(Case::new(format!("rms norm f32 to {dtype} {size}"), move |device| {
                normed(device, Dtype::F32, dtype, size)
            }));
        }
        for length in [301, 2_056] {
            cases.push(Case::new(format!("gated gelu {dtype} {length}"), move |device| {
                gated(device, dtype, length)
            }));
        }
    }
    cases.push(Case::new("rms norm f32 longer than a block", |device| {
        normed(device, Dtype::F32, Dtype::F32, 2_064)
    }));
    for overflowed in [false, true] {
        cases.push(Case::new(format!("clamp f16 overflowed {overflowed}"), move |device| {
            clamped(device, overflowed)
        }));
    }
}

fn embedded(device: &Device, dtype: Dtype, size: usize) -> Result<Outcome> {
    let values = Numbers::new(size as u64).take(11 * size, dtype);
    let table = Tensor::from_f32(device, &[11, size], dtype, &values)?;
    let expected: Vec<f32> =
        IDS.iter().flat_map(|id| &values[*id as usize * size..][..size]).copied().collect();
    Ok(Outcome::exact(&embedding(&table, &IDS)?.to_f32_vec()?, &expected))
}

fn normed(device: &Device, from: Dtype, dtype: Dtype, size: usize) -> Result<Outcome> {
    let mut numbers = Numbers::new(2);
    // Of rows of very different sizes, as in the residual stream.
    let x: Vec<f32> = numbers
        .take(3 * size, from)
        .iter()
        .enumerate()
        .map(|(i, x)| rounded(x * [1e-3, 1.0, 1e3][i / size], from))
        .collect();
    let weight = numbers.take(size, dtype);
    let found = rms_norm(
        &Tensor::from_f32(device, &[3, size], from, &x)?,
        &Tensor::from_f32(device, &[size], dtype, &weight)?,
        EPS,
    )?;
    let row = |row: &[f32]| {
        let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / size as f64;
        let deviation = (mean + f64::from(EPS)).sqrt();
        let normed = row.iter().map(move |x| rounded((f64::from(*x) / deviation) as f32, dtype));
        let products = normed.zip(&weight).map(|(x, w)| f64::from(x) * f64::from(*w));
        products.collect::<Vec<_>>()
    };
    let expected: Vec<f64> = x.chunks_exact(size).flat_map(row).collect();
    // The f32 before the first rounding may fall on the other side of a tie: a unit more.
    let bound = 3.0 * half_unit(dtype) + 4.0 * half_unit(Dtype::F32);
    Ok(Outcome::relative(&found.to_f32_vec()?, &expected, bound))
}

fn gelu_new(x: f32, dtype: Dtype) -> f64 {
    if dtype == Dtype::F32 {
        return gelu_tanh_f64(f64::from(x));
    }
    let round = |x: f32| rounded(x, dtype);
    let cube = round(round(x * x) * x);
    let sum = round(x + round(0.044_715 * cube));
    let u = f64::from(round(0.797_884_6 * sum));
    let tanh = round(u.tanh() as f32);
    f64::from(round(round(0.5 * x) * round(1.0 + tanh)))
}

/// Gates from -6 to 6: beyond that GELU is 0 or its argument.
fn gated(device: &Device, dtype: Dtype, length: usize) -> Result<Outcome> {
    let mut numbers = Numbers::new(length as u64);
    let gate: Vec<f32> = (0..length).map(|_| rounded(6.0 * numbers.next(), dtype)).collect();
    let x = numbers.take(length, dtype);
    let upload = |values: &[f32]| Tensor::from_f32(device, &[length], dtype, values);
    let found = gated_gelu(&upload(&gate)?, &upload(&x)?)?.to_f32_vec()?;
    let expected: Vec<f64> = gate.iter().zip(&x).map(|(g, x)| gelu_new(*g, dtype) * f64::from(*x)).collect();
    if dtype == Dtype::F32 {
        return Ok(Outcome::relative(&found, &expected, 4.0 * half_unit(dtype)));
    }
    // Every step rounds as the reference's does, but where tanh, from f32, falls on the other side of a tie.
    let expected: Vec<f32> = expected.iter().map(|x| rounded(*x as f32, dtype)).collect();
    let differing = Outcome::exact(&found, &expected).error;
    Ok(Outcome { error: differing / length as f64, bound: 0.01 })
}

/// Only an infinity makes the guard act, and then on every large element.
fn clamped(device: &Device, overflowed: bool) -> Result<Outcome> {
    let mut values = Numbers::new(1).take(1_000, Dtype::F16);
    (values[3], values[700]) = (65_504.0, -65_504.0);
    if overflowed {
        (values[999], values[500]) = (f32::NEG_INFINITY, f32::INFINITY);
    }
    let x = Tensor::from_f32(device, &[1_000], Dtype::F16, &values)?;
    clamp_f16_in_place(&x)?;
    let bound = if overflowed { 64_512.0 } else { f32::INFINITY };
    let expected: Vec<f32> = values.iter().map(|x| x.clamp(-bound, bound)).collect();
    Ok(Outcome::exact(&x.to_f32_vec()?, &expected))
}
