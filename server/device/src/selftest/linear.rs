//! `ops::linear`: every kind of weight, every dtype, on sizes for the plain kernels and for the tensor cores'.

use super::elementwise::gelu_tanh_f64;
use super::{Case, FLOATS, Numbers, Outcome, dot, half_unit, rounded};
use crate::ops::linear::{Activation, EightBit, Linear, Weight};
use crate::ops::quantize;
use crate::{Device, Dtype, Result, Tensor};

/// Rows, outputs and inputs. The first two are odd, in one tile and in several; the others have rows of whole chunks,
/// with several tiles to the right, and with several down and more of k than is copied ahead. The last is one that
/// NVIDIA's library takes in 8 bits, and whose rows are enough for it to have weights widened.
const SIZES: [[usize; 3]; 6] =
    [[1, 7, 5], [67, 66, 21], [70, 24, 48], [33, 130, 80], [130, 19, 208], [272, 144, 208]];

pub(super) fn add(cases: &mut Vec<Case>) {
    for dtype in FLOATS {
        for size in SIZES {
            for kind in [None, Some(EightBit::Int8WeightOnly), Some(EightBit::Int8), Some(EightBit::Fp8)] {
                let case = Product { dtype, size, kind };
                let name = |what| format!("linear {dtype} {kind:?} {size:?} {what}");
                cases.push(Case::new(name("with bias"), move |device| {
                    case.compare(device, Activation::Identity, true)
                }));
                cases.push(Case::new(name("GELU"), move |device| {
                    case.compare(device, Activation::GeluTanh, size[0] > 1)
                }));
            }
        }
        cases.push(Case::new(format!("linear {dtype} concat"), move |device| concat(device, dtype)));
    }
    cases.push(Case::new("linear f32 GELU is tanh's", gelu_is_by_tanh));
}

#[derive(Clone, Copy)]
struct Product {
    dtype: Dtype,
    size: [usize; 3],
    kind: Option<EightBit>,
}

impl Product {
    fn compare(self, device: &Device, activation: Activation, biased: bool) -> Result<Outcome> {
        let Self { dtype, size: [m, n, k], kind } = self;
        let mut numbers = Numbers::new((m * n + k) as u64);
        let (x, weight) = (numbers.take(m * k, dtype), numbers.take(n * k, dtype));
        let bias = numbers.take(n, dtype);
        let tensor = |dims: &[usize], values| Tensor::from_f32(device, dims, dtype, values);
        let bias_tensor = if biased { Some(tensor(&[n], &bias)?) } else { None };
        let mut layer = Linear::new(Weight::Dense(tensor(&[n, k], &weight)?), bias_tensor)?;
        if let Some(kind) = kind {
            layer = layer.to_8bit(kind)?;
        }
        let x_tensor = tensor(&[m, k], &x)?;
        // Written behind a row of another tensor, as attention's parts are.
        let all = Tensor::zeros(device, &[m + 8, n], dtype)?;
        let out = all.slice(8, m)?;
        layer.forward_into(&x_tensor, activation, &out)?;
        let weight = seen(&weight, k, &layer)?;
        let x = match kind {
            Some(EightBit::Int8 | EightBit::Fp8) => read_back(&x_tensor, kind)?,
            _ => x.iter().map(|x| f64::from(*x)).collect(),
        };
        let expected: Vec<f64> = (0..m * n)
            .map(|i| {
                let sum = dot(&x[i / n * k..][..k], &weight[i % n * k..][..k]);
                let sum = if biased { sum + f64::from(bias[i % n]) } else { sum };
                activated(sum, activation, dtype)
            })
            .collect();
        let bound = product_bound(dtype, k, kind);
        let found = Outcome::relative(&out.to_f32_vec()?, &expected, bound);
        let touched = all.slice(0, 8)?.to_f32_vec()?.iter().any(|x| *x != 0.0);
        Ok(if touched { Outcome { error: f64::INFINITY, bound } } else { found })
    }
}

/// What an activation, which reads rounded sums, makes of a sum.
pub(super) fn activated(sum: f64, activation: Activation, dtype: Dtype) -> f64 {
    match activation {
        Activation::Identity => sum,
        Activation::GeluTanh => gelu_tanh_f64(f64::from(rounded(sum as f32, dtype))),
    }
}

/// Of products of `k` factors: a sum in f32, and GELU's slope of up to 1.13 widens the first of the two roundings.
/// Hopper's tensor cores keep 14 bits or so of a sum of 8-bit floats.
pub(super) fn product_bound(dtype: Dtype, k: usize, kind: Option<EightBit>) -> f64 {
    let hardware = if kind == Some(EightBit::Fp8) { 2f64.powi(-10) } else { 0.0 };
    2.2 * half_unit(dtype) + k as f64 * half_unit(Dtype::F32) + hardware
}

