//! Which engine multiplies: NVIDIA's library where it is loaded and takes the operands, this crate's kernels otherwise.
//!
//! The one place where that is decided. A planner takes the library's way, of which the workspaces are part.

use super::epilogue::{Activation, Scales, bias_activation_in_place, scale_rows_columns_into};
use super::gemm::{Product, Sizes};
use super::quantize;
use crate::{Capability, Device, Dtype, Result, Tensor};

/// From here on a weight of 8 bits is widened as a whole for the library; below, reading it takes longer than the
/// products, and this crate's kernel reads half as much.
const WIDENED_FROM_ROWS: usize = 256;
/// Results without their scales that are kept at once: so many that they stay in the cache of an RTX 4090 (72 MiB).
const UNSCALED_BYTES: usize = 32 << 20;
/// Of products of 8-bit floats: what the tensor cores of all generations divide.
const FP8_MULTIPLE: usize = 16;

/// Does a product.
///
/// # Errors
/// [`crate::Error::Shape`]; [`crate::Error::OutOfMemory`] for a workspace.
pub(crate) fn run(product: &Product<'_>) -> Result<()> {
    if by_library(product)? { Ok(()) } else { product.run_own() }
}

/// False if there is no library or it refuses.
fn by_library(product: &Product<'_>) -> Result<bool> {
    let sizes = product.sizes()?;
    if !has_library(product.out.device()) || !is_aligned(product, sizes) {
        return Ok(false);
    }
    match (product.x.dtype(), product.weight.dtype()) {
        (Dtype::I8, _) => int8(product, sizes),
        (Dtype::F8E4M3, _) => fp8(product, sizes),
        (_, Dtype::I8) => widened(product, sizes),
        _ => multiply(product),
    }
}

/// The library's condition for tensor cores; it wants it for all types of 8 bits.
fn is_aligned(product: &Product<'_>, Sizes { n, k, .. }: Sizes) -> bool {
    let rows = [(product.x, k), (product.weight, k), (product.out, n)];
    rows.iter().all(|(tensor, columns)| (columns * tensor.dtype().bytes()).is_multiple_of(16))
        && [Some(product.x), Some(product.weight), Some(product.out), product.bias]
            .into_iter()
            .flatten()
            .all(|tensor| tensor.address().is_multiple_of(16))
}

/// A weight of integers, as x' dtype.
fn widened(product: &Product<'_>, sizes: Sizes) -> Result<bool> {
    let Some(scales) = product.column_scales.filter(|_| sizes.m >= WIDENED_FROM_ROWS) else {
        return Ok(false);
    };
    let weight = quantize::dequantize_weight(product.weight, scales, product.x.dtype())?;
    multiply(&Product { weight: &weight, column_scales: None, ..*product })
}

/// Hopper multiplies integers at their full rate by instructions that this crate's kernel does not have, so that there
/// the library gains more, by estimate, than the sums' way through memory costs. On older GPUs the kernel has all of
/// the rate; what newer ones would gain nobody knows.
fn int8(product: &Product<'_>, sizes: Sizes) -> Result<bool> {
    let is_hopper = product.out.device().capability() == Capability::HOPPER;
    if is_hopper { in_passes(product, sizes, Dtype::I32) } else { Ok(false) }
}

/// Hopper scales by itself, where the result has 16 bits (the bias must have them).
fn fp8(product: &Product<'_>, sizes: Sizes) -> Result<bool> {
    let capability = product.out.device().capability();
    if capability < Capability::ADA || !sizes.n.is_multiple_of(FP8_MULTIPLE) {
        return Ok(false);
    }
    if capability == Capability::HOPPER && product.out.dtype() != Dtype::F32 && multiply(product)? {
        return Ok(true);
    }
    in_passes(product, sizes, Dtype::F32)
}

/// A product of 8 bits whose sums go through memory, some rows at a time, to where they are scaled.
fn in_passes(product: &Product<'_>, Sizes { m, n, k }: Sizes, sums: Dtype) -> Result<bool> {
    let (Some(row_scales), Some(column_scales)) = (product.row_scales, product.column_scales) else {
        return Ok(false);
    };
    let rows = (UNSCALED_BYTES / (n * sums.bytes()) / 128 * 128).clamp(128, m.max(128));
    let (x, out) = (product.x.reshape(&[m, k])?, product.out.reshape(&[m, n])?);
    let row_scales = row_scales.reshape(&[m])?;
    let sums = Tensor::empty(product.out.device(), &[rows.min(m), n], sums)?;
    for first in (0..m).step_by(rows) {
        let count = rows.min(m - first);
        let (x, sums) = (x.slice(first, count)?, sums.slice(0, count)?);
        let plain = Product {
            x: &x,
            weight: product.weight,
            bias: None,
            row_scales: None,
            column_scales: None,
            accumulate: false,
            activation: Activation::Identity,
            out: &sums,
        };
        if !multiply(&plain)? {
            return Ok(false);
        }
        let scales = Scales { rows: &row_scales.slice(first, count)?, columns: column_scales };
        let out = out.slice(first, count)?;
        scale_rows_columns_into(&sums, scales, product.bias, product.activation, &out)?;
    }
    Ok(true)
}

#[cfg(feature = "cuda")]
fn has_library(device: &Device) -> bool {
    (device.is_planner() && !device.own_kernels())
        || device.as_cuda().is_some_and(|cuda| cuda.cublaslt().is_some())
}

#[cfg(not(feature = "cuda"))]
fn has_library(device: &Device) -> bool {
    device.is_planner() && !device.own_kernels()
}

/// What NVIDIA's manual recommends; the library may choose algorithms that need less.
fn workspace_bytes(capability: Capability) -> usize {
    if capability >= Capability::HOPPER { 32 << 20 } else { 4 << 20 }
}

/// By the library. GELU is part of its product on Hopper only: elsewhere its epilogues are slower than a pass of their own
/// (sgl-project/sglang#34350 on an RTX 5090, karpathy/llm.c#338 on a 4090).
fn multiply(product: &Product<'_>) -> Result<bool> {
    if product.activation == Activation::GeluTanh
        && product.out.device().capability().major != Capability::HOPPER.major
    {
        let sum = Product { activation: Activation::Identity, ..*product };
        if !call(&sum)? {
            return Ok(false);
        }
        bias_activation_in_place(product.out, None, Activation::GeluTanh)?;
        return Ok(true);
    }
    call(product)
}

fn call(product: &Product<'_>) -> Result<bool> {
    let device = product.out.device();
    let workspace = Tensor::empty(device, &[workspace_bytes(device.capability())], Dtype::U8)?;
    #[cfg(feature = "cuda")]
    if let Some((cuda, library)) = device.as_cuda().and_then(|cuda| Some((cuda, cuda.cublaslt()?))) {
        return library.multiply(cuda, product, &workspace);
    }
    // A planner, which computes nothing; nobody else has the library.
    drop(workspace);
    Ok(true)
}
