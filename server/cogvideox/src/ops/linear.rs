//! `y = x W^T + b`, the transformer's and the text encoder's main work.
//!
//! On a CPU the product runs on the `gemm` crate, a block of rows per task, so that the bias and the activation are
//! applied while the block is still in the cache. Half-precision weights are widened for the product and the result
//! is rounded once, after the bias, as PyTorch's CPU kernels do. Knows shapes, not layers.

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use super::{Rounding, from_f32, vector, with_f32};
use crate::weights::WeightScope;

/// Rows below which the product is not split into row blocks: it is bound by reading the weights.
const MIN_BLOCK_ROWS: usize = 64;
/// Rows of a block at most. Every block packs the whole weight anew, so blocks are as large as the threads allow.
const MAX_BLOCK_ROWS: usize = 1024;

/// What is applied to the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// Nothing.
    Identity,
    /// GELU by tanh.
    GeluTanh,
}

/// A dense layer; the weight is `(out_features, in_features)`.
#[derive(Clone)]
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Reads `weight`, and `bias` if wanted, below `scope`.
    pub(crate) fn load(
        scope: &WeightScope<'_>,
        in_features: usize,
        out_features: usize,
        bias: bool,
    ) -> crate::Result<Self> {
        let weight = scope.tensor("weight", &[out_features, in_features])?;
        let bias = if bias { Some(scope.tensor("bias", &[out_features])?) } else { None };
        Ok(Self { weight, bias })
    }

    /// From tensors at hand: `(out_features, in_features)` and `(out_features)`.
    pub(crate) fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// Several layers of the same input as one, their outputs side by side.
    pub(crate) fn concat(layers: &[Self]) -> Result<Self> {
        let weights: Vec<&Tensor> = layers.iter().map(|l| &l.weight).collect();
        let biases: Option<Vec<&Tensor>> = layers.iter().map(|l| l.bias.as_ref()).collect();
        let bias = biases.map(|b| Tensor::cat(&b, 0)).transpose()?;
        Ok(Self { weight: Tensor::cat(&weights, 0)?, bias })
    }

    /// The layer with `deltas` added to its weight, in `f32` and rounded once. The weight's rows are as many equal
    /// parts as there are deltas (more than one for layers from [`Self::concat`]); this layer stays as it is.
    pub(crate) fn merged(&self, deltas: &[Option<Tensor>]) -> Result<Self> {
        let rows = self.weight.dim(0)? / deltas.len();
        let parts = deltas.iter().enumerate().map(|(i, delta)| {
            let part = self.weight.narrow(0, i * rows, rows)?;
            match delta {
                Some(delta) => (part.to_dtype(DType::F32)? + delta)?.to_dtype(part.dtype()),
                None => Ok(part),
            }
        });
        let weight = Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?;
        Ok(Self { weight, bias: self.bias.clone() })
    }

    /// `(.., in_features)` to `(.., out_features)` in the weight's dtype.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_with(x, Activation::Identity)
    }

    /// As [`Self::forward`], followed by `activation`.
    pub(crate) fn forward_with(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let (out_features, in_features) = self.weight.dims2()?;
        let mut shape = x.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == in_features => *last = out_features,
            _ => candle_core::bail!("linear expects {in_features} features, found {:?}", x.dims()),
        }
        let dtype = self.weight.dtype();
        let bias = match &self.bias {
            Some(bias) => bias.to_dtype(DType::F32)?.to_vec1::<f32>()?,
            None => vec![0.0; out_features],
        };
        let job = Job { in_features, out_features, bias, activation, rounding: Rounding::of(dtype)? };
        let out = with_f32(x, |x| with_f32(&self.weight, |weight| Ok(job.run(x, weight))))?;
        from_f32(out, &shape, dtype)
    }
}

struct Job {
    in_features: usize,
    out_features: usize,
    bias: Vec<f32>,
    activation: Activation,
    rounding: Rounding,
}

