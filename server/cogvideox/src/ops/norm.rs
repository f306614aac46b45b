//! LayerNorm with adaptive modulation, and the gated residual: what stands between the transformer's products.
//!
//! One pass over a row each, with the modulation of the row's stream (text or video). In half precision every step
//! that PyTorch rounds is rounded: the norm, `1 + scale`, the product, the sum. Knows rows and streams, not blocks.

#![expect(
    clippy::inline_always,
    reason = "only inlined code is compiled for the registers that `dispatch` chose"
)]

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use super::{Rounding, from_f32, vector, with_f32};
use crate::weights::WeightScope;

/// A LayerNorm's parameters.
pub(crate) struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
}

impl LayerNorm {
    /// Reads `weight` and `bias` of `(size)` below `scope`; without `affine` they are one and zero.
    pub(crate) fn load(scope: &WeightScope<'_>, size: usize, eps: f64, affine: bool) -> crate::Result<Self> {
        let read = |name, default| -> crate::Result<Vec<f32>> {
            if !affine {
                return Ok(vec![default; size]);
            }
            Ok(scope.tensor(name, &[size])?.to_dtype(DType::F32)?.to_vec1()?)
        };
        Ok(Self { weight: read("weight", 1.0)?, bias: read("bias", 0.0)?, eps: eps as f32 })
    }

    /// Normalises one row of `input` into `output`, rounded.
    #[inline(always)]
    pub(crate) fn row(&self, input: &[f32], output: &mut [f32], rounding: Rounding) {
        let mean = vector::sum(input) / input.len() as f32;
        let variance = vector::sum_of_squared_deviations(input, mean) / input.len() as f32;
        let reciprocal = 1.0 / (variance + self.eps).sqrt();
        let affine = self.weight.iter().zip(&self.bias);
        for ((y, x), (w, b)) in output.iter_mut().zip(input).zip(affine) {
            *y = rounding.round(((x - mean) * reciprocal).mul_add(*w, *b));
        }
    }

    /// `(b, s, d)` normalised over `d`.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let rounding = Rounding::of(x.dtype())?;
        let out = map_rows(
            x,
            self.weight.len(),
            #[inline(always)]
            |_, row, out| self.row(row, out, rounding),
        )?;
        from_f32(out, x.dims(), x.dtype())
    }

    /// `norm(x) * (1 + scale) + shift` on `(b, s, d)`, where `shift` and `scale` are chosen by the row's stream.
    pub(crate) fn modulated(&self, x: &Tensor, streams: Streams, m: ShiftScale<'_>) -> Result<Tensor> {
        let rounding = Rounding::of(x.dtype())?;
        let tokens = x.dim(1)?;
        let out = map_rows(
            x,
            self.weight.len(),
            #[inline(always)]
            |row_index, row, out| {
                self.row(row, out, rounding);
                let stream = streams.of(row_index % tokens);
                let shift = m.values.chunk(m.shift[stream]);
                let scale = m.values.chunk(m.scale[stream]);
                for ((y, shift), scale) in out.iter_mut().zip(shift).zip(scale) {
                    *y = rounding.round(rounding.round(*y * rounding.round(1.0 + scale)) + shift);
                }
            },
        )?;
        from_f32(out, x.dims(), x.dtype())
    }
}

/// The two streams of a joint sequence: first the text tokens, then the video tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Streams {
    /// Tokens of text at the head of the sequence.
    pub(crate) text_len: usize,
}

impl Streams {
    /// 0 for video, 1 for text: the order in which diffusers' `CogVideoXLayerNormZero` chunks them.
    fn of(self, position: usize) -> usize {
        usize::from(position < self.text_len)
    }
}

/// The output of an adaptive norm's linear layer for one timestep, `(1, chunks * d)`.
pub(crate) struct Modulation {
    values: Vec<f32>,
    size: usize,
}

impl Modulation {
    /// Splits `(1, chunks * d)` into its chunks.
    pub(crate) fn new(values: &Tensor, chunks: usize) -> Result<Self> {
        let size = values.dim(1)? / chunks;
        let values = values.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok(Self { values, size })
    }

    fn chunk(&self, index: usize) -> &[f32] {
        &self.values[index * self.size..(index + 1) * self.size]
    }
}

/// Which chunks of a [`Modulation`] shift and scale; each `[video, text]`.
#[derive(Clone, Copy)]
pub(crate) struct ShiftScale<'a> {
    /// The chunks.
    pub(crate) values: &'a Modulation,
    /// Added.
    pub(crate) shift: [usize; 2],
    /// Multiplied, plus one.
    pub(crate) scale: [usize; 2],
}

/// `x + gate * y` on `(b, s, d)`, `gate` being the chunk `[video, text]` of `m`.
pub(crate) fn gated_add(
    x: &Tensor,
    y: &Tensor,
    streams: Streams,
    m: &Modulation,
    gate: [usize; 2],
) -> Result<Tensor> {
    let rounding = Rounding::of(x.dtype())?;
    let (tokens, size) = (x.dim(1)?, x.dim(2)?);
    let out = with_f32(y, |y| {
        map_rows(
            x,
            size,
            #[inline(always)]
            |row_index, x, out| {
                let gate = m.chunk(gate[streams.of(row_index % tokens)]);
                let y = &y[row_index * size..(row_index + 1) * size];
                for (((out, x), y), gate) in out.iter_mut().zip(x).zip(y).zip(gate) {
                    *out = rounding.round(x + rounding.round(gate * y));
                }
            },
        )
    })?;
    from_f32(out, x.dims(), x.dtype())
}

/// Rows of a task: enough to outweigh its scheduling.
const ROWS: usize = 32;

/// Calls `f(row index, row, output row)` for each row of `(b, s, d)`, in parallel.
pub(super) fn map_rows(
    x: &Tensor,
    size: usize,
    f: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) -> Result<Vec<f32>> {
    let (_, _, found) = x.dims3()?;
    if found != size {
        candle_core::bail!("norm of {size} features, found {found}");
    }
    with_f32(x, |x| {
        let mut out = vec![0.0; x.len()];
        out.par_chunks_mut(ROWS * size).zip(x.par_chunks(ROWS * size)).enumerate().for_each(
            |(task, (out, x))| {
                vector::dispatch(
                    #[inline(always)]
                    || {
                        for (i, (out, x)) in out.chunks_exact_mut(size).zip(x.chunks_exact(size)).enumerate()
                        {
                            f(task * ROWS + i, x, out);
                        }
                    },
                );
            },
        );
        Ok(out)
    })
}
