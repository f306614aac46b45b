//! What CogVideoX does to queries and keys before they meet: LayerNorm over each head, then rotary positions.
//!
//! Both are rounded, as in PyTorch. Knows the fused `qkv` and that text stands before video; knows no weights.

use crate::launch::{FloatKernels, Global, Launch, float_kernels, kernel_args};
use crate::{Dtype, Error, Result, Tensor};

const OP: &str = "qk_norm_rope";
const PLAIN: FloatKernels = float_kernels!("qk_norm_rope");
/// The kernel for heads of 64, with fewer lanes to each and vectors of 16 bytes.
const EIGHTS: FloatKernels = float_kernels!("qk_norm_rope_64");
const EIGHTS_HEAD_DIM: usize = 64;
const THREADS: u32 = 256;

kernel_args! {
    struct NormArgs {
        weight: Global,
        bias: Global,
    }
    struct QkNormRopeArgs {
        qkv: Global,
        q: NormArgs,
        k: NormArgs,
        cos: Global,
        sin: Global,
        items: u32,
        seq: u32,
        heads: u32,
        head_dim: u32,
        text_len: u32,
        eps: f32,
    }
}

/// Norms and positions of one attention.
#[derive(Clone, Copy, Debug)]
pub struct QkNormRope<'a> {
    /// Of queries, and as many of keys.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// The queries' LayerNorm: weight and bias, `(head_dim)` each, in the dtype of `qkv`.
    pub norm_q: (&'a Tensor, &'a Tensor),
    /// The keys'.
    pub norm_k: (&'a Tensor, &'a Tensor),
    /// Added to variances.
    pub eps: f32,
    /// Cosines and sines of the video tokens' positions, f32 `(s - text_len, head_dim)` each, every value twice.
    pub rotary: Option<(&'a Tensor, &'a Tensor)>,
    /// Tokens of text before the video's.
    pub text_len: usize,
}

/// Normalises and rotates the queries and keys in `qkv`, `(b, s, 3 * heads * head_dim)`, and leaves the values alone.
///
/// # Errors
/// [`Error::Shape`] for tensors that do not fit together, or an odd `head_dim` with positions.
pub fn in_place(qkv: &Tensor, op: &QkNormRope<'_>) -> Result<()> {
    let [batch, seq, width] = qkv.dims_n(OP)?;
    if width != 3 * op.heads * op.head_dim {
        let expected = format!("expected 3 x {} heads of {}", op.heads, op.head_dim);
        return Err(Error::shape(OP, format!("{expected}, found {width} elements")));
    }
    let norms = [op.norm_q.0, op.norm_q.1, op.norm_k.0, op.norm_k.1];
    for norm in norms {
        expect(qkv, norm, qkv.dtype(), &[op.head_dim])?;
    }
    if let Some((cos, sin)) = op.rotary {
        for table in [cos, sin] {
            expect(qkv, table, Dtype::F32, &[seq.saturating_sub(op.text_len), op.head_dim])?;
        }
        if !op.head_dim.is_multiple_of(2) {
            return Err(Error::shape(OP, format!("positions turn pairs, found heads of {}", op.head_dim)));
        }
    }
    let aligned = |tensor: &Tensor| tensor.address().is_multiple_of(16);
    let tables = op.rotary.map_or([qkv; 2], |(cos, sin)| [cos, sin]);
    let fast = op.head_dim == EIGHTS_HEAD_DIM && norms.into_iter().chain(tables).chain([qkv]).all(aligned);
    let (kernels, lanes) = if fast { (EIGHTS, EIGHTS_HEAD_DIM / 8) } else { (PLAIN, 32) };
    let norm = |(weight, bias): (&Tensor, &Tensor)| NormArgs { weight: weight.global(), bias: bias.global() };
    let items = batch * seq * op.heads;
    let too_many = |_| Error::shape(OP, format!("expected fewer than 2^32 heads of tokens, found {items}"));
    let args = QkNormRopeArgs {
        qkv: qkv.global(),
        q: norm(op.norm_q),
        k: norm(op.norm_k),
        cos: op.rotary.map_or(Global::ABSENT, |(cos, _)| cos.global()),
        sin: op.rotary.map_or(Global::ABSENT, |(_, sin)| sin.global()),
        items: u32::try_from(items).map_err(too_many)?,
        seq: seq as u32,
        heads: op.heads as u32,
        head_dim: op.head_dim as u32,
        text_len: op.text_len as u32,
        eps: op.eps,
    };
    qkv.device().launch(&Launch::over(kernels.of(OP, qkv.dtype())?, items * lanes, THREADS), &args)
}

fn expect(qkv: &Tensor, tensor: &Tensor, dtype: Dtype, dims: &[usize]) -> Result<()> {
    if tensor.dims() != dims || tensor.dtype() != dtype {
        let found = format!("{} {:?}", tensor.dtype(), tensor.dims());
        return Err(Error::shape(OP, format!("expected {dtype} {dims:?}, found {found}")));
    }
    qkv.device().expect_same(OP, tensor.device())
}

/// What no `|q k| / sqrt(head_dim)` of normalised queries and keys exceeds, whatever they were before, from weight and
/// bias of the two norms, `head_dim` elements each.
///
/// A normalised vector is no longer than `sqrt(head_dim)`, so that with weight and bias it is at most
/// `sqrt(head_dim) * max |weight| + |bias|` long; rotation keeps lengths, and a product is at most that of the lengths.
pub fn score_bound(norm_q: (&[f32], &[f32]), norm_k: (&[f32], &[f32])) -> f32 {
    // Norm and rotation of both are rounded, in bf16 by up to 2^-8 of an element: (1 + 2^-8)^4.
    const ROUNDING: f32 = 1.02;
    let root = (norm_q.0.len() as f32).sqrt();
    let length = |(weight, bias): (&[f32], &[f32])| {
        let max = weight.iter().fold(0f32, |max, x| max.max(x.abs()));
        root * max + bias.iter().map(|x| x * x).sum::<f32>().sqrt()
    };
    ROUNDING * length(norm_q) * length(norm_k) / root
}
