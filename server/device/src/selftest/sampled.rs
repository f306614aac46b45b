//! Attention, linear layers and convolutions at the sizes of a model, against references of some of their elements.
//!
//! What tiles, schedules and indices do at real sizes, no small case shows; a whole reference would take hours. Inputs
//! are drawn on the device, and of inputs and results only what a sample needs is read back.

use super::attention::{tolerance, weighted};
use super::conv::taps;
use super::linear::{activated, decoded, product_bound, read_back};
use super::{Case, Outcome, dot};
use crate::ops::attention::{Attention, Heads};
use crate::ops::conv::{Conv3d, Window};
use crate::ops::linear::{Activation, EightBit, Linear, Weight};
use crate::ops::random::normal;
use crate::{Device, Dtype, Result, Tensor};

/// Elements of a result that are compared, of each of its dimensions.
const SAMPLES: usize = 5;

/// The sizes of a model.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Prompts at once.
    pub batch: usize,
    /// Of one prompt and its video.
    pub tokens: usize,
    /// Of 64 elements each.
    pub heads: usize,
    /// Frames, rows and columns that the VAE's last and largest layers have at once.
    pub frames: [usize; 3],
    /// Of those layers.
    pub channels: usize,
}

impl Sizes {
    /// 5B at 720x480, the VAE two latent frames at a time.
    pub const COGVIDEOX_5B: Self =
        Self { batch: 2, tokens: 17_776, heads: 48, frames: [8, 480, 720], channels: 128 };
    /// For the emulator.
    pub const SMALL: Self = Self { batch: 2, tokens: 150, heads: 2, frames: [2, 9, 20], channels: 16 };
}

/// The cases at these sizes, in both half precisions.
pub fn sampled_cases(sizes: Sizes) -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [Dtype::F16, Dtype::Bf16] {
        // Scores without a bound, which reach further; and as of a model's norms, by 64 (6 std)^2 / 8: nothing that is
        // drawn is more than 6 deviations out.
        for (std, score_bound) in [(1.0, None), (0.1, Some(2.88))] {
            let name = format!("attention {dtype} {} tokens, bound {score_bound:?}", sizes.tokens);
            cases.push(Case::new(name, move |device| attention(device, sizes, dtype, std, score_bound)));
        }
        let inner = sizes.heads * 64;
        for kind in [None, Some(EightBit::Int8WeightOnly), Some(EightBit::Int8), Some(EightBit::Fp8)] {
            for (k, n, activation) in [
                (inner, 3 * inner, Activation::Identity),
                (inner, 4 * inner, Activation::GeluTanh),
                (4 * inner, inner, Activation::Identity),
            ] {
                let product = Product { dtype, size: [sizes.batch * sizes.tokens, n, k], kind, activation };
                let name = format!("linear {dtype} {kind:?} {:?} {activation:?}", product.size);
                cases.push(Case::new(name, move |device| product.compare(device)));
            }
        }
        for outs in [sizes.channels, 3] {
            let name = format!("conv {dtype} {} to {outs} on {:?}", sizes.channels, sizes.frames);
            cases.push(Case::new(name, move |device| convolution(device, sizes, outs, dtype)));
        }
    }
    cases
}

/// From the first to the last of `n`, at uneven distances.
fn samples(n: usize) -> impl Iterator<Item = usize> + Clone {
    (0..SAMPLES).map(move |i| (n - 1) * i * i / (SAMPLES - 1).pow(2))
}

/// `count` elements of a tensor from `first` on, in order of memory.
fn elements(tensor: &Tensor, first: usize, count: usize) -> Result<Vec<f32>> {
    tensor.view(first * tensor.dtype().bytes(), &[count], tensor.dtype())?.to_f32_vec()
}

fn widened(values: Vec<f32>) -> Vec<f64> {
    values.into_iter().map(f64::from).collect()
}

