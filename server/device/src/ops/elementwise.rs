//! One result for each element: activations, sums, casts; computed in f32 and rounded once.

use super::rows::{Expected, items, vectors};
use crate::launch::{FloatKernels, Global, Launch, float_kernels, kernel_args};
use crate::{Dtype, Error, Result, Tensor};

const SILU: FloatKernels = float_kernels!("silu");
const GELU_TANH: FloatKernels = float_kernels!("gelu_tanh");
const ADD: FloatKernels = float_kernels!("add");
const THREADS: u32 = 256;

kernel_args! {
    struct UnaryArgs {
        x: Global,
        out: Global,
        vectors: u32,
    }

    struct AddArgs {
        a: Global,
        b: Global,
        out: Global,
        vectors: u32,
    }
}

/// `x / (1 + exp(-x))`.
///
/// # Errors
/// [`Error::Shape`] for a dtype other than f32, f16 and bf16; [`Error::OutOfMemory`].
pub fn silu(x: &Tensor) -> Result<Tensor> {
    let out = Tensor::empty(x.device(), x.dims(), x.dtype())?;
    map(SILU.of("silu", x.dtype())?, x, &out)?;
    Ok(out)
}

/// GELU by tanh, without a bias: `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
///
/// # Errors
/// [`Error::Shape`] for a dtype other than f32, f16 and bf16; [`Error::OutOfMemory`].
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    let out = Tensor::empty(x.device(), x.dims(), x.dtype())?;
    map(GELU_TANH.of("gelu_tanh", x.dtype())?, x, &out)?;
    Ok(out)
}

/// [`gelu_tanh`] of `x` in its memory.
///
/// # Errors
/// [`Error::Shape`] for a dtype other than f32, f16 and bf16.
pub fn gelu_tanh_in_place(x: &Tensor) -> Result<()> {
    map(GELU_TANH.of("gelu_tanh_in_place", x.dtype())?, x, x)
}

/// `x` in another of f32, f16 and bf16, to nearest even; `x` itself, sharing its memory, if that is its dtype.
///
/// # Errors
/// [`Error::Shape`] for any other dtype; [`Error::OutOfMemory`].
pub fn cast(x: &Tensor, dtype: Dtype) -> Result<Tensor> {
    let kernel = match (x.dtype(), dtype) {
        (Dtype::F32, Dtype::F16) => "cast_f32_f16",
        (Dtype::F32, Dtype::Bf16) => "cast_f32_bf16",
        (Dtype::F16, Dtype::F32) => "cast_f16_f32",
        (Dtype::F16, Dtype::Bf16) => "cast_f16_bf16",
        (Dtype::Bf16, Dtype::F32) => "cast_bf16_f32",
        (Dtype::Bf16, Dtype::F16) => "cast_bf16_f16",
        (from, to) if from == to => return Ok(x.clone()),
        (from, to) => {
            return Err(Error::shape("cast", format!("expected f32, f16 or bf16, found {from} to {to}")));
        }
    };
    let out = Tensor::empty(x.device(), x.dims(), dtype)?;
    map(kernel, x, &out)?;
    Ok(out)
}

/// `a <- a + b`; the dimensions of `b` are the last ones of `a`, such as those of a table of positions, and `b` is added
/// to each part of `a` that is as large. A leading 1 in `b` may be left out.
///
/// # Errors
/// [`Error::Shape`] if dtypes or devices differ or the sizes do not fit.
pub fn add_in_place(a: &Tensor, b: &Tensor) -> Result<()> {
    let op = "add_in_place";
    let tail = b.dims().strip_prefix(&[1]).unwrap_or(b.dims());
    if !a.dims().ends_with(tail) {
        let message = format!("{:?} does not repeat to {:?}", b.dims(), a.dims());
        return Err(Error::shape(op, message));
    }
    Expected::like(op, a).check("b", b, b.dims())?;
    sum(ADD.of(op, a.dtype())?, a, b, a)
}

/// `a + b` in PyTorch's promotion: of one dtype, or f32 with f16 or bf16, in either order, in f32.
///
/// # Errors
/// [`Error::Shape`] for other dtypes, or if sizes or devices differ; [`Error::OutOfMemory`].
pub fn promoting_add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let op = "promoting_add";
    let (wide, other) = if b.dtype() == Dtype::F32 { (b, a) } else { (a, b) };
    let kernel = match (wide.dtype(), other.dtype()) {
        (Dtype::F32, Dtype::F16) => "add_f32_f16",
        (Dtype::F32, Dtype::Bf16) => "add_f32_bf16",
        (wide, other) if wide == other => ADD.of(op, wide)?,
        (wide, other) => return Err(Error::shape(op, format!("no sum of {wide} and {other}"))),
    };
    Expected { op, dtype: other.dtype(), device: wide.device() }.check("b", other, wide.dims())?;
    let out = Tensor::empty(wide.device(), wide.dims(), wide.dtype())?;
    sum(kernel, wide, other, &out)?;
    Ok(out)
}

fn map(kernel: &'static str, x: &Tensor, out: &Tensor) -> Result<()> {
    let vectors = vectors(x.len(), &[x, out]);
    let args = UnaryArgs { x: x.global(), out: out.global(), vectors: u32::from(vectors) };
    x.device().launch(&Launch::over(kernel, items(x.len(), vectors), THREADS), &args)
}

fn sum(kernel: &'static str, a: &Tensor, b: &Tensor, out: &Tensor) -> Result<()> {
    let vectors = vectors(b.len(), &[a, b, out]);
    let args = AddArgs { a: a.global(), b: b.global(), out: out.global(), vectors: u32::from(vectors) };
    a.device().launch(&Launch::over(kernel, items(a.len(), vectors), THREADS), &args)
}
