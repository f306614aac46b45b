//! Attention with the whole matrix of scores in `f64`: the plain kernel, T5's bias, tensor cores, known bounds.

use super::{Case, FLOATS, Numbers, Outcome, dot, half_unit, rounded};
use crate::ops::attention::{Attention, Heads};
use crate::{Device, Dtype, Result, Tensor};

/// A call on separate tensors, whose heads have `first` elements of a row before them and `spare` behind.
#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    seq_q: usize,
    seq_kv: usize,
    heads: usize,
    head_dim: usize,
    first: usize,
    spare: usize,
}

impl Shape {
    fn inner(self) -> usize {
        self.heads * self.head_dim
    }

    fn width(self) -> usize {
        self.first + self.inner() + self.spare
    }

    fn rows(self, seq: usize, dtype: Dtype, numbers: &mut Numbers) -> Vec<f32> {
        numbers.take(self.batch * seq * self.width(), dtype)
    }

    /// One head's vector of a token.
    fn head(self, rows: &[f32], row: usize, head: usize) -> &[f32] {
        &rows[row * self.width() + self.first + head * self.head_dim..][..self.head_dim]
    }
}

/// Values of one call.
struct Inputs {
    shape: Shape,
    dtype: Dtype,
    scale: f32,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// `(heads, 2 * seq - 1)`.
    bias: Option<Vec<f32>>,
    score_bound: Option<f32>,
}

impl Inputs {
    fn new(shape: Shape, dtype: Dtype) -> Self {
        let mut numbers = Numbers::new(shape.seq_kv as u64);
        let [q, k, v] =
            [shape.seq_q, shape.seq_kv, shape.seq_kv].map(|seq| shape.rows(seq, dtype, &mut numbers));
        // Of uneven weights.
        let scale = 8.0 / (shape.head_dim as f32).sqrt();
        Self { shape, dtype, scale, q, k, v, bias: None, score_bound: None }
    }

    fn expected(&self) -> Vec<f64> {
        let Shape { batch, seq_q, heads, .. } = self.shape;
        let mut out = Vec::new();
        for row in 0..batch * seq_q {
            for head in 0..heads {
                out.extend(self.expected_head(row, head));
            }
        }
        out
    }

    fn expected_head(&self, row: usize, head: usize) -> Vec<f64> {
        let Shape { seq_q, seq_kv, .. } = self.shape;
        let (batch, query) = (row / seq_q, row % seq_q);
        let q = self.shape.head(&self.q, row, head);
        let scores: Vec<f64> = (0..seq_kv)
            .map(|key| {
                let k = self.shape.head(&self.k, batch * seq_kv + key, head);
                let score = dot(q, k) * f64::from(self.scale);
                let Some(bias) = &self.bias else { return score };
                let bias = bias[head * (2 * seq_q - 1) + seq_q - 1 + key - query];
                f64::from(rounded(rounded(score as f32, self.dtype) + bias, self.dtype))
            })
            .collect();
        let values = (0..seq_kv).map(|key| self.shape.head(&self.v, batch * seq_kv + key, head));
        weighted(&scores, values, |weight| {
            if self.bias.is_some() { f64::from(rounded(weight as f32, self.dtype)) } else { weight }
        })
    }

    fn found(&self, device: &Device) -> Result<Vec<f32>> {
        let Shape { batch, seq_q, seq_kv, heads, head_dim, first, .. } = self.shape;
        let tensor =
            |seq, values| Tensor::from_f32(device, &[batch, seq, self.shape.width()], self.dtype, values);
        let (q, k, v) = (tensor(seq_q, &self.q)?, tensor(seq_kv, &self.k)?, tensor(seq_kv, &self.v)?);
        let [q, k, v] = [&q, &k, &v].map(|tensor| Heads { tensor, first });
        let bias = match &self.bias {
            Some(bias) => Some(Tensor::from_slice(device, &[heads, 2 * seq_q - 1], bias)?),
            None => None,
        };
        let (bias, scale, score_bound) = (bias.as_ref(), self.scale, self.score_bound);
        Attention { q, k, v, heads, head_dim, scale, bias, score_bound }.forward()?.to_f32_vec()
    }