fn attention(
    device: &Device,
    sizes: Sizes,
    dtype: Dtype,
    std: f32,
    score_bound: Option<f32>,
) -> Result<Outcome> {
    let Sizes { batch, tokens, heads, .. } = sizes;
    let (head_dim, width) = (64, 3 * 64 * heads);
    let qkv = normal(device, &[batch, tokens, width], dtype, std, 1)?;
    let [q, k, v] = Heads::of_qkv(&qkv)?;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let out = Attention { q, k, v, heads, head_dim, scale, bias: None, score_bound }.forward()?;
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for sample in 0..batch {
        let rows = qkv.slice(sample, 1)?.to_f32_vec()?;
        for head in samples(heads) {
            let vectors = |part: usize| {
                let first = (part * heads + head) * head_dim;
                rows.chunks_exact(width).map(move |row| &row[first..][..head_dim])
            };
            for query in samples(tokens) {
                let q = &rows[query * width + head * head_dim..][..head_dim];
                let scores: Vec<f64> = vectors(1).map(|k| dot(q, k) * f64::from(scale)).collect();
                expected.extend(weighted(&scores, vectors(2), |weight| weight));
                let first = (sample * tokens + query) * heads + head;
                found.extend(elements(&out, first * head_dim, head_dim)?);
            }
        }
    }
    Ok(Outcome::relative(&found, &expected, tolerance(dtype)))
}

#[derive(Clone, Copy)]
struct Product {
    dtype: Dtype,
    /// Rows, outputs, inputs.
    size: [usize; 3],
    kind: Option<EightBit>,
    activation: Activation,
}

impl Product {
    fn compare(self, device: &Device) -> Result<Outcome> {
        let Self { dtype, size: [m, n, k], kind, activation } = self;
        let bias = normal(device, &[n], dtype, 1.0, 2)?;
        let mut layer = Linear::dense(normal(device, &[n, k], dtype, 1.0, 3)?, Some(bias.clone()))?;
        if let Some(kind) = kind {
            layer = layer.to_8bit(kind)?;
        }
        let x = normal(device, &[m, k], dtype, 1.0, 4)?;
        let out = layer.forward(&x, activation)?;
        let columns =
            samples(n).map(|column| Ok((column, weight_row(&layer, column)?, elements(&bias, column, 1)?)));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for row in samples(m) {
            let x = match kind {
                Some(EightBit::Int8 | EightBit::Fp8) => read_back(&x.slice(row, 1)?, kind)?,
                _ => widened(x.slice(row, 1)?.to_f32_vec()?),
            };
            for (column, weight, bias) in &columns {
                expected.push(activated(dot(&x, weight) + f64::from(bias[0]), activation, dtype));
                found.extend(elements(&out, row * n + column, 1)?);
            }
        }
        Ok(Outcome::relative(&found, &expected, product_bound(dtype, k, kind)))
    }
}

/// The numbers that an output's weights stand for.
fn weight_row(layer: &Linear, row: usize) -> Result<Vec<f64>> {
    match layer.weight() {
        Weight::Dense(weight) => Ok(widened(weight.slice(row, 1)?.to_f32_vec()?)),
        Weight::Int8WeightOnly { values, scales }
        | Weight::Int8 { values, scales }
        | Weight::Fp8 { values, scales } => {
            decoded(&values.slice(row, 1)?, &scales.slice(row, 1)?, layer.in_features())
        }
    }
}

fn convolution(device: &Device, sizes: Sizes, outs: usize, dtype: Dtype) -> Result<Outcome> {
    let Sizes { frames: [frames, height, width], channels, .. } = sizes;
    // Two frames of those before: the kernel reaches back.
    let input = normal(device, &[frames + 2, height, width, channels], dtype, 1.0, 5)?;
    let weight = normal(device, &[outs, 3, 3, 3, channels], dtype, 1.0, 6)?;
    let bias = normal(device, &[outs], dtype, 1.0, 7)?;
    let out = Conv3d::new(weight.clone(), Some(bias.clone()))?.forward(&input, Window::SAME, None)?;
    let (weight, bias) = (elements(&weight, 0, weight.len())?, elements(&bias, 0, outs)?);
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for (frame, row, column) in samples(frames)
        .zip(samples(height))
        .flat_map(|(frame, row)| samples(width).map(move |column| (frame, row, column)))
    {
        let mut sums = widened(bias.clone());
        for (tap, at) in taps([3; 3], Window::SAME, [height, width], [frame, row, column]) {
            let pixel = elements(&input, at * channels, channels)?;
            for (sum, weight) in sums.iter_mut().zip(weight.chunks_exact(27 * channels)) {
                *sum += dot(&pixel, &weight[tap * channels..][..channels]);
            }
        }
        expected.extend(sums);
        let first = ((frame * height + row) * width + column) * outs;
        found.extend(elements(&out, first, outs)?);
    }
    Ok(Outcome::relative(&found, &expected, product_bound(dtype, 27 * channels, None)))
}
