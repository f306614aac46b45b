//! `ops::linear` with an adapter beside a layer of any kind, which adds two products before the activation.

use super::elementwise::gelu_tanh_f64;
use super::{Case, FLOATS, Numbers, Outcome, half_unit, rounded};
use crate::ops::linear::{Activation, EightBit, Linear, LowRank};
use crate::{Device, Dtype, Result, Tensor};

/// Rows, outputs, inputs and rank: odd, for the plain kernels; of whole chunks, in one tile and in several.
const SIZES: [[usize; 4]; 4] = [[3, 7, 5, 1], [67, 66, 21, 9], [70, 24, 48, 3], [130, 136, 208, 40]];

pub(super) fn add(cases: &mut Vec<Case>) {
    for dtype in FLOATS {
        for size in SIZES {
            for kind in [None, Some(EightBit::Int8), Some(EightBit::Fp8)] {
                for activation in [Activation::Identity, Activation::GeluTanh] {
                    let name = format!("low rank {dtype} {kind:?} {size:?} {activation:?}");
                    let adapted = Adapted { dtype, size, kind, activation };
                    cases.push(Case::new(name, move |device| adapted.compare(device)));
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Adapted {
    dtype: Dtype,
    size: [usize; 4],
    kind: Option<EightBit>,
    activation: Activation,
}

impl Adapted {
    fn compare(self, device: &Device) -> Result<Outcome> {
        let Self { dtype, size: [m, n, k, rank], kind, activation } = self;
        let mut numbers = Numbers::new((m * n + k + rank) as u64);
        let mut take = |len| numbers.take(len, dtype);
        let (x, down, up) = (take(m * k), take(rank * k), take(n * rank));
        let (weight, bias) = (take(n * k), take(n));
        let tensor = |dims: &[usize], values: &[f32]| Tensor::from_f32(device, dims, dtype, values);
        let mut layer = Linear::dense(tensor(&[n, k], &weight)?, Some(tensor(&[n], &bias)?))?;
        if let Some(kind) = kind {
            layer = layer.to_8bit(kind)?;
        }
        let low_rank = LowRank::from_f32(device, dtype, rank, [&down, &up])?;
        let x_tensor = tensor(&[m, k], &x)?;
        // The layer alone has cases of its own.
        let plain = layer.forward(&x_tensor, Activation::Identity)?.to_f32_vec()?;
        // Behind a row of another tensor, where nothing may be written.
        let all = Tensor::zeros(device, &[m + 1, n], dtype)?;
        let out = all.slice(1, m)?;
        layer.adapted_into(&x_tensor, Some(&low_rank), activation, &out)?;
        let hidden: Vec<f64> = (0..m * rank)
            .map(|i| {
                let sum = dot(&x[i / rank * k..][..k], &down[i % rank * k..][..k]);
                f64::from(rounded(sum as f32, dtype))
            })
            .collect();
        let expected: Vec<f64> = (0..m * n)
            .map(|i| {
                let row = &hidden[i / n * rank..][..rank];
                let added: f64 =
                    row.iter().zip(&up[i % n * rank..][..rank]).map(|(h, u)| h * f64::from(*u)).sum();
                let sum = f64::from(plain[i]) + added;
                match activation {
                    Activation::Identity => sum,
                    Activation::GeluTanh => gelu_tanh_f64(f64::from(rounded(sum as f32, dtype))),
                }
            })
            .collect();
        // As of a layer alone; and a hidden value may fall to the other side of its rounding.
        let bound = 4.2 * half_unit(dtype) + (k + rank) as f64 * half_unit(Dtype::F32);
        let found = Outcome::relative(&out.to_f32_vec()?, &expected, bound);
        let touched = all.slice(0, 1)?.to_f32_vec()?.iter().any(|x| *x != 0.0);
        Ok(if touched { Outcome { error: f64::INFINITY, bound } } else { found })
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
