//! What T5 computes differently from the transformer: embedding, RMS norm, the gated GELU, the guard of f16.
//!
//! In half precision every step that transformers' modules round is rounded. Its sums of f16 and f32 are
//! [`super::elementwise::promoting_add`]. Knows shapes, not layers.

use half::f16;

use super::rows::{Expected, RowGrid, items, rows, vectors, whole_warps};
use crate::launch::{FloatKernels, Global, Launch, float_kernels, kernel_args};
use crate::{Dtype, Error, Result, Tensor};

const EMBEDDING: FloatKernels = float_kernels!("embedding");
const RMS_NORM_FROM_F32: FloatKernels = float_kernels!("rms_norm_from_f32");
const RMS_NORM: FloatKernels =
    FloatKernels { f32: "rms_norm_from_f32_f32", f16: "rms_norm_f16", bf16: "rms_norm_bf16" };
const GATED_GELU: FloatKernels = float_kernels!("gated_gelu");
const THREADS: u32 = 256;
/// One total for each warp.
const SCRATCH_BYTES: usize = 32 * 4;
/// How far transformers stays below the largest f16.
const CLAMP_MARGIN: f32 = 1000.0;

kernel_args! {
    struct EmbeddingArgs {
        table: Global,
        ids: Global,
        out: Global,
        size: u32,
        blocks_per_row: u32,
        vectors: u32,
    }

    struct RmsNormArgs {
        x: Global,
        weight: Global,
        out: Global,
        size: u32,
        vectors: u32,
        eps: f32,
    }

    struct GatedGeluArgs {
        gate: Global,
        x: Global,
        out: Global,
        vectors: u32,
    }

    struct ClampArgs {
        x: Global,
        overflowed: Global,
        bound: f32,
    }
}

/// The rows `ids` of `table` `[vocabulary, d]`, as `[ids, d]`.
///
/// # Errors
/// [`Error::Shape`] for an id beyond the vocabulary; [`Error::OutOfMemory`].
pub fn embedding(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let op = "embedding";
    let [vocabulary, size] = table.dims_n(op)?;
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
        return Err(Error::shape(op, format!("id {id} of a vocabulary of {vocabulary}")));
    }
    let signed: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
    let ids = Tensor::from_slice(table.device(), &[ids.len()], &signed)?;
    let out = Tensor::empty(table.device(), &[ids.len(), size], table.dtype())?;
    let vectors = vectors(size, &[table, &out]);
    let grid = RowGrid::new(ids.len(), size, vectors);
    let args = EmbeddingArgs {
        table: table.global(),
        ids: ids.global(),
        out: out.global(),
        size: size as u32,
        blocks_per_row: grid.blocks_per_row,
        vectors: u32::from(vectors),
    };
    table.device().launch(&grid.launch(EMBEDDING.of(op, table.dtype())?), &args)?;
    Ok(out)
}

/// `weight * x / sqrt(mean(x^2) + eps)` over the last dimension of `x [.., d]`, which is f32 or of the weight's dtype;
/// the result is of the weight's, and so is the value that is multiplied by it.
///
/// # Errors
/// [`Error::Shape`] for other dtypes, or if sizes or devices differ; [`Error::OutOfMemory`].
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let op = "rms_norm";
    let (count, size) = rows(op, x)?;
    let dtype = weight.dtype();
    let kernels = if x.dtype() == Dtype::F32 { RMS_NORM_FROM_F32 } else { RMS_NORM };
    if x.dtype() != Dtype::F32 && x.dtype() != dtype {
        return Err(Error::shape(op, format!("x: expected f32 or {dtype}, found {}", x.dtype())));
    }
    Expected { op, dtype, device: x.device() }.check("weight", weight, &[size])?;
    let out = Tensor::empty(x.device(), x.dims(), dtype)?;
    let vectors = vectors(size, &[x, weight, &out]);
    let threads = whole_warps(items(size, vectors), THREADS as usize);
    let launch = Launch::new(kernels.of(op, dtype)?, count, threads).shared(SCRATCH_BYTES);
    let args = RmsNormArgs {
        x: x.global(),
        weight: weight.global(),
        out: out.global(),
        size: size as u32,
        vectors: u32::from(vectors),
        eps,
    };
    x.device().launch(&launch, &args)?;
    Ok(out)
}

/// `gelu_new(gate) * x`, where `gelu_new` is transformers' chain of single operations.
///
/// # Errors
/// [`Error::Shape`] if dtypes, sizes or devices differ; [`Error::OutOfMemory`].
pub fn gated_gelu(gate: &Tensor, x: &Tensor) -> Result<Tensor> {
    let op = "gated_gelu";
    Expected::like(op, gate).check("x", x, gate.dims())?;
    let out = Tensor::empty(x.device(), x.dims(), x.dtype())?;
    let vectors = vectors(x.len(), &[gate, x, &out]);
    let launch = Launch::over(GATED_GELU.of(op, x.dtype())?, items(x.len(), vectors), THREADS);
    let args =
        GatedGeluArgs { gate: gate.global(), x: x.global(), out: out.global(), vectors: u32::from(vectors) };
    x.device().launch(&launch, &args)?;
    Ok(out)
}

/// transformers' guard against overflow: if any element of an f16 tensor is infinite, all are clamped to 1,000 below the
/// largest f16. Another dtype is left as it is.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn clamp_f16_in_place(x: &Tensor) -> Result<()> {
    if x.dtype() != Dtype::F16 {
        return Ok(());
    }
    let overflowed = Tensor::zeros(x.device(), &[1], Dtype::I32)?;
    let bound = f16::from_f32(f16::MAX.to_f32() - CLAMP_MARGIN).to_f32();
    let args = ClampArgs { x: x.global(), overflowed: overflowed.global(), bound };
    for kernel in ["find_infinity", "clamp_if_infinite"] {
        x.device().launch(&Launch::over(kernel, x.len(), THREADS), &args)?;
    }
    Ok(())
}
