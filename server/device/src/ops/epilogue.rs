//! What follows a matrix product where the library that computes it cannot do it: scales, bias, activation.
//!
//! As on a CPU the sum with the bias is rounded once, and GELU starts from the rounded sum. A product that was rounded
//! before its bias, as in [`bias_activation_in_place`], is rounded once more than that.

use super::rows::{Expected, RowGrid, rows, vectors};
use crate::launch::{FloatKernels, Global, float_kernels, kernel_args};
use crate::{Dtype, Error, Result, Tensor};

const FROM_F32: FloatKernels = float_kernels!("epilogue_from_f32");
const FROM_I32: FloatKernels = float_kernels!("epilogue_from_i32");
const IN_PLACE: FloatKernels = FloatKernels {
    f32: "epilogue_from_f32_f32",
    f16: "epilogue_in_place_f16",
    bf16: "epilogue_in_place_bf16",
};

kernel_args! {
    struct EpilogueArgs {
        product: Global,
        row_scales: Global,
        column_scales: Global,
        bias: Global,
        out: Global,
        size: u32,
        blocks_per_row: u32,
        gelu_tanh: u32,
        vectors: u32,
    }
}

/// What is applied to a linear layer's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// GELU by tanh.
    GeluTanh,
}

/// What the factors of a product were divided by, in f32.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'a> {
    /// `[rows]`, the activations'.
    pub rows: &'a Tensor,
    /// `[n]`, the weight's.
    pub columns: &'a Tensor,
}

/// `x <- activation(x + bias)` on rows `[.., n]` of f32, f16 or bf16; `bias` is `[n]` of the same dtype.
///
/// # Errors
/// [`Error::Shape`] if dtypes, sizes or devices differ.
pub fn bias_activation_in_place(x: &Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<()> {
    let op = "bias_activation_in_place";
    Epilogue { op, kernel: IN_PLACE.of(op, x.dtype())?, product: x, scales: None, bias, activation }.run(x)
}

/// `activation(product + bias)` in `dtype`, of a product `[.., n]` in f32; `bias` is `[n]` of `dtype`.
///
/// # Errors
/// [`Error::Shape`] if dtypes, sizes or devices differ; [`Error::OutOfMemory`].
pub fn bias_activation(
    product: &Tensor,
    bias: Option<&Tensor>,
    activation: Activation,
    dtype: Dtype,
) -> Result<Tensor> {
    let op = "bias_activation";
    Expected { op, dtype: Dtype::F32, device: product.device() }.check("product", product, product.dims())?;
    let kernel = FROM_F32.of(op, dtype)?;
    Epilogue { op, kernel, product, scales: None, bias, activation }.to(dtype)
}

/// `activation(product * row scale * column scale + bias)` in `dtype`, of a product `[.., n]` in I32 or f32; `bias` is
/// `[n]` of `dtype`.
///
/// # Errors
/// [`Error::Shape`] if dtypes, sizes or devices differ; [`Error::OutOfMemory`].
pub fn scale_rows_columns(
    product: &Tensor,
    scales: Scales<'_>,
    bias: Option<&Tensor>,
    activation: Activation,
    dtype: Dtype,
) -> Result<Tensor> {
    let out = Tensor::empty(product.device(), product.dims(), dtype)?;
    scale_rows_columns_into(product, scales, bias, activation, &out)?;
    Ok(out)
}

/// As [`scale_rows_columns`], overwriting `out`, which may be a part of a tensor.
///
/// # Errors
/// [`Error::Shape`] if dtypes, sizes or devices differ.
pub fn scale_rows_columns_into(
    product: &Tensor,
    scales: Scales<'_>,
    bias: Option<&Tensor>,
    activation: Activation,
    out: &Tensor,
) -> Result<()> {
    let op = "scale_rows_columns";
    Expected { op, dtype: out.dtype(), device: product.device() }.check("result", out, product.dims())?;
    let kernels = match product.dtype() {
        Dtype::F32 => FROM_F32,
        Dtype::I32 => FROM_I32,
        other => return Err(Error::shape(op, format!("product: expected f32 or i32, found {other}"))),
    };
    let kernel = kernels.of(op, out.dtype())?;
    Epilogue { op, kernel, product, scales: Some(scales), bias, activation }.run(out)
}

struct Epilogue<'a> {
    op: &'static str,
    kernel: &'static str,
    product: &'a Tensor,
    scales: Option<Scales<'a>>,
    bias: Option<&'a Tensor>,
    activation: Activation,
}

impl Epilogue<'_> {
    fn to(&self, dtype: Dtype) -> Result<Tensor> {
        let out = Tensor::empty(self.product.device(), self.product.dims(), dtype)?;
        self.run(&out)?;
        Ok(out)
    }

    fn run(&self, out: &Tensor) -> Result<()> {
        let (count, size) = rows(self.op, self.product)?;
        Expected::like(self.op, out).check_some("bias", self.bias, &[size])?;
        let mut tensors = vec![self.product, out];
        tensors.extend(self.bias);
        if let Some(scales) = self.scales {
            let f32s = Expected { op: self.op, dtype: Dtype::F32, device: out.device() };
            f32s.check("row scales", scales.rows, &[count])?;
            f32s.check("column scales", scales.columns, &[size])?;
            tensors.push(scales.columns);
        }
        let vectors = vectors(size, &tensors);
        let grid = RowGrid::new(count, size, vectors);
        let global = |tensor: Option<&Tensor>| tensor.map_or(Global::ABSENT, Tensor::global);
        let args = EpilogueArgs {
            product: self.product.global(),
            row_scales: global(self.scales.map(|scales| scales.rows)),
            column_scales: global(self.scales.map(|scales| scales.columns)),
            bias: global(self.bias),
            out: out.global(),
            size: size as u32,
            blocks_per_row: grid.blocks_per_row,
            gelu_tanh: u32::from(self.activation == Activation::GeluTanh),
            vectors: u32::from(vectors),
        };
        out.device().launch(&grid.launch(self.kernel), &args)
    }
}