    fn outcome(&self, device: &Device) -> Result<Outcome> {
        // With a bias every step is rounded in the reference too, so that the result's own rounding is left.
        let halves_of_bias = self.bias.is_some() && self.dtype != Dtype::F32;
        let bound = if halves_of_bias { 1.01 * half_unit(self.dtype) } else { tolerance(self.dtype) };
        Ok(Outcome::relative(&self.found(device)?, &self.expected(), bound))
    }
}

/// The sum of values by the softmax of their scores, whose weights go through `round`.
pub(super) fn weighted<'a>(
    scores: &[f64],
    values: impl Iterator<Item = &'a [f32]>,
    round: impl Fn(f64) -> f64,
) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
    let mut out = Vec::new();
    for (score, v) in scores.iter().zip(values) {
        let weight = round((score - max).exp() / sum);
        out.resize(v.len(), 0.0);
        out.iter_mut().zip(v).for_each(|(out, v)| *out += weight * f64::from(*v));
    }
    out
}

/// Weights and result are each rounded once, and what values cancel counts relative to what is left of them. In f32
/// the scores, up to 20 here, are as far off as their last place, and the weights by that factor.
pub(super) fn tolerance(dtype: Dtype) -> f64 {
    if dtype == Dtype::F32 { 32.0 * half_unit(dtype) } else { 2.0 * half_unit(dtype) }
}

pub(super) fn add(cases: &mut Vec<Case>) {
    for dtype in FLOATS {
        plain(cases, dtype);
        biased(cases, dtype);
    }
    for dtype in [Dtype::F16, Dtype::Bf16] {
        tensor_core(cases, dtype);
        bounded(cases, dtype);
    }
}

fn plain(cases: &mut Vec<Case>, dtype: Dtype) {
    for shape in [
        Shape { batch: 2, seq_q: 17, seq_kv: 37, heads: 3, head_dim: 16, first: 5, spare: 8 },
        Shape { batch: 1, seq_q: 1, seq_kv: 1, heads: 1, head_dim: 1, first: 0, spare: 8 },
        Shape { batch: 1, seq_q: 3, seq_kv: 65, heads: 1, head_dim: 256, first: 0, spare: 8 },
        Shape { batch: 1, seq_q: 5, seq_kv: 32, heads: 2, head_dim: 35, first: 1, spare: 8 },
        // For NVIDIA's library alone.
        Shape { batch: 2, seq_q: 19, seq_kv: 133, heads: 1, head_dim: 128, first: 0, spare: 8 },
        // What tensor cores would take, but for where heads or rows begin.
        Shape { batch: 1, seq_q: 5, seq_kv: 7, heads: 2, head_dim: 64, first: 4, spare: 4 },
        Shape { batch: 1, seq_q: 5, seq_kv: 7, heads: 2, head_dim: 64, first: 0, spare: 4 },
    ] {
        let name = format!("attention plain {dtype} {}x{} of {}", shape.seq_q, shape.seq_kv, shape.head_dim);
        cases.push(Case::new(name, move |device| Inputs::new(shape, dtype).outcome(device)));
    }
}

fn biased(cases: &mut Vec<Case>, dtype: Dtype) {
    for (seq, head_dim) in [(9, 8), (35, 64)] {
        let shape = Shape { batch: 2, seq_q: seq, seq_kv: seq, heads: 2, head_dim, first: 0, spare: 8 };
        cases.push(Case::new(format!("attention biased {dtype} {seq} of {head_dim}"), move |device| {
            let mut inputs = Inputs::new(shape, dtype);
            inputs.scale = 1.0;
            inputs.bias =
                Some(Numbers::new(3).take(2 * (2 * seq - 1), dtype).iter().map(|x| 3.0 * x).collect());
            inputs.outcome(device)
        }));
    }
}

