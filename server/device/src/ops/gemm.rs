//! `y = x W^T` with what follows it, by this crate's own kernels: on tensor cores where rows are whole chunks of 16
//! bytes, by a plain kernel otherwise.
//!
//! Roundings are the CPU's: scales and bias in f32, one rounding, and a second one after GELU. Knows operands, not
//! layers; the libraries are [`super::matmul`]'s business.

use super::epilogue::Activation;
use crate::launch::{FloatKernels, Global, Launch, float_kernels, kernel_args};
use crate::{Dtype, Error, Result, Tensor};

const OP: &str = "linear";
const THREADS: u32 = 256;

/// Of both operands a tile of 64 by 16 elements in f32 or i32, padded.
const PLAIN_TILE: usize = 64;
const PLAIN_SHARED_BYTES: usize = 2 * (PLAIN_TILE + 2) * 16 * 4;
const PLAIN: FloatKernels = float_kernels!("gemm_plain");
const PLAIN_WEIGHT8: FloatKernels = float_kernels!("gemm_plain_weight8");
const PLAIN_INT8: FloatKernels = float_kernels!("gemm_plain_int8");
const PLAIN_FP8: FloatKernels = float_kernels!("gemm_plain_fp8");

/// Of both operands three tiles of 128 rows of 64 bytes.
const TENSOR_TILE: usize = 128;
const TENSOR_SHARED_BYTES: usize = 3 * 2 * TENSOR_TILE * 64;
const TENSOR_INT8: FloatKernels = float_kernels!("gemm_tensor_int8");

kernel_args! {
    struct Args {
        x: Global,
        weight: Global,
        out: Global,
        bias: Global,
        row_scales: Global,
        column_scales: Global,
        m: u32,
        n: u32,
        k: u32,
        gelu: u32,
        accumulate: u32,
    }
}

/// A product and what is done to it: `out = activation(x W^T * row_scales * column_scales + bias + held)`, where what
/// is held is 0 or `out` as it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product<'a> {
    /// `[.., k]`: f32, f16 or bf16; or i8 or f8e4m3, as the weight is.
    pub(crate) x: &'a Tensor,
    /// `[n, k]`, of x' dtype, or i8.
    pub(crate) weight: &'a Tensor,
    /// `[n]`, of the result's dtype.
    pub(crate) bias: Option<&'a Tensor>,
    /// `[m]`, f32.
    pub(crate) row_scales: Option<&'a Tensor>,
    /// `[n]`, f32.
    pub(crate) column_scales: Option<&'a Tensor>,
    /// Whether what the result holds is added to, before the activation; of products without row scales only.
    pub(crate) accumulate: bool,
    /// What follows.
    pub(crate) activation: Activation,
    /// `[.., n]`: f32, f16 or bf16; x' dtype if that is one of them. The library also leaves sums of i8 in i32.
    pub(crate) out: &'a Tensor,
}

/// The sizes of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

