//! `ops::norm` against plain loops, and its fused operations against their parts.

use super::{Case, FLOATS, Numbers, Outcome, half_unit, rounded};
use crate::ops::norm::{
    GatedAdd, Norm, ShiftScale, Streams, gated_add_in_place, gated_add_modulated_into, layer_norm, modulated,
};
use crate::{Device, Dtype, Result, Tensor};

/// Odd; a row of eights; more eights than a thread's first group, in a count that leaves threads without any.
const SIZES: [usize; 3] = [19, 48, 328];
const BATCH: usize = 2;
const STREAMS: Streams = Streams { tokens: 5, text_len: 2 };
const CHUNKS: usize = 6;
const EPS: f32 = 1e-5;
const SHIFT: [usize; 2] = [0, 3];
const SCALE: [usize; 2] = [1, 4];
const GATE: [usize; 2] = [2, 5];

pub(super) fn add(cases: &mut Vec<Case>) {
    for dtype in FLOATS {
        for size in SIZES {
            for affine in [false, true] {
                cases.push(Case::new(format!("layer norm {dtype} {size} affine {affine}"), move |device| {
                    let inputs = Inputs::new(dtype, size);
                    let on_device = inputs.upload(device)?;
                    let found = layer_norm(&on_device.x, &on_device.norm(affine))?.to_f32_vec()?;
                    // A sum of `size` in f32 and the last rounding.
                    let bound = half_unit(dtype) + 8.0 * half_unit(Dtype::F32);
                    Ok(Outcome::relative(&found, &inputs.layer_norm(affine), bound))
                }));
            }
            cases.push(Case::new(format!("modulated {dtype} {size}"), move |device| {
                let inputs = Inputs::new(dtype, size);
                let on_device = inputs.upload(device)?;
                let normed = layer_norm(&on_device.x, &on_device.norm(true))?.to_f32_vec()?;
                let found =
                    modulated(&on_device.x, &on_device.norm(true), &on_device.shift_scale(), STREAMS)?;
                Ok(close(&found.to_f32_vec()?, &inputs.modulate(&normed), dtype))
            }));
            cases.push(Case::new(format!("gated add {dtype} {size}"), move |device| {
                let inputs = Inputs::new(dtype, size);
                let on_device = inputs.upload(device)?;
                gated_add_in_place(&on_device.gated_add(), STREAMS)?;
                Ok(close(&on_device.x.to_f32_vec()?, &inputs.gated_add(), dtype))
            }));
            cases.push(Case::new(format!("gated add and modulated {dtype} {size}"), move |device| {
                let inputs = Inputs::new(dtype, size);
                let (fused, parts) = (inputs.upload(device)?, inputs.upload(device)?);
                let (norm, m) = (fused.norm(true), fused.shift_scale());
                // In place of `y`, as the model does.
                gated_add_modulated_into(&fused.gated_add(), &norm, &m, STREAMS, &fused.y)?;
                gated_add_in_place(&parts.gated_add(), STREAMS)?;
                let out = modulated(&parts.x, &parts.norm(true), &parts.shift_scale(), STREAMS)?;
                let sums = close(&fused.x.to_f32_vec()?, &parts.x.to_f32_vec()?, dtype);
                let outs = close(&fused.y.to_f32_vec()?, &out.to_f32_vec()?, dtype);
                Ok(Outcome { error: sums.error.max(outs.error), bound: sums.bound })
            }));
        }
    }
    cases.push(Case::new("layer norm f32 at an odd address", |device| {
        let (size, rows) = (16, 3);
        let all = Numbers::new(1).take(1 + rows * size, Dtype::F32);
        let x = Tensor::from_slice(device, &[1 + rows * size], &all)?.slice(1, rows * size)?;
        let norm = Norm { weight: None, bias: None, eps: EPS };
        let found = layer_norm(&x.reshape(&[rows, size])?, &norm)?.to_f32_vec()?;
        let expected: Vec<f64> = all[1..].chunks_exact(size).flat_map(|row| normalised(row, None)).collect();
        Ok(Outcome::relative(&found, &expected, 8.0 * half_unit(Dtype::F32)))
    }));
}

