//! Rows as signed bytes or 8-bit floats with one f32 scale each, and back.
//!
//! Rows are tokens of an activation, or output channels of a weight. What multiplies such rows ends with
//! [`super::epilogue::scale_rows_columns`].

use super::rows::{Expected, RowGrid, items, rows, vectors, whole_warps};
use crate::launch::{FloatKernels, Global, Launch, float_kernels, kernel_args};
use crate::{Dtype, Error, Result, Tensor};

const QUANTIZE_I8: FloatKernels = float_kernels!("quantize_i8");
const QUANTIZE_F8E4M3: FloatKernels = float_kernels!("quantize_f8e4m3");
const DEQUANTIZE_I8: FloatKernels = float_kernels!("dequantize_i8");
const DEQUANTIZE_F8E4M3: FloatKernels = float_kernels!("dequantize_f8e4m3");
const MAX_THREADS: usize = 256;
/// One total for each warp.
const SCRATCH_BYTES: usize = 32 * 4;

kernel_args! {
    struct QuantizeArgs {
        x: Global,
        out: Global,
        scales: Global,
        size: u32,
        vectors: u32,
    }

    struct DequantizeArgs {
        x: Global,
        scales: Global,
        out: Global,
        size: u32,
        blocks_per_row: u32,
        vectors: u32,
    }
}

/// The rows of `x [.., n]` in f32, f16 or bf16 as I8 or F8E4M3 in the same dimensions, and their scales `[rows]` in f32: the
/// largest magnitude over 127 or 448. Values are divided by it and rounded to nearest even. A row with an infinity or a
/// NaN has an infinite scale.
///
/// # Errors
/// [`Error::Shape`] for another dtype; [`Error::OutOfMemory`].
pub fn rows_to_8bit(x: &Tensor, dtype: Dtype) -> Result<(Tensor, Tensor)> {
    let op = "rows_to_8bit";
    let (count, size) = rows(op, x)?;
    let kernel = of_format(op, dtype, QUANTIZE_I8, QUANTIZE_F8E4M3)?.of(op, x.dtype())?;
    let out = Tensor::empty(x.device(), x.dims(), dtype)?;
    let scales = Tensor::empty(x.device(), &[count], Dtype::F32)?;
    let vectors = vectors(size, &[x, &out]);
    let launch = Launch::new(kernel, count, whole_warps(items(size, vectors), MAX_THREADS));
    let args = QuantizeArgs {
        x: x.global(),
        out: out.global(),
        scales: scales.global(),
        size: size as u32,
        vectors: u32::from(vectors),
    };
    x.device().launch(&launch.shared(SCRATCH_BYTES), &args)?;
    Ok((out, scales))
}

/// The weight `[n, k]` that [`rows_to_8bit`] made `weight` and `scales [n]` of, in f32, f16 or bf16: each product rounded
/// once.
///
/// # Errors
/// [`Error::Shape`] if dtypes, sizes or devices do not fit; [`Error::OutOfMemory`].
pub fn dequantize_weight(weight: &Tensor, scales: &Tensor, dtype: Dtype) -> Result<Tensor> {
    let op = "dequantize_weight";
    let [count, size] = weight.dims_n(op)?;
    let kernel = of_format(op, weight.dtype(), DEQUANTIZE_I8, DEQUANTIZE_F8E4M3)?.of(op, dtype)?;
    Expected { op, dtype: Dtype::F32, device: weight.device() }.check("scales", scales, &[count])?;
    let out = Tensor::empty(weight.device(), weight.dims(), dtype)?;
    let vectors = vectors(size, &[weight, &out]);
    let grid = RowGrid::new(count, size, vectors);
    let args = DequantizeArgs {
        x: weight.global(),
        scales: scales.global(),
        out: out.global(),
        size: size as u32,
        blocks_per_row: grid.blocks_per_row,
        vectors: u32::from(vectors),
    };
    weight.device().launch(&grid.launch(kernel), &args)?;
    Ok(out)
}

fn of_format(op: &'static str, dtype: Dtype, i8: FloatKernels, f8: FloatKernels) -> Result<FloatKernels> {
    match dtype {
        Dtype::I8 => Ok(i8),
        Dtype::F8E4M3 => Ok(f8),
        other => Err(Error::shape(op, format!("expected i8 or f8e4m3, found {other}"))),
    }
}
