//! Scaled dot-product attention without a mask, forward only.
//!
//! As cuDNN's one operation, and where it has no engine for that, as the nine operations that it fuses into the same
//! kernels. Relies on [`super::builder`]; must not know where queries, keys and values come from.

use super::builder::{ALIGNMENT_BYTES, Builder, TensorId, packed_strides};
use super::graph::{Graph, Operand, Search};
use super::{Engine, Notes, Target, sys};
use crate::{Dtype, Error, Result};

/// `o = softmax(scale q k^T) v` for each head. Strides are in elements, for batch, head, position and element of a head.
#[derive(Clone, Debug, PartialEq)]
pub struct SdpaGraph {
    /// Sequences.
    pub batch: usize,
    /// Of queries, keys and values alike.
    pub heads: usize,
    /// Queries of a sequence.
    pub seq_q: usize,
    /// Keys of a sequence.
    pub seq_kv: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Of all four tensors: f16 or bf16.
    pub dtype: Dtype,
    /// What the products are multiplied by.
    pub scale: f32,
    /// Of `[batch, heads, seq_q, head_dim]`.
    pub q_strides: [usize; 4],
    /// Of `[batch, heads, seq_kv, head_dim]`.
    pub k_strides: [usize; 4],
    /// Of `[batch, heads, seq_kv, head_dim]`.
    pub v_strides: [usize; 4],
    /// Of `[batch, heads, seq_q, head_dim]`.
    pub o_strides: [usize; 4],
}

/// The id of the number that the scores are multiplied by.
const SCALE: i64 = 5;

/// Strides of each third of queries, keys and values that lie as `[batch, seq, 3, heads, head_dim]`.
pub fn fused_qkv_strides(seq: usize, heads: usize, head_dim: usize) -> [usize; 4] {
    [seq * 3 * heads * head_dim, head_dim, 3 * heads * head_dim, 1]
}

/// Strides of `[batch, seq, heads, head_dim]`.
pub fn bshd_strides(seq: usize, heads: usize, head_dim: usize) -> [usize; 4] {
    [seq * heads * head_dim, head_dim, heads * head_dim, 1]
}

impl SdpaGraph {
    /// The queries' id in an execution.
    pub const Q: i64 = 1;
    /// The keys' id.
    pub const K: i64 = 2;
    /// The values' id.
    pub const V: i64 = 3;
    /// The output's id.
    pub const O: i64 = 4;

    /// The engines for it on this target, best first. All give the same bytes each time.
    ///
    /// # Errors
    /// [`Error::Shape`] for sizes or strides that it cannot have, [`Error::Unsupported`] if cuDNN has no engine.
    pub fn engines(&self, target: &Target<'_>) -> Result<Vec<Engine>> {
        self.check()?;
        let unified = self.unified(target).and_then(|graph| propose(&graph, target));
        match unified {
            Ok(engines) if !engines.is_empty() => Ok(engines),
            Err(error) if error.is_of_device() => Err(error),
            _ => self.composite_engines(target),
        }
    }

    /// As [`Self::engines`], for the graph of nine operations, which older versions and other shapes may need.
    ///
    /// # Errors
    /// As there.
    pub fn composite_engines(&self, target: &Target<'_>) -> Result<Vec<Engine>> {
        self.check()?;
        let engines = propose(&self.composite(target)?, target)?;
        if engines.is_empty() {
            return Err(Error::Unsupported {
                call: "cuDNN",
                message: format!(
                    "no engine for attention of {} over {} heads of {}, {} x {} positions, on this GPU",
                    self.dtype, self.heads, self.head_dim, self.seq_q, self.seq_kv
                ),
            });
        }
        Ok(engines)
    }

    /// cuDNN takes addresses and strides that its kernels then fault on or answer wrongly for.
    fn check(&self) -> Result<()> {
        let shape = |message: String| Err(Error::shape("sdpa", message));
        if !matches!(self.dtype, Dtype::F16 | Dtype::Bf16) {
            return shape(format!("expected f16 or bf16, found {}", self.dtype));
        }
        let sizes = [self.batch, self.heads, self.seq_q, self.seq_kv, self.head_dim];
        if sizes.contains(&0) {
            return shape(format!("expected sizes of at least 1, found {sizes:?}"));
        }
        for Operand { name, dims, strides, .. } in self.operands() {
            if strides[3] != 1 {
                return shape(format!("{name}: expected an innermost stride of 1, found {strides:?}"));
            }
            let unaligned = |(dim, stride): (&i64, &i64)| {
                *dim > 1 && (*stride == 0 || stride * self.dtype.bytes() as i64 % ALIGNMENT_BYTES as i64 != 0)
            };
            if dims[..3].iter().zip(&strides[..3]).any(unaligned) {
                return shape(format!(
                    "{name}: expected strides of whole {ALIGNMENT_BYTES} bytes, found {strides:?}"
                ));
            }
        }
        Ok(())
    }

