//! What T5 computes differently from the transformer: RMS norm, attention with a position bias, the gated GELU.
//!
//! In half precision every step that transformers' modules round is rounded. The prompt is a few hundred tokens long,
//! so a head's scores are small enough to exist at once. Knows shapes, not layers.

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use super::linear::{MatrixRef, Product, product};
use super::norm::map_rows;
use super::{Rounding, from_f32, vector, with_f32};
use crate::weights::WeightScope;

/// `T5LayerNorm`: no mean, no bias.
pub(crate) struct RmsNorm {
    weight: Vec<f32>,
    eps: f32,
    dtype: DType,
}

impl RmsNorm {
    /// Reads `weight` of `(size)` below `scope`.
    pub(crate) fn load(scope: &WeightScope<'_>, size: usize, eps: f64) -> crate::Result<Self> {
        let weight = scope.tensor("weight", &[size])?.to_dtype(DType::F32)?.to_vec1()?;
        Ok(Self { weight, eps: eps as f32, dtype: scope.dtype() })
    }

    /// `(b, s, d)` of any dtype, normalised over `d`, in the weight's dtype.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let rounding = Rounding::of(self.dtype)?;
        let out = map_rows(x, self.weight.len(), |_, row, out| {
            let mean_square = vector::sum_of_squared_deviations(row, 0.0) / row.len() as f32;
            let reciprocal = 1.0 / (mean_square + self.eps).sqrt();
            for ((y, x), weight) in out.iter_mut().zip(row).zip(&self.weight) {
                *y = weight * rounding.round(x * reciprocal);
            }
        })?;
        from_f32(out, x.dims(), self.dtype)
    }
}

/// What is added to the scores of each head, by the distance from query to key.
pub(crate) struct PositionBias {
    /// `(heads, 2 * tokens - 1)`, from the key furthest before the query to the one furthest after it.
    pub(crate) by_distance: Vec<f32>,
    /// How many tokens the table is for.
    pub(crate) tokens: usize,
}

impl PositionBias {
    /// Of all keys for one query.
    fn row(&self, head: usize, query: usize) -> &[f32] {
        let begin = head * (2 * self.tokens - 1) + self.tokens - 1 - query;
        &self.by_distance[begin..begin + self.tokens]
    }
}

/// `softmax(q k^T + bias) v` for `(b, s, heads * head_dim)`, with the softmax in `f32` and no scaling.
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    bias: &PositionBias,
) -> Result<Tensor> {
    let (batch, tokens, inner) = q.dims3()?;
    let rounding = Rounding::of(q.dtype())?;
    let head_dim = inner / heads;
    if tokens != bias.tokens {
        candle_core::bail!("a position bias for {} tokens, found {tokens}", bias.tokens);
    }
    let mut out = vec![0.0; batch * tokens * inner];
    with_f32(q, |q| {
        with_f32(k, |k| {
            with_f32(v, |v| {
                out.par_chunks_mut(tokens * head_dim).enumerate().for_each(|(index, out)| {
                    let (batch, head) = (index / heads, index % heads);
                    let begin = batch * tokens * inner + head * head_dim;
                    let rows = |x| MatrixRef { data: x, row_stride: inner, column_stride: 1 };
                    let columns = MatrixRef { data: &k[begin..], row_stride: 1, column_stride: inner };
                    let mut scores = vec![0.0; tokens * tokens];
                    let parallelism = gemm::Parallelism::None;
                    let size =
                        Product { m: tokens, n: tokens, k: head_dim, scale: 1.0, add: false, parallelism };
                    product(size, rows(&q[begin..]), columns, &mut scores);
                    biased_softmax(&mut scores, head, bias, rounding);
                    let weights = MatrixRef { data: &scores, row_stride: tokens, column_stride: 1 };
                    let size =
                        Product { m: tokens, n: head_dim, k: tokens, scale: 1.0, add: false, parallelism };
                    product(size, weights, rows(&v[begin..]), out);
                });
                Ok(())
            })
        })
    })?;
    // (b, heads, s, head_dim) -> (b, s, heads * head_dim)
    from_f32(out, &[batch, heads, tokens, head_dim], q.dtype())?
        .transpose(1, 2)?
        .reshape((batch, tokens, inner))
}

/// Turns the scores `(s, s)` of one head into weights.
fn biased_softmax(scores: &mut [f32], head: usize, bias: &PositionBias, rounding: Rounding) {
    vector::dispatch(
        #[inline(always)]
        || {
            for (query, row) in scores.chunks_exact_mut(bias.tokens).enumerate() {
                for (score, bias) in row.iter_mut().zip(bias.row(head, query)) {
                    *score = rounding.round(rounding.round(*score) + bias);
                }
                let max = vector::max(row);
                let sum = vector::exp_in_place(row, max);
                for weight in row.iter_mut() {
                    *weight = rounding.round(*weight / sum);
                }
            }
        },
    );
}

/// `gelu_new(gate) * x`, where `gelu_new` is transformers' chain of single operations.
pub(crate) fn gated_gelu(gate: &Tensor, x: &Tensor) -> Result<Tensor> {
    // Enough elements that a task outweighs its scheduling.
    const ELEMENTS: usize = 1 << 14;
    let rounding = Rounding::of(gate.dtype())?;
    let out = with_f32(gate, |gate| {
        with_f32(x, |x| {
            let mut out = vec![0.0; gate.len()];
            out.par_chunks_mut(ELEMENTS).zip(gate.par_chunks(ELEMENTS).zip(x.par_chunks(ELEMENTS))).for_each(
                |(out, (gate, x))| {
                    vector::dispatch(
                        #[inline(always)]
                        || {
                            for ((out, gate), x) in out.iter_mut().zip(gate).zip(x) {
                                *out = x * match rounding {
                                    Rounding::None => vector::gelu_tanh(*gate),
                                    rounding => gelu_new_rounded(*gate, rounding),
                                };
                            }
                        },
                    );
                },
            );
            Ok(out)
        })
    })?;
    from_f32(out, x.dims(), x.dtype())
}

/// `0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`, rounded after each operation.
#[inline(always)]
fn gelu_new_rounded(x: f32, rounding: Rounding) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let cube = rounding.round(rounding.round(x * x) * x);
    let sum = rounding.round(x + rounding.round(0.044_715 * cube));
    let u = rounding.round(SQRT_2_OVER_PI * sum);
    let tanh = rounding.round(1.0 - 2.0 / (vector::exp(2.0 * u) + 1.0));
    rounding.round(rounding.round(0.5 * x) * rounding.round(1.0 + tanh))
}