impl Job {
    fn run(&self, x: &[f32], weight: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.in_features;
        let mut out = vec![0.0; rows * self.out_features];
        if rows < 2 * MIN_BLOCK_ROWS {
            self.product(x, weight, &mut out, gemm::Parallelism::Rayon(0));
            self.finish(&mut out);
            return out;
        }
        let block = rows.div_ceil(rayon::current_num_threads()).clamp(MIN_BLOCK_ROWS, MAX_BLOCK_ROWS);
        out.par_chunks_mut(block * self.out_features).zip(x.par_chunks(block * self.in_features)).for_each(
            |(out, x)| {
                self.product(x, weight, out, gemm::Parallelism::None);
                self.finish(out);
            },
        );
        out
    }

    fn product(&self, x: &[f32], weight: &[f32], out: &mut [f32], parallelism: gemm::Parallelism) {
        let (k, n) = (self.in_features, self.out_features);
        let weight = MatrixRef { data: weight, row_stride: 1, column_stride: k };
        let x = MatrixRef { data: x, row_stride: k, column_stride: 1 };
        product(Product { m: out.len() / n, n, k, scale: 1.0, add: false, parallelism }, x, weight, out);
    }

    /// Bias, the rounding of the product, activation and its rounding (by the caller's cast).
    fn finish(&self, out: &mut [f32]) {
        vector::dispatch(
            #[inline(always)]
            || {
                for row in out.chunks_exact_mut(self.out_features) {
                    match (self.activation, self.rounding) {
                        (Activation::Identity, _) => {
                            for (y, b) in row.iter_mut().zip(&self.bias) {
                                *y += b;
                            }
                        }
                        (Activation::GeluTanh, Rounding::None) => {
                            row.iter_mut().zip(&self.bias).for_each(|(y, b)| *y = vector::gelu_tanh(*y + b));
                        }
                        (Activation::GeluTanh, rounding) => row
                            .iter_mut()
                            .zip(&self.bias)
                            .for_each(|(y, b)| *y = vector::gelu_tanh(rounding.round(*y + b))),
                    }
                }
            },
        );
    }
}

/// A matrix inside a slice, by its strides in elements.
#[derive(Clone, Copy)]
pub(crate) struct MatrixRef<'a> {
    /// From the first element on.
    pub(crate) data: &'a [f32],
    /// From one row to the next.
    pub(crate) row_stride: usize,
    /// From one column to the next.
    pub(crate) column_stride: usize,
}

impl MatrixRef<'_> {
    fn assert_holds(&self, rows: usize, columns: usize) {
        let last = (rows.max(1) - 1) * self.row_stride + (columns.max(1) - 1) * self.column_stride;
        assert!(last < self.data.len() || rows * columns == 0, "matrix of {rows}x{columns} leaves its slice");
    }
}

/// Size and manner of [`product`].
#[derive(Clone, Copy)]
pub(crate) struct Product {
    /// Rows of the left matrix and of the result.
    pub(crate) m: usize,
    /// Columns of the right matrix and of the result.
    pub(crate) n: usize,
    /// Columns of the left matrix, rows of the right one.
    pub(crate) k: usize,
    /// Multiplies the product.
    pub(crate) scale: f32,
    /// Whether the product is added to what `out` holds.
    pub(crate) add: bool,
    /// Threads.
    pub(crate) parallelism: gemm::Parallelism,
}

/// `out = scale * left * right (+ out)`, `out` being row-major `(m, n)`.
///
/// # Panics
/// When a slice is too short for its matrix.
pub(crate) fn product(p: Product, left: MatrixRef<'_>, right: MatrixRef<'_>, out: &mut [f32]) {
    left.assert_holds(p.m, p.k);
    right.assert_holds(p.k, p.n);
    assert_eq!(out.len(), p.m * p.n, "the result is (m, n)");
    #[expect(unsafe_code, reason = "gemm takes raw pointers")]
    // SAFETY: the three matrices lie inside their slices (asserted above), and `out` is borrowed mutably, so it
    // overlaps neither input.
    unsafe {
        gemm::gemm(
            p.m,
            p.n,
            p.k,
            out.as_mut_ptr(),
            1,
            p.n as isize,
            p.add,
            left.data.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0_f32,
            p.scale,
            false,
            false,
            false,
            p.parallelism,
        );
    }
}
