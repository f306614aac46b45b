//! Joint self-attention of a CogVideoX block: q/k LayerNorm, rotary positions, softmax, weighted values.
//!
//! On a CPU the scores exist for one block of queries and one block of keys at a time (the online softmax of
//! FlashAttention, arXiv 2205.14135), so memory grows linearly with the tokens. A task owns a block of queries with
//! all its heads, so that it writes whole rows of the result. Knows the fused `qkv` layout and the split into text
//! and video tokens; knows no weights but the two norms.

#![expect(
    clippy::inline_always,
    reason = "only inlined code is compiled for the registers that `dispatch` chose"
)]

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::linear::{MatrixRef, Product, product};
use super::norm::{LayerNorm, Streams};
use super::{Rounding, from_f32, vector, with_f32};

/// Queries of a task at most.
const MAX_QUERY_ROWS: usize = 256;
/// Keys whose scores exist at a time: with 256 queries 512 KiB, within a core's L2 cache.
const KEY_ROWS: usize = 512;

/// Rotary tables of the video tokens, `(tokens, head_dim)` each, every value standing twice (diffusers'
/// `get_1d_rotary_pos_embed(use_real=True)`).
pub(crate) struct RotaryTables {
    /// Cosines.
    pub(crate) cos: Vec<f32>,
    /// Sines.
    pub(crate) sin: Vec<f32>,
}

/// What an attention needs besides `qkv`.
pub(crate) struct Attention<'a> {
    /// Heads of `head_dim` each.
    pub(crate) heads: usize,
    /// LayerNorm over a query's `head_dim`.
    pub(crate) norm_q: &'a LayerNorm,
    /// LayerNorm over a key's `head_dim`.
    pub(crate) norm_k: &'a LayerNorm,
    /// Positions of the video tokens, for models that use them.
    pub(crate) rotary: Option<&'a RotaryTables>,
    /// Where the video tokens begin.
    pub(crate) streams: Streams,
}

/// The shape of one call.
#[derive(Clone, Copy)]
struct Dims {
    tokens: usize,
    heads: usize,
    head_dim: usize,
}

impl Dims {
    fn inner(self) -> usize {
        self.heads * self.head_dim
    }
}

impl Attention<'_> {
    /// `qkv` is `(b, s, 3 * heads * head_dim)`: all queries, then all keys, then all values of a token. Returns
    /// `(b, s, heads * head_dim)`.
    pub(crate) fn forward(&self, qkv: &Tensor) -> Result<Tensor> {
        let (batch, tokens, width) = qkv.dims3()?;
        let dims = Dims { tokens, heads: self.heads, head_dim: width / 3 / self.heads };
        let inner = dims.inner();
        let rounding = Rounding::of(qkv.dtype())?;
        let out = with_f32(qkv, |qkv| {
            let keys = self.keys(qkv, dims, rounding);
            let mut out = vec![0.0; batch * tokens * inner];
            let rows = tokens.div_ceil(4 * rayon::current_num_threads()).clamp(16, MAX_QUERY_ROWS);
            for (index, out) in out.chunks_exact_mut(tokens * inner).enumerate() {
                let qkv = &qkv[index * tokens * 3 * inner..(index + 1) * tokens * 3 * inner];
                let keys = &keys[index * tokens * inner..(index + 1) * tokens * inner];
                out.par_chunks_mut(rows * inner).enumerate().for_each(|(task, out)| {
                    let queries =
                        QueryBlock { attention: self, qkv, keys, dims, rounding, first: task * rows };
                    queries.run(out);
                });
            }
            Ok(out)
        })?;
        from_f32(out, &[batch, tokens, inner], qkv.dtype())
    }

    /// Normalised and rotated keys, `(b, heads, s, head_dim)`.
    fn keys(&self, qkv: &[f32], dims: Dims, rounding: Rounding) -> Vec<f32> {
        let inner = dims.inner();
        let mut keys = vec![0.0; qkv.len() / 3];
        keys.par_chunks_mut(dims.tokens * dims.head_dim).enumerate().for_each(|(index, keys)| {
            let (batch, head) = (index / dims.heads, index % dims.heads);
            vector::dispatch(
                #[inline(always)]
                || {
                    for (token, key) in keys.chunks_exact_mut(dims.head_dim).enumerate() {
                        let begin = (batch * dims.tokens + token) * 3 * inner + inner + head * dims.head_dim;
                        self.norm_k.row(&qkv[begin..begin + dims.head_dim], key, rounding);
                        self.rotate(token, key, rounding);
                    }
                },
            );
        });
        keys
    }

    /// Rotates neighbouring pairs of a video token's vector by its position (diffusers' `apply_rotary_emb`).
    #[inline(always)]
    fn rotate(&self, token: usize, vector: &mut [f32], rounding: Rounding) {
        let Some(tables) = self.rotary else { return };
        let Some(position) = token.checked_sub(self.streams.text_len) else { return };
        let begin = position * vector.len();
        let cos = &tables.cos[begin..begin + vector.len()];
        let sin = &tables.sin[begin..begin + vector.len()];
        for ((pair, cos), sin) in vector.chunks_exact_mut(2).zip(cos.chunks_exact(2)).zip(sin.chunks_exact(2))
        {
            let (a, b) = (pair[0], pair[1]);
            pair[0] = rounding.round(a * cos[0] - b * sin[0]);
            pair[1] = rounding.round(b * cos[1] + a * sin[1]);
        }
    }
}