    /// q, k, v and o.
    fn operands(&self) -> [Operand; 4] {
        let operand = |id, name, seq: usize, strides: [usize; 4]| Operand {
            id,
            name,
            dtype: self.dtype,
            dims: [self.batch, self.heads, seq, self.head_dim].map(|dim| dim as i64).to_vec(),
            strides: strides.map(|stride| stride as i64).to_vec(),
        };
        [
            operand(Self::Q, "q", self.seq_q, self.q_strides),
            operand(Self::K, "k", self.seq_kv, self.k_strides),
            operand(Self::V, "v", self.seq_kv, self.v_strides),
            operand(Self::O, "o", self.seq_q, self.o_strides),
        ]
    }

    fn unified(&self, target: &Target<'_>) -> Result<Graph> {
        let mut builder = Builder::new(target);
        let [q, k, v, o] = self.operands();
        let tensors = [builder.operand(q)?, builder.operand(k)?, builder.operand(v)?, builder.operand(o)?];
        let scale = builder.constant(SCALE, self.scale)?;
        builder.sdpa(tensors, scale)?;
        builder.finish("sdpa")
    }

    /// The engines recognise exactly these nine operations. The logarithm of the sum has no reader, and must be there.
    fn composite(&self, target: &Target<'_>) -> Result<Graph> {
        let mut builder = Builder::new(target);
        let [q, mut k, v, o] = self.operands();
        k.dims.swap(2, 3);
        k.strides.swap(2, 3);
        let [q, k_transposed, v, o] =
            [builder.operand(q)?, builder.operand(k)?, builder.operand(v)?, builder.operand(o)?];
        let scale = builder.constant(SCALE, self.scale)?;

        let products = self.scores(&mut builder)?;
        builder.matmul(q, k_transposed, products)?;
        let scaled = self.scores(&mut builder)?;
        builder.pointwise(sys::POINTWISE_MUL, products, Some(scale), scaled)?;
        let largest = self.row_values(&mut builder)?;
        builder.reduction(sys::REDUCE_TENSOR_MAX, scaled, largest)?;
        let shifted = self.scores(&mut builder)?;
        builder.pointwise(sys::POINTWISE_SUB, scaled, Some(largest), shifted)?;
        let exponentials = self.scores(&mut builder)?;
        builder.pointwise(sys::POINTWISE_EXP, shifted, None, exponentials)?;
        let sums = self.row_values(&mut builder)?;
        builder.reduction(sys::REDUCE_TENSOR_ADD, exponentials, sums)?;
        let logarithms = self.row_values(&mut builder)?;
        builder.pointwise(sys::POINTWISE_LOG, sums, None, logarithms)?;
        let statistics = self.row_values(&mut builder)?;
        builder.pointwise(sys::POINTWISE_ADD, largest, Some(logarithms), statistics)?;
        let dims = self.score_dims(self.seq_kv);
        let weights = builder.intermediate(self.dtype, &dims, &packed_strides(&dims))?;
        builder.pointwise(sys::POINTWISE_DIV, exponentials, Some(sums), weights)?;
        builder.matmul(weights, v, o)?;
        builder.finish("composite sdpa")
    }

    fn score_dims(&self, columns: usize) -> [i64; 4] {
        [self.batch, self.heads, self.seq_q, columns].map(|dim| dim as i64)
    }

    /// One number for each query and key.
    fn scores(&self, builder: &mut Builder<'_>) -> Result<TensorId> {
        let dims = self.score_dims(self.seq_kv);
        builder.intermediate(Dtype::F32, &dims, &packed_strides(&dims))
    }

    /// One number for each query.
    fn row_values(&self, builder: &mut Builder<'_>) -> Result<TensorId> {
        let dims = self.score_dims(1);
        builder.intermediate(Dtype::F32, &dims, &packed_strides(&dims))
    }
}

/// There is no fallback search for attention: it finds nothing in any version.
fn propose(graph: &Graph, target: &Target<'_>) -> Result<Vec<Engine>> {
    graph.engines(target, Search::Proposed, Notes::UNWANTED)
}