impl Product<'_> {
    /// Checks all operands.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub(crate) fn sizes(&self) -> Result<Sizes> {
        let [n, k] = self.weight.dims_n(OP)?;
        let wrong = |what: &str, expected: String, found: &Tensor| {
            let message = format!("{what}: expected {expected}, found {} {:?}", found.dtype(), found.dims());
            Err(Error::shape(OP, message))
        };
        let Some((&features, outer)) = self.x.dims().split_last() else {
            return wrong("x", format!("[.., {k}]"), self.x);
        };
        if features != k || k == 0 {
            return wrong("x", format!("[.., {k}]"), self.x);
        }
        let m = outer.iter().product();
        if self.out.dims().last() != Some(&n) || self.out.len() != m * n {
            return wrong("result", format!("{m} rows of {n}"), self.out);
        }
        if let Some(bias) = self.bias
            && (bias.dims() != [n] || bias.dtype() != self.out.dtype())
        {
            return wrong("bias", format!("{} [{n}]", self.out.dtype()), bias);
        }
        for (what, scales, len) in
            [("row scales", self.row_scales, m), ("column scales", self.column_scales, n)]
        {
            if let Some(scales) = scales
                && (scales.len() != len || scales.dtype() != Dtype::F32)
            {
                return wrong(what, format!("f32 [{len}]"), scales);
            }
        }
        if self.x.dtype().is_float() && self.x.dtype() != self.out.dtype() {
            return wrong("result", self.x.dtype().to_string(), self.out);
        }
        if self.accumulate && self.row_scales.is_some() {
            return Err(Error::shape(OP, "a product of 8-bit rows is not added to a result"));
        }
        let all = [Some(self.x), Some(self.weight), self.bias, self.row_scales, self.column_scales];
        for tensor in all.into_iter().flatten() {
            self.out.device().expect_same(OP, tensor.device())?;
        }
        if m.max(n).max(k) > i32::MAX as usize / 2 {
            return Err(Error::shape(OP, format!("{m} x {n} x {k} is more than 2^30 in one direction")));
        }
        Ok(Sizes { m, n, k })
    }

    /// Whether both operands' rows and the result begin at multiples of 16 bytes.
    fn is_aligned(&self, k: usize) -> bool {
        [self.x, self.weight].iter().all(|operand| (k * operand.dtype().bytes()).is_multiple_of(16))
            && [self.x, self.weight, self.out].iter().all(|tensor| tensor.address().is_multiple_of(16))
    }

    /// The kernel for tensor cores, if there is one.
    fn tensor_kernel(&self, k: usize) -> Result<Option<&'static str>> {
        if !self.is_aligned(k) {
            return Ok(None);
        }
        Ok(match (self.x.dtype(), self.weight.dtype()) {
            (Dtype::F16, Dtype::F16) => Some("gemm_tensor_f16"),
            (Dtype::Bf16, Dtype::Bf16) => Some("gemm_tensor_bf16"),
            (Dtype::F16, Dtype::I8) => Some("gemm_tensor_weight8_f16"),
            (Dtype::Bf16, Dtype::I8) => Some("gemm_tensor_weight8_bf16"),
            (Dtype::I8, Dtype::I8) => Some(TENSOR_INT8.of(OP, self.out.dtype())?),
            _ => None,
        })
    }

    fn plain_kernel(&self) -> Result<&'static str> {
        let kernels = match (self.x.dtype(), self.weight.dtype()) {
            (Dtype::I8, Dtype::I8) => PLAIN_INT8,
            (Dtype::F8E4M3, Dtype::F8E4M3) => PLAIN_FP8,
            (x, Dtype::I8) if x.is_float() => PLAIN_WEIGHT8,
            (x, weight) if x.is_float() && x == weight => PLAIN,
            (x, weight) => return Err(Error::shape(OP, format!("x in {x} with a weight in {weight}"))),
        };
        kernels.of(OP, self.out.dtype())
    }

    /// Runs it by one of this crate's kernels.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub(crate) fn run_own(&self) -> Result<()> {
        let Sizes { m, n, k } = self.sizes()?;
        let (kernel, tile, shared_bytes) = match self.tensor_kernel(k)? {
            Some(kernel) => (kernel, TENSOR_TILE, TENSOR_SHARED_BYTES),
            None => (self.plain_kernel()?, PLAIN_TILE, PLAIN_SHARED_BYTES),
        };
        let global = |tensor: Option<&Tensor>| tensor.map_or(Global::ABSENT, Tensor::global);
        let args = Args {
            x: self.x.global(),
            weight: self.weight.global(),
            out: self.out.global(),
            bias: global(self.bias),
            row_scales: global(self.row_scales),
            column_scales: global(self.column_scales),
            m: m as u32,
            n: n as u32,
            k: k as u32,
            gelu: u32::from(self.activation == Activation::GeluTanh),
            accumulate: u32::from(self.accumulate),
        };
        let blocks = m.div_ceil(tile) * n.div_ceil(tile);
        self.out.device().launch(&Launch::new(kernel, blocks, THREADS).shared(shared_bytes), &args)
    }
}
