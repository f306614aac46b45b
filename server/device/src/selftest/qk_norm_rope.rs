//! Norm and rotation against their steps in `f64`, rounded where PyTorch rounds, and the bound of scores they give.

use super::{Case, FLOATS, Numbers, Outcome, half_unit, rounded};
use crate::ops::qk_norm_rope::{QkNormRope, in_place, score_bound};
use crate::{Device, Dtype, Result, Tensor};

const EPS: f32 = 1e-6;
const BATCH: usize = 2;

#[derive(Clone, Copy, Debug)]
struct Shape {
    seq: usize,
    text_len: usize,
    heads: usize,
    head_dim: usize,
    rotary: bool,
}

/// Values of one call.
struct Inputs {
    shape: Shape,
    dtype: Dtype,
    qkv: Vec<f32>,
    /// Weight and bias of the queries' norm, then of the keys'.
    norms: [Vec<f32>; 4],
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Inputs {
    fn new(shape: Shape, dtype: Dtype) -> Self {
        let mut numbers = Numbers::new(shape.head_dim as u64);
        let qkv = numbers.take(BATCH * shape.seq * 3 * shape.heads * shape.head_dim, dtype);
        let norms = [0; 4].map(|_| numbers.take(shape.head_dim, dtype));
        let pairs = (shape.seq - shape.text_len) * shape.head_dim / 2;
        let angles: Vec<f32> = (0..pairs).map(|_| 3.0 * numbers.next()).collect();
        let twice = |f: fn(f32) -> f32| angles.iter().flat_map(|a| [f(*a), f(*a)]).collect();
        Self { shape, dtype, qkv, norms, cos: twice(f32::cos), sin: twice(f32::sin) }
    }

    fn round(&self, x: f64) -> f64 {
        f64::from(rounded(x as f32, self.dtype))
    }

    fn expected(&self) -> Vec<f64> {
        let Shape { seq, heads, head_dim, .. } = self.shape;
        let vectors = self.qkv.chunks_exact(head_dim).enumerate();
        let vectors = vectors.map(|(index, x)| match index / heads % 3 {
            2 => x.iter().map(|x| f64::from(*x)).collect(),
            part => self.rotated(self.normed(x, &self.norms[2 * part..]), index / (3 * heads) % seq),
        });
        vectors.collect::<Vec<Vec<f64>>>().concat()
    }

    fn normed(&self, x: &[f32], norm: &[Vec<f32>]) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        let std = (variance + f64::from(EPS)).sqrt();
        let affine = norm[0].iter().zip(&norm[1]);
        let normed = x.iter().zip(affine).map(|(x, (weight, bias))| {
            self.round((f64::from(*x) - mean) / std * f64::from(*weight) + f64::from(*bias))
        });
        normed.collect()
    }

    fn rotated(&self, mut x: Vec<f64>, token: usize) -> Vec<f64> {
        if self.shape.rotary && token >= self.shape.text_len {
            let begin = (token - self.shape.text_len) * x.len();
            for (i, pair) in x.chunks_exact_mut(2).enumerate() {
                let (cos, sin) = (f64::from(self.cos[begin + 2 * i]), f64::from(self.sin[begin + 2 * i]));
                let (a, b) = (pair[0], pair[1]);
                (pair[0], pair[1]) = (self.round(a * cos - b * sin), self.round(b * cos + a * sin));
            }
        }
        x
    }

    fn found(&self, device: &Device) -> Result<Vec<f32>> {
        let Shape { seq, text_len, heads, head_dim, rotary } = self.shape;
        let qkv = Tensor::from_f32(device, &[BATCH, seq, 3 * heads * head_dim], self.dtype, &self.qkv)?;
        let norm = |i: usize| Tensor::from_f32(device, &[head_dim], self.dtype, &self.norms[i]);
        let norms = [norm(0)?, norm(1)?, norm(2)?, norm(3)?];
        let tables = if rotary {
            let table = |values| Tensor::from_slice::<f32>(device, &[seq - text_len, head_dim], values);
            Some((table(&self.cos)?, table(&self.sin)?))
        } else {
            None
        };
        let op = QkNormRope {
            heads,
            head_dim,
            norm_q: (&norms[0], &norms[1]),
            norm_k: (&norms[2], &norms[3]),
            eps: EPS,
            rotary: tables.as_ref().map(|(cos, sin)| (cos, sin)),
            text_len,
        };
        in_place(&qkv, &op)?;
        qkv.to_f32_vec()
    }
}

pub(super) fn add(cases: &mut Vec<Case>) {
    for dtype in FLOATS {
        for shape in [
            Shape { seq: 7, text_len: 3, heads: 3, head_dim: 64, rotary: true },
            Shape { seq: 5, text_len: 5, heads: 1, head_dim: 64, rotary: true },
            Shape { seq: 5, text_len: 2, heads: 2, head_dim: 64, rotary: false },
            Shape { seq: 7, text_len: 3, heads: 3, head_dim: 16, rotary: true },
            Shape { seq: 3, text_len: 0, heads: 2, head_dim: 130, rotary: true },
            Shape { seq: 3, text_len: 1, heads: 5, head_dim: 7, rotary: false },
        ] {
            cases.push(Case::new(format!("qk_norm_rope {dtype} {shape:?}"), move |device| {
                let inputs = Inputs::new(shape, dtype);
                // In f32 by the order of sums; in halves what is rounded is so near that only the last step differs.
                let units = if dtype == Dtype::F32 { 16.0 } else { 1.01 };
                Ok(Outcome::relative(&inputs.found(device)?, &inputs.expected(), units * half_unit(dtype)))
            }));
        }
        cases.push(Case::new(format!("score bound {dtype}"), move |device| {
            scores_keep_their_bound(device, dtype)
        }));
    }
}

/// Scores come close to the bound and not beyond it: queries and keys that are one or its opposite, in norms of equal
/// weights, are as long as they can be.
fn scores_keep_their_bound(device: &Device, dtype: Dtype) -> Result<Outcome> {
    let head_dim = 64;
    let mut inputs = Inputs::new(Shape { seq: 4, text_len: 4, heads: 1, head_dim, rotary: false }, dtype);
    for (i, x) in inputs.qkv.iter_mut().enumerate() {
        *x = if i % 2 == 0 { 30.0 } else { -30.0 };
    }
    let [weight, zeros] = [vec![rounded(1.3, dtype); head_dim], vec![0.0; head_dim]];
    inputs.norms = [weight.clone(), zeros.clone(), weight, zeros];
    let [q, q_bias, k, k_bias] = &inputs.norms;
    let bound = f64::from(score_bound((q, q_bias), (k, k_bias)));
    let found = inputs.found(device)?;
    let (q, k) = found[..2 * head_dim].split_at(head_dim);
    let score = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() / 8.0;
    Ok(Outcome { error: (score / bound).max(0.97 * bound / score), bound: 1.0 })
}