/// The queries of one task, within one batch element.
struct QueryBlock<'a> {
    attention: &'a Attention<'a>,
    /// `(s, 3 * inner)`.
    qkv: &'a [f32],
    /// `(heads, s, head_dim)`.
    keys: &'a [f32],
    dims: Dims,
    rounding: Rounding,
    /// Token of the first query.
    first: usize,
}

/// Buffers of one task, used by head after head.
struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
    values: Vec<f32>,
    max: Vec<f32>,
    sum: Vec<f32>,
}

impl QueryBlock<'_> {
    /// Fills `out`, `(rows, inner)`.
    fn run(&self, out: &mut [f32]) {
        let Dims { heads, head_dim, .. } = self.dims;
        let inner = self.dims.inner();
        let rows = out.len() / inner;
        let mut scratch = Scratch {
            queries: vec![0.0; rows * head_dim],
            scores: vec![0.0; rows * KEY_ROWS],
            values: vec![0.0; rows * head_dim],
            max: vec![0.0; rows],
            sum: vec![0.0; rows],
        };
        for head in 0..heads {
            self.head(head, &mut scratch);
            for (row, (values, sum)) in scratch.values.chunks_exact(head_dim).zip(&scratch.sum).enumerate() {
                let begin = row * inner + head * head_dim;
                for (out, value) in out[begin..begin + head_dim].iter_mut().zip(values) {
                    *out = value / sum;
                }
            }
        }
    }

    /// The unnormalised result of one head in `scratch.values`, its divisor in `scratch.sum`.
    fn head(&self, head: usize, scratch: &mut Scratch) {
        let Dims { tokens, head_dim, .. } = self.dims;
        self.load_queries(head, &mut scratch.queries);
        scratch.values.fill(0.0);
        scratch.max.fill(f32::NEG_INFINITY);
        scratch.sum.fill(0.0);
        let rows = scratch.max.len();
        let keys = &self.keys[head * tokens * head_dim..(head + 1) * tokens * head_dim];
        let values = &self.qkv[2 * self.dims.inner() + head * head_dim..];
        let value_stride = 3 * self.dims.inner();
        for first in (0..tokens).step_by(KEY_ROWS) {
            let count = KEY_ROWS.min(tokens - first);
            let scores = &mut scratch.scores[..rows * count];
            let queries = MatrixRef { data: &scratch.queries, row_stride: head_dim, column_stride: 1 };
            let keys = MatrixRef { data: &keys[first * head_dim..], row_stride: 1, column_stride: head_dim };
            let scale = 1.0 / (head_dim as f32).sqrt();
            let parallelism = gemm::Parallelism::None;
            product(
                Product { m: rows, n: count, k: head_dim, scale, add: false, parallelism },
                queries,
                keys,
                scores,
            );
            online_softmax(scores, count, &mut scratch.max, &mut scratch.sum, &mut scratch.values);
            // PyTorch's kernel keeps the sum of the exact weights and hands rounded ones to the second product.
            self.rounding.round_all(scores);
            let weights = MatrixRef { data: scores, row_stride: count, column_stride: 1 };
            let values = MatrixRef {
                data: &values[first * value_stride..],
                row_stride: value_stride,
                column_stride: 1,
            };
            let size = Product { m: rows, n: head_dim, k: count, scale: 1.0, add: true, parallelism };
            product(size, weights, values, &mut scratch.values);
        }
    }

    fn load_queries(&self, head: usize, queries: &mut [f32]) {
        let Dims { head_dim, .. } = self.dims;
        let width = 3 * self.dims.inner();
        vector::dispatch(
            #[inline(always)]
            || {
                for (row, query) in queries.chunks_exact_mut(head_dim).enumerate() {
                    let token = self.first + row;
                    let begin = token * width + head * head_dim;
                    self.attention.norm_q.row(&self.qkv[begin..begin + head_dim], query, self.rounding);
                    self.attention.rotate(token, query, self.rounding);
                }
            },
        );
    }
}