fn tensor_core(cases: &mut Vec<Case>, dtype: Dtype) {
    for shape in [
        Shape { batch: 1, seq_q: 131, seq_kv: 70, heads: 1, head_dim: 64, first: 0, spare: 8 },
        Shape { batch: 2, seq_q: 5, seq_kv: 129, heads: 2, head_dim: 64, first: 8, spare: 8 },
        Shape { batch: 1, seq_q: 64, seq_kv: 64, heads: 1, head_dim: 64, first: 0, spare: 8 },
        Shape { batch: 1, seq_q: 1, seq_kv: 1, heads: 3, head_dim: 64, first: 0, spare: 8 },
        // Lengths beyond the tiles of NVIDIA's library, which are no multiples of them.
        Shape { batch: 1, seq_q: 261, seq_kv: 261, heads: 1, head_dim: 64, first: 0, spare: 8 },
        Shape { batch: 1, seq_q: 40, seq_kv: 300, heads: 2, head_dim: 64, first: 8, spare: 0 },
    ] {
        let name = format!("attention tensor core {dtype} {}x{}", shape.seq_q, shape.seq_kv);
        cases.push(Case::new(name, move |device| Inputs::new(shape, dtype).outcome(device)));
    }
    cases.push(Case::new(format!("attention fused qkv {dtype}"), move |device| {
        let (batch, seq, heads, head_dim) = (2, 67, 2, 64);
        let width = 3 * heads * head_dim;
        let values = Numbers::new(9).take(batch * seq * width, dtype);
        let qkv = Tensor::from_f32(device, &[batch, seq, width], dtype, &values)?;
        let [q, k, v] = Heads::of_qkv(&qkv)?;
        let fused = Attention { q, k, v, heads, head_dim, scale: 1.0, bias: None, score_bound: None };
        let shape = Shape { batch, seq_q: seq, seq_kv: seq, heads, head_dim, first: 0, spare: 0 };
        let part = |part: usize| {
            let third = part * width / 3..(part + 1) * width / 3;
            values.chunks_exact(width).flat_map(|row| row[third.clone()].to_vec()).collect()
        };
        let (q, k, v) = (part(0), part(1), part(2));
        let inputs = Inputs { shape, dtype, scale: 1.0, q, k, v, bias: None, score_bound: None };
        Ok(Outcome::relative(&fused.forward()?.to_f32_vec()?, &inputs.expected(), tolerance(dtype)))
    }));
}

/// How keys lie to queries, which are one vector or its opposite.
#[derive(Clone, Copy, Debug)]
enum Keys {
    /// All that vector: a query's scores are all at one end of what the bound allows.
    AtTheEnds,
    /// Multiples of it, from its opposite on.
    Between,
    /// One is that vector, the others its opposite.
    AllButOne,
}

fn bounded(cases: &mut Vec<Case>, dtype: Dtype) {
    // Bounds of 5.12 and 34.03 are the largest of their kind that are used; 18 is too loose for f16, 288 for both.
    let largest = if dtype == Dtype::F16 { 0.8 } else { 2.0625 };
    for element in [0.25, largest, 1.5, 6.0] {
        for keys in [Keys::AtTheEnds, Keys::Between, Keys::AllButOne] {
            let bound = 8.0 * rounded(element, dtype).powi(2);
            let name = format!("attention bounded {dtype} by {bound:.2}, keys {keys:?}");
            cases.push(Case::new(name, move |device| bounded_inputs(dtype, element, keys).outcome(device)));
        }
    }
}

fn bounded_inputs(dtype: Dtype, element: f32, keys: Keys) -> Inputs {
    let shape = Shape { batch: 1, seq_q: 6, seq_kv: 75, heads: 1, head_dim: 64, first: 0, spare: 8 };
    let mut inputs = Inputs::new(shape, dtype);
    let mut numbers = Numbers::new(11);
    inputs.scale = 0.125;
    inputs.score_bound = Some(8.0 * rounded(element, dtype).powi(2));
    for (query, row) in inputs.q.chunks_exact_mut(shape.width()).enumerate() {
        row.fill(rounded(if query % 2 == 0 { element } else { -element }, dtype));
    }
    for (key, row) in inputs.k.chunks_exact_mut(shape.width()).enumerate() {
        let factor = match keys {
            Keys::AtTheEnds => 1.0,
            Keys::Between => numbers.next(),
            Keys::AllButOne => {
                if key == 70 {
                    1.0
                } else {
                    -1.0
                }
            }
        };
        row.fill(rounded(factor * element, dtype));
    }
    inputs
}