/// The numbers that a layer's weight stands for.
fn seen(dense: &[f32], k: usize, layer: &Linear) -> Result<Vec<f64>> {
    match layer.weight() {
        Weight::Dense(_) => Ok(dense.iter().map(|x| f64::from(*x)).collect()),
        Weight::Int8WeightOnly { values, scales }
        | Weight::Int8 { values, scales }
        | Weight::Fp8 { values, scales } => decoded(values, scales, k),
    }
}

/// Rows of a tensor after their way through 8 bits.
pub(super) fn read_back(x: &Tensor, kind: Option<EightBit>) -> Result<Vec<f64>> {
    let dtype = if kind == Some(EightBit::Fp8) { Dtype::F8E4M3 } else { Dtype::I8 };
    let (values, scales) = quantize::rows_to_8bit(x, dtype)?;
    decoded(&values, &scales, x.dims()[1])
}

/// Rows of `k` bytes with their scales.
pub(super) fn decoded(values: &Tensor, scales: &Tensor, k: usize) -> Result<Vec<f64>> {
    let scales = scales.to_vec::<f32>()?;
    let decode = |byte: u8| if values.dtype() == Dtype::I8 { f64::from(byte as i8) } else { e4m3(byte) };
    let bytes = values.to_bytes()?;
    Ok(bytes.iter().enumerate().map(|(i, byte)| decode(*byte) * f64::from(scales[i / k])).collect())
}

/// OCP 8-bit floating point, E4M3.
fn e4m3(bits: u8) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 3 & 15), f64::from(bits & 7));
    let magnitude = match exponent {
        15 if bits & 7 == 7 => f64::NAN,
        0 => fraction * 2f64.powi(-9),
        _ => (8.0 + fraction) * 2f64.powi(exponent - 10),
    };
    if bits & 128 == 0 { magnitude } else { -magnitude }
}

/// Side by side, each layer gives what it gives alone.
fn concat(device: &Device, dtype: Dtype) -> Result<Outcome> {
    let [m, n, k] = [5, 3, 16];
    let mut numbers = Numbers::new(8);
    let mut tensor = |dims: &[usize]| {
        let len = dims.iter().product();
        Tensor::from_f32(device, dims, dtype, &numbers.take(len, dtype))
    };
    let mut layer = || Linear::new(Weight::Dense(tensor(&[n, k])?), Some(tensor(&[n])?));
    let (first, second) = (layer()?, layer()?);
    let x = tensor(&[m, k])?;
    let mut outcome = Outcome { error: 0.0, bound: 0.0 };
    for kind in [None, Some(EightBit::Int8)] {
        let made = |layer: &Linear| kind.map_or_else(|| Ok(layer.clone()), |kind| layer.to_8bit(kind));
        let (first, second) = (made(&first)?, made(&second)?);
        let rows = |layer: &Linear| layer.forward(&x, Activation::Identity)?.to_f32_vec();
        let (left, right) = (rows(&first)?, rows(&second)?);
        let expected: Vec<f32> =
            left.chunks(n).zip(right.chunks(n)).flat_map(|(left, right)| [left, right].concat()).collect();
        outcome.error += Outcome::exact(&rows(&Linear::concat(&[&first, &second])?)?, &expected).error;
    }
    Ok(outcome)
}

/// By erf it would differ by up to 4.7e-4, at 2.7, which 16 bits would hide.
fn gelu_is_by_tanh(device: &Device) -> Result<Outcome> {
    // An identity matrix: the library gets a shape that it takes.
    let (m, n) = (16, 32);
    let weight: Vec<f32> = (0..n * n).map(|i| if i / n == i % n { 1.0 } else { 0.0 }).collect();
    let x: Vec<f32> = (0..m * n).map(|i| (i as f32 / (m * n) as f32 - 0.5) * 8.0).collect();
    let layer = Linear::new(Weight::Dense(Tensor::from_f32(device, &[n, n], Dtype::F32, &weight)?), None)?;
    let out = layer.forward(&Tensor::from_f32(device, &[m, n], Dtype::F32, &x)?, Activation::GeluTanh)?;
    let differences = out
        .to_f32_vec()?
        .into_iter()
        .zip(&x)
        .map(|(y, x)| (f64::from(y) - gelu_tanh_f64(f64::from(*x))).abs())
        .collect::<Vec<_>>();
    Ok(Outcome { error: differences.into_iter().fold(0.0, f64::max), bound: 2e-5 })
}
