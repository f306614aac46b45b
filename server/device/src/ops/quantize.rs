//! Rows of numbers as 8-bit ones with a scale for each row, and back.
//!
//! Symmetric: a row's largest magnitude becomes the format's largest, 127 or 448, and 0 stays 0.

use super::rows::rows;
use crate::launch::{FloatKernels, Global, Launch, float_kernels, kernel_args};
use crate::{Dtype, Error, Result, Tensor};

const TO_I8: FloatKernels = float_kernels!("quantize_i8");
const TO_F8E4M3: FloatKernels = float_kernels!("quantize_f8e4m3");
const FROM_I8: FloatKernels = float_kernels!("dequantize_i8");
const THREADS: u32 = 256;

kernel_args! {
    struct ToArgs {
        x: Global,
        values: Global,
        scales: Global,
        size: u32,
        unused: u32,
    }
    struct FromArgs {
        values: Global,
        scales: Global,
        out: Global,
        size: u32,
        unused: u32,
    }
}

/// Rows `[.., n]` of f32, f16 or bf16 as values in `dtype`, i8 or f8e4m3, and scales `[rows]` in f32.
///
/// # Errors
/// [`Error::Shape`] for another dtype; [`Error::OutOfMemory`].
pub fn rows_to_8bit(x: &Tensor, dtype: Dtype) -> Result<(Tensor, Tensor)> {
    let op = "rows_to_8bit";
    let kernels = match dtype {
        Dtype::I8 => TO_I8,
        Dtype::F8E4M3 => TO_F8E4M3,
        other => return Err(Error::shape(op, format!("expected i8 or f8e4m3, found {other}"))),
    };
    let kernel = kernels.of(op, x.dtype())?;
    let (count, size) = rows(op, x)?;
    let values = Tensor::empty(x.device(), x.dims(), dtype)?;
    let scales = Tensor::empty(x.device(), &[count], Dtype::F32)?;
    let args = ToArgs {
        x: x.global(),
        values: values.global(),
        scales: scales.global(),
        size: size as u32,
        unused: 0,
    };
    x.device().launch(&Launch::new(kernel, count, THREADS).shared(32 * 4), &args)?;
    Ok((values, scales))
}

/// A matrix of i8 `[rows, n]` with `[rows]` scales, in f32, f16 or bf16.
///
/// # Errors
/// [`Error::Shape`] for other dtypes or sizes; [`Error::OutOfMemory`].
pub fn dequantize_weight(values: &Tensor, scales: &Tensor, dtype: Dtype) -> Result<Tensor> {
    let op = "dequantize_weight";
    let kernel = FROM_I8.of(op, dtype)?;
    let (count, size) = rows(op, values)?;
    if values.dtype() != Dtype::I8 || scales.dtype() != Dtype::F32 || scales.dims() != [count] {
        let message = format!(
            "{} {:?} with scales {} {:?}",
            values.dtype(),
            values.dims(),
            scales.dtype(),
            scales.dims()
        );
        return Err(Error::shape(op, message));
    }
    let out = Tensor::empty(values.device(), values.dims(), dtype)?;
    let args = FromArgs {
        values: values.global(),
        scales: scales.global(),
        out: out.global(),
        size: size as u32,
        unused: 0,
    };
    values.device().launch(&Launch::over(kernel, values.len(), THREADS), &args)?;
    Ok(out)
}
