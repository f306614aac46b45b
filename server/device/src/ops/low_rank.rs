//! What an adapter adds to a linear layer: `y += up (down x)`, two thin products beside the layer's own.
//!
//! The layer's weight stays as it is, in whatever form, and wherever it comes from; several adapters of a layer are one
//! of a larger rank. Relies on the products of [`super::matmul`]; must not know layers.

use super::epilogue::Activation;
use super::gemm::Product;
use super::matmul;
use crate::{Device, Dtype, Error, Result, Tensor};

const OP: &str = "low rank";
/// Ranks are filled up with zeros to rows of whole chunks of 16 bytes, which tensor cores and libraries ask for.
const RANK_MULTIPLE: usize = 8;

/// A matrix of low rank as the product of two.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// `[rank, in_features]`.
    down: Tensor,
    /// `[out_features, rank]`.
    up: Tensor,
}

impl LowRank {
    /// From `down`, `(rank, in_features)`, and `up`, `(out_features, rank)`, rounded to `dtype`, which is one of f32, f16
    /// and bf16.
    ///
    /// # Errors
    /// [`Error::Shape`] if they are no two such matrices; [`Error::OutOfMemory`].
    pub fn from_f32(device: &Device, dtype: Dtype, rank: usize, [down, up]: [&[f32]; 2]) -> Result<Self> {
        let whole = |values: &[f32]| rank > 0 && !values.is_empty() && values.len().is_multiple_of(rank);
        if !whole(down) || !whole(up) {
            let message = format!("{} and {} elements are no matrices of rank {rank}", down.len(), up.len());
            return Err(Error::shape(OP, message));
        }
        let (inputs, outputs) = (down.len() / rank, up.len() / rank);
        let padded = rank.next_multiple_of(RANK_MULTIPLE);
        let mut rows = down.to_vec();
        rows.resize(padded * inputs, 0.0);
        let mut columns = vec![0.0; outputs * padded];
        for (to, from) in columns.chunks_mut(padded).zip(up.chunks(rank)) {
            to[..rank].copy_from_slice(from);
        }
        Ok(Self {
            down: Tensor::from_f32(device, &[padded, inputs], dtype, &rows)?,
            up: Tensor::from_f32(device, &[outputs, padded], dtype, &columns)?,
        })
    }

    /// `y <- activation(y + up (down x))` for x of `[.., in_features]` and y of `[.., out_features]`, all of one dtype;
    /// `down x` is rounded to it.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::OutOfMemory`].
    pub fn add_to(&self, x: &Tensor, activation: Activation, y: &Tensor) -> Result<()> {
        let mut dims = x.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.down.dims()[0];
        }
        let hidden = Tensor::empty(x.device(), &dims, x.dtype())?;
        let down = Product {
            x,
            weight: &self.down,
            bias: None,
            row_scales: None,
            column_scales: None,
            accumulate: false,
            activation: Activation::Identity,
            out: &hidden,
        };
        matmul::run(&down)?;
        matmul::run(&Product { x: &hidden, weight: &self.up, accumulate: true, activation, out: y, ..down })
    }
}