/// Turns a block of scores `(rows, count)` into weights relative to the running maximum, and rescales what earlier
/// blocks left in `sum` `(rows)` and `values` `(rows, head_dim)` to the new maximum.
fn online_softmax(scores: &mut [f32], count: usize, max: &mut [f32], sum: &mut [f32], values: &mut [f32]) {
    let head_dim = values.len() / max.len();
    vector::dispatch(
        #[inline(always)]
        || {
            let state = max.iter_mut().zip(sum.iter_mut()).zip(values.chunks_exact_mut(head_dim));
            for (scores, ((max, sum), values)) in scores.chunks_exact_mut(count).zip(state) {
                let new_max = vector::max(scores).max(*max);
                let factor = vector::exp(*max - new_max);
                *sum = *sum * factor + vector::exp_in_place(scores, new_max);
                for value in values.iter_mut() {
                    *value *= factor;
                }
                *max = new_max;
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::{Attention, KEY_ROWS, RotaryTables};
    use crate::noise::Generator;
    use crate::ops::norm::{LayerNorm, Streams};
    use crate::weights::Weights;

    /// Norms and rotates a vector: the row, 0 for a query or 1 for a key, its token.
    type Normed<'a> = dyn Fn(&[f32], usize, usize) -> Vec<f64> + 'a;

    /// The same in `f64` with the whole score matrix.
    fn plain(qkv: &[f32], tokens: usize, head_dim: usize, normed: &Normed<'_>) -> Vec<f64> {
        let heads = qkv.len() / tokens / 3 / head_dim;
        let inner = heads * head_dim;
        let mut out = vec![0.0; tokens * inner];
        for head in 0..heads {
            let row = |part: usize, token: usize| {
                let begin = token * 3 * inner + part * inner + head * head_dim;
                &qkv[begin..begin + head_dim]
            };
            let keys: Vec<Vec<f64>> = (0..tokens).map(|t| normed(row(1, t), 1, t)).collect();
            for token in 0..tokens {
                let query = normed(row(0, token), 0, token);
                let dot = |key: &Vec<f64>| query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>();
                let weights: Vec<f64> =
                    keys.iter().map(|key| (dot(key) / (head_dim as f64).sqrt()).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for (t, weight) in weights.iter().enumerate() {
                    for (i, value) in row(2, t).iter().enumerate() {
                        out[token * inner + head * head_dim + i] += weight / sum * f64::from(*value);
                    }
                }
            }
        }
        out
    }

    #[test]
    fn blocks_of_keys_give_what_the_whole_score_matrix_gives() {
        let device = Device::Cpu;
        let weights = Weights::random(5);
        // Sizes around the block of keys, beyond two of them, and odd ones.
        for (tokens, text_len, heads, head_dim) in
            [(1, 0, 1, 16), (KEY_ROWS, 5, 2, 16), (KEY_ROWS + 1, 7, 1, 32), (2 * KEY_ROWS + 77, 226, 3, 16)]
        {
            let scope = weights.root(DType::F32, &device);
            let norms =
                ["norm_q", "norm_k"].map(|n| LayerNorm::load(&scope.pp(n), head_dim, 1e-6, true).unwrap());
            let mut generator = Generator::seed(tokens as u64);
            let angles: Vec<f32> = generator
                .randn((tokens - text_len, head_dim / 2), DType::F32)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap();
            let twice = |f: fn(f32) -> f32| angles.iter().flat_map(|a| [f(*a), f(*a)]).collect::<Vec<f32>>();
            let rotary = RotaryTables { cos: twice(f32::cos), sin: twice(f32::sin) };
            let qkv = generator.randn((1, tokens, 3 * heads * head_dim), DType::F32).unwrap();
            let attention = Attention {
                heads,
                norm_q: &norms[0],
                norm_k: &norms[1],
                rotary: Some(&rotary),
                streams: Streams { text_len },
            };
            let found: Vec<f32> = attention.forward(&qkv).unwrap().flatten_all().unwrap().to_vec1().unwrap();

            let normed = |row: &[f32], norm: usize, token: usize| {
                let tensor = Tensor::from_slice(row, (1, 1, head_dim), &device).unwrap();
                let row: Vec<f32> =
                    norms[norm].forward(&tensor).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                let mut row: Vec<f64> = row.into_iter().map(f64::from).collect();
                if let Some(position) = token.checked_sub(text_len) {
                    for (i, pair) in row.chunks_exact_mut(2).enumerate() {
                        let (sin, cos) = f64::from(angles[position * head_dim / 2 + i]).sin_cos();
                        (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin);
                    }
                }
                row
            };
            let qkv: Vec<f32> = qkv.flatten_all().unwrap().to_vec1().unwrap();
            let expected = plain(&qkv, tokens, head_dim, &normed);
            for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
                assert!((f64::from(*a) - b).abs() < 5e-6, "{tokens} tokens, element {i}: {a} is not {b}");
            }
        }
    }
}
