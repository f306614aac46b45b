//! `ops::quantize`: scales and bytes against their definition, and the way there and back.

use super::{Case, FLOATS, Numbers, Outcome, half_unit, rounded};
use crate::ops::quantize::{dequantize_weight, rows_to_8bit};
use crate::{Device, Dtype, Result, Tensor};

const ROWS: usize = 4;
/// One element at a time, eight, and a row longer than a block's threads.
const SIZES: [usize; 3] = [131, 40, 2_064];

pub(super) fn add(cases: &mut Vec<Case>) {
    for dtype in FLOATS {
        for size in SIZES {
            for format in [Dtype::I8, Dtype::F8E4M3] {
                cases.push(Case::new(format!("rows {dtype} to {format} {size}"), move |device| {
                    quantized(device, dtype, format, size)
                }));
                cases.push(Case::new(format!("weight {format} to {dtype} {size}"), move |device| {
                    dequantized(device, dtype, format, size)
                }));
            }
        }
    }
    for format in [Dtype::I8, Dtype::F8E4M3] {
        cases.push(Case::new(format!("rows to {format} that are not finite"), move |device| {
            let mut values = Numbers::new(1).take(3 * 40, Dtype::F32);
            (values[7], values[47]) = (f32::NAN, f32::NEG_INFINITY);
            let (_, scales) = rows_to_8bit(&Tensor::from_slice(device, &[3, 40], &values)?, format)?;
            let finite: Vec<bool> = scales.to_vec::<f32>()?.iter().map(|scale| scale.is_finite()).collect();
            Ok(Outcome::exact(&finite, &[false, false, true]))
        }));
    }
}

/// Rows of very different sizes; the second is all zeros.
fn values(dtype: Dtype, size: usize) -> Vec<f32> {
    let row_sizes = [1.0, 0.0, 100.0, 0.01];
    let values = Numbers::new(size as u64).take(ROWS * size, dtype);
    values.iter().enumerate().map(|(i, x)| rounded(x * row_sizes[i / size], dtype)).collect()
}

fn scale(row: &[f32], format: Dtype) -> f32 {
    let largest = if format == Dtype::I8 { 127.0 } else { 448.0 };
    row.iter().fold(0.0, |scale: f32, x| scale.max(x.abs())) / largest
}

/// To the nearest value of a format, the even one of two.
fn nearest(x: f32, format: Dtype) -> f32 {
    if format == Dtype::I8 {
        return x.round_ties_even();
    }
    // Three bits behind the first one, which is worth 2^-6 at least.
    let unit = 2f32.powi((x.abs().log2().floor() as i32).max(-6) - 3);
    (x / unit).round_ties_even() * unit
}

fn read(tensor: &Tensor) -> Result<Vec<f32>> {
    if tensor.dtype() == Dtype::I8 {
        return Ok(tensor.to_vec::<i8>()?.iter().map(|x| f32::from(*x)).collect());
    }
    let value = |byte: &u8| {
        let (exponent, fraction) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
        let magnitude =
            if exponent == 0 { fraction } else { (fraction + 8.0) * 2f32.powi(exponent - 1) } / 512.0;
        if byte & 128 == 0 { magnitude } else { -magnitude }
    };
    Ok(tensor.to_bytes()?.iter().map(value).collect())
}

fn quantized(device: &Device, dtype: Dtype, format: Dtype, size: usize) -> Result<Outcome> {
    let values = values(dtype, size);
    let (found, scales) = rows_to_8bit(&Tensor::from_f32(device, &[ROWS, size], dtype, &values)?, format)?;
    let expected_scales: Vec<f32> = values.chunks_exact(size).map(|row| scale(row, format)).collect();
    let one = |(i, x): (usize, &f32)| match expected_scales[i / size] {
        0.0 => 0.0,
        scale => nearest(x / scale, format),
    };
    let expected: Vec<f32> = values.iter().enumerate().map(one).collect();
    let scales = Outcome::exact(&scales.to_vec::<f32>()?, &expected_scales);
    Ok(Outcome { error: Outcome::exact(&read(&found)?, &expected).error + scales.error, bound: 0.0 })
}

/// Every byte times its row's scale, rounded once; and near what it was made of.
fn dequantized(device: &Device, dtype: Dtype, format: Dtype, size: usize) -> Result<Outcome> {
    let values = values(Dtype::F32, size);
    let (weight, scales) = rows_to_8bit(&Tensor::from_slice(device, &[ROWS, size], &values)?, format)?;
    let found = dequantize_weight(&weight, &scales, dtype)?.to_f32_vec()?;
    let scales = scales.to_vec::<f32>()?;
    let products = read(&weight)?.into_iter().enumerate().map(|(i, x)| rounded(x * scales[i / size], dtype));
    let exact = Outcome::exact(&found, &products.collect::<Vec<_>>());
    let original: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
    let step = if format == Dtype::I8 { 0.5 / 127.0 } else { half_unit(format) };
    let near = Outcome::relative(&found, &original, step + half_unit(dtype));
    Ok(Outcome { error: exact.error.max(if near.passed() { 0.0 } else { near.error }), bound: 0.0 })
}