/// Every rounding in half precision is that of the reference; in f32 a product may or may not be rounded before a sum.
fn close(found: &[f32], expected: &[f32], dtype: Dtype) -> Outcome {
    if dtype != Dtype::F32 {
        return Outcome::exact(found, expected);
    }
    let expected: Vec<f64> = expected.iter().map(|x| f64::from(*x)).collect();
    Outcome::relative(found, &expected, 4.0 * half_unit(dtype))
}

fn normalised(row: &[f32], affine: Option<(&[f32], &[f32])>) -> Vec<f64> {
    let n = row.len() as f64;
    let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let variance = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
    let deviation = (variance + f64::from(EPS)).sqrt();
    let normed = row.iter().map(|x| (f64::from(*x) - mean) / deviation);
    match affine {
        None => normed.collect(),
        Some((weight, bias)) => {
            let affine = weight.iter().zip(bias);
            normed.zip(affine).map(|(x, (w, b))| x * f64::from(*w) + f64::from(*b)).collect()
        }
    }
}

struct Inputs {
    dtype: Dtype,
    size: usize,
    x: Vec<f32>,
    y: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    table: Vec<f32>,
}

impl Inputs {
    fn new(dtype: Dtype, size: usize) -> Self {
        let mut numbers = Numbers::new(size as u64);
        let count = BATCH * STREAMS.tokens * size;
        // Away from 0, so that a variance that forgets the mean is wrong.
        let x = numbers.take(count, dtype).iter().map(|x| rounded(x + 3.0, dtype)).collect();
        Self {
            dtype,
            size,
            x,
            y: numbers.take(count, dtype),
            weight: numbers.take(size, dtype),
            bias: numbers.take(size, dtype),
            table: numbers.take(CHUNKS * size, dtype),
        }
    }

    fn upload(&self, device: &Device) -> Result<OnDevice> {
        let upload = |dims: &[usize], values: &[f32]| Tensor::from_f32(device, dims, self.dtype, values);
        let dims = [BATCH, STREAMS.tokens, self.size];
        Ok(OnDevice {
            x: upload(&dims, &self.x)?,
            y: upload(&dims, &self.y)?,
            weight: upload(&[self.size], &self.weight)?,
            bias: upload(&[self.size], &self.bias)?,
            table: upload(&[1, CHUNKS * self.size], &self.table)?,
        })
    }

    fn layer_norm(&self, affine: bool) -> Vec<f64> {
        let affine = affine.then_some((&self.weight[..], &self.bias[..]));
        self.x.chunks_exact(self.size).flat_map(|row| normalised(row, affine)).collect()
    }

    /// The element of the chunk for element `i`, by its row's stream.
    fn chunk(&self, chunks: [usize; 2], i: usize) -> f32 {
        let text = i / self.size % STREAMS.tokens < STREAMS.text_len;
        self.table[chunks[usize::from(text)] * self.size + i % self.size]
    }

    fn modulate(&self, normed: &[f32]) -> Vec<f32> {
        let round = |x| rounded(x, self.dtype);
        let one = |(i, y): (usize, &f32)| {
            round(round(y * round(1.0 + self.chunk(SCALE, i))) + self.chunk(SHIFT, i))
        };
        normed.iter().enumerate().map(one).collect()
    }

    fn gated_add(&self) -> Vec<f32> {
        let round = |x| rounded(x, self.dtype);
        let sum = |(i, (x, y)): (usize, (&f32, &f32))| round(x + round(self.chunk(GATE, i) * y));
        self.x.iter().zip(&self.y).enumerate().map(sum).collect()
    }
}

struct OnDevice {
    x: Tensor,
    y: Tensor,
    weight: Tensor,
    bias: Tensor,
    table: Tensor,
}

impl OnDevice {
    fn norm(&self, affine: bool) -> Norm<'_> {
        Norm { weight: affine.then_some(&self.weight), bias: affine.then_some(&self.bias), eps: EPS }
    }

    fn shift_scale(&self) -> ShiftScale<'_> {
        ShiftScale { table: &self.table, shift: SHIFT, scale: SCALE }
    }

    fn gated_add(&self) -> GatedAdd<'_> {
        GatedAdd { x: &self.x, y: &self.y, table: &self.table, gate: GATE }
    }
}
