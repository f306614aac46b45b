//! `y = x W^T + b`, the model's main work: in the weights' own dtype, or with weights of 8 bits.
//!
//! The rounding is the CPU's, in f32 up to the end of the bias and then once; GELU is of the rounded value. Only where
//! a library applies GELU itself it rounds once, after it. Which engine multiplies is `ops::matmul`'s business.
//! Knows shapes, not layers.

pub use super::epilogue::Activation;
use super::gemm::Product;
pub use super::low_rank::LowRank;
use super::{matmul, quantize};
use crate::{Dtype, Error, Result, Tensor};

const OP: &str = "linear";

/// A layer's matrix.
#[derive(Clone, Debug)]
pub enum Weight {
    /// `[out_features, in_features]`: f32, f16 or bf16.
    Dense(Tensor),
    /// Integers, a scale for each row: half the memory of 16 bits, products in x' dtype.
    Int8WeightOnly {
        /// `[out_features, in_features]`, i8.
        values: Tensor,
        /// `[out_features]`, f32.
        scales: Tensor,
    },
    /// The same; x is made 8-bit as well, a scale for each of its rows, so that integers are multiplied.
    Int8 {
        /// `[out_features, in_features]`, i8.
        values: Tensor,
        /// `[out_features]`, f32.
        scales: Tensor,
    },
    /// The same in 8-bit floating point.
    Fp8 {
        /// `[out_features, in_features]`, f8e4m3.
        values: Tensor,
        /// `[out_features]`, f32.
        scales: Tensor,
    },
}

/// A way to keep a weight in 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EightBit {
    /// [`Weight::Int8WeightOnly`].
    Int8WeightOnly,
    /// [`Weight::Int8`].
    Int8,
    /// [`Weight::Fp8`].
    Fp8,
}

/// A dense layer.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

impl Weight {
    fn kind(&self) -> Option<EightBit> {
        match self {
            Self::Dense(_) => None,
            Self::Int8WeightOnly { .. } => Some(EightBit::Int8WeightOnly),
            Self::Int8 { .. } => Some(EightBit::Int8),
            Self::Fp8 { .. } => Some(EightBit::Fp8),
        }
    }

    /// A weight that was made 8-bit before; [`Linear::new`] checks it.
    pub fn of(kind: EightBit, values: Tensor, scales: Tensor) -> Self {
        match kind {
            EightBit::Int8WeightOnly => Self::Int8WeightOnly { values, scales },
            EightBit::Int8 => Self::Int8 { values, scales },
            EightBit::Fp8 => Self::Fp8 { values, scales },
        }
    }

    fn tensors_mut(&mut self) -> (&mut Tensor, Option<&mut Tensor>) {
        match self {
            Self::Dense(values) => (values, None),
            Self::Int8WeightOnly { values, scales }
            | Self::Int8 { values, scales }
            | Self::Fp8 { values, scales } => (values, Some(scales)),
        }
    }

    /// The matrix, in whatever dtype, and its rows' scales.
    fn parts(&self) -> (&Tensor, Option<&Tensor>) {
        match self {
            Self::Dense(values) => (values, None),
            Self::Int8WeightOnly { values, scales }
            | Self::Int8 { values, scales }
            | Self::Fp8 { values, scales } => (values, Some(scales)),
        }
    }

    fn bytes(&self) -> usize {
        let (values, scales) = self.parts();
        values.bytes() + scales.map_or(0, Tensor::bytes)
    }
}

impl Linear {
    /// From tensors on one device; the bias is `[out_features]` in the dtype of the layer's input.
    ///
    /// # Errors
    /// [`Error::Shape`] for other dimensions or dtypes.
    pub fn new(weight: Weight, bias: Option<Tensor>) -> Result<Self> {
        let (values, scales) = weight.parts();
        let [rows, _] = values.dims_n(OP)?;
        let fits = match weight.kind() {
            None => values.dtype().is_float(),
            Some(EightBit::Fp8) => values.dtype() == Dtype::F8E4M3,
            Some(EightBit::Int8 | EightBit::Int8WeightOnly) => values.dtype() == Dtype::I8,
        };
        if !fits {
            return Err(Error::shape(
                OP,
                format!("a {:?} weight cannot be in {}", weight.kind(), values.dtype()),
            ));
        }
        if let Some(scales) = scales
            && (scales.dims() != [rows] || scales.dtype() != Dtype::F32)
        {
            let message =
                format!("scales: expected f32 [{rows}], found {} {:?}", scales.dtype(), scales.dims());
            return Err(Error::shape(OP, message));
        }
        if let Some(bias) = &bias
            && (bias.dims() != [rows] || !bias.dtype().is_float())
        {
            let message =
                format!("bias: expected f32, f16 or bf16 [{rows}], found {} {:?}", bias.dtype(), bias.dims());
            return Err(Error::shape(OP, message));
        }
        Ok(Self { weight, bias })
    }

    /// A layer in its input's dtype.
    ///
    /// # Errors
    /// [`Error::Shape`] for other dimensions or dtypes.
    pub fn dense(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Self::new(Weight::Dense(weight), bias)
    }

    /// Everything that it holds, to be replaced by tensors of the same dimensions and dtypes.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
        let (values, scales) = self.weight.tensors_mut();
        [values].into_iter().chain(scales).chain(self.bias.as_mut())
    }

    /// Several layers of the same input as one, their outputs side by side; each is either with a bias or without one.
    ///
    /// # Errors
    /// [`Error::Shape`] if they differ in more than their number of outputs; [`Error::OutOfMemory`].
    pub fn concat(layers: &[&Self]) -> Result<Self> {
        let Some(first) = layers.first() else {
            return Err(Error::shape(OP, "no layers to put side by side"));
        };
        let kind = first.weight.kind();
        if layers
            .iter()
            .any(|layer| layer.weight.kind() != kind || layer.bias.is_some() != first.bias.is_some())
        {
            return Err(Error::shape(
                OP,
                "layers side by side are of one kind, all with a bias or all without",
            ));
        }
        let values = concat(layers.iter().map(|layer| layer.weight.parts().0))?;
        let scales: Option<Vec<&Tensor>> = layers.iter().map(|layer| layer.weight.parts().1).collect();
        let biases: Option<Vec<&Tensor>> = layers.iter().map(|layer| layer.bias.as_ref()).collect();
        let weight = match (kind, scales) {
            (Some(kind), Some(scales)) => Weight::of(kind, values, concat(scales)?),
            _ => Weight::Dense(values),
        };
        Self::new(weight, biases.map(concat).transpose()?)
    }

    /// With its weight in 8 bits, made on the device: each row's largest magnitude becomes the format's.
    ///
    /// # Errors
    /// [`Error::Shape`] if it is in 8 bits already; [`Error::OutOfMemory`].
    pub fn to_8bit(&self, kind: EightBit) -> Result<Self> {
        let Weight::Dense(weight) = &self.weight else {
            return Err(Error::shape(OP, "the weight is in 8 bits already"));
        };
        let (values, scales) = quantize::rows_to_8bit(weight, kind.dtype())?;
        Self::new(Weight::of(kind, values, scales), self.bias.clone())
    }

    /// `[.., in_features]` in f32, f16 or bf16 to `[.., out_features]` in the same.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::OutOfMemory`].
    pub fn forward(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.adapted(x, None, activation)
    }

    /// As [`Self::forward`], with what an adapter adds before the activation. As in diffusers, the layer's own result is
    /// rounded before.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::OutOfMemory`].
    pub fn adapted(&self, x: &Tensor, adapter: Option<&LowRank>, activation: Activation) -> Result<Tensor> {
        let mut dims = x.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = self.out_features();
        }
        let out = Tensor::empty(x.device(), &dims, x.dtype())?;
        self.adapted_into(x, adapter, activation, &out)?;
        Ok(out)
    }

    /// As [`Self::adapted`], overwriting `out`, which may be a part of a tensor; it must not overlap `x`.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::OutOfMemory`].
    pub fn adapted_into(
        &self,
        x: &Tensor,
        adapter: Option<&LowRank>,
        activation: Activation,
        out: &Tensor,
    ) -> Result<()> {
        let Some(adapter) = adapter else { return self.forward_into(x, activation, out) };
        self.forward_into(x, Activation::Identity, out)?;
        adapter.add_to(x, activation, out)
    }

    /// As [`Self::forward`], overwriting `out`, which may be a part of a tensor; it must not overlap `x`.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::OutOfMemory`].
    pub fn forward_into(&self, x: &Tensor, activation: Activation, out: &Tensor) -> Result<()> {
        if !x.dtype().is_float() {
            return Err(Error::shape(OP, format!("x: expected f32, f16 or bf16, found {}", x.dtype())));
        }
        let (weight, column_scales) = self.weight.parts();
        let product = Product {
            x,
            weight,
            bias: self.bias.as_ref(),
            row_scales: None,
            column_scales,
            accumulate: false,
            activation,
            out,
        };
        match self.weight.kind() {
            None | Some(EightBit::Int8WeightOnly) => matmul::run(&product),
            Some(kind @ (EightBit::Int8 | EightBit::Fp8)) => {
                let (values, scales) = quantize::rows_to_8bit(x, kind.dtype())?;
                matmul::run(&Product { x: &values, row_scales: Some(&scales), ..product })
            }
        }
    }

    /// The matrix.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// `[out_features]`.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Columns of the matrix.
    pub fn in_features(&self) -> usize {
        self.weight.parts().0.dims()[1]
    }

    /// Rows of the matrix.
    pub fn out_features(&self) -> usize {
        self.weight.parts().0.dims()[0]
    }

    /// Of the matrix, its scales and the bias.
    pub fn bytes(&self) -> usize {
        self.weight.bytes() + self.bias.as_ref().map_or(0, Tensor::bytes)
    }
}

impl EightBit {
    /// Of the values.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::Int8WeightOnly | Self::Int8 => Dtype::I8,
            Self::Fp8 => Dtype::F8E4M3,
        }
    }
}

/// Tensors one after another in the slowest dimension.
fn concat<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Tensor> {
    let tensors: Vec<&Tensor> = tensors.into_iter().collect();
    let first = tensors[0];
    let inner = &first.dims()[1..];
    if let Some(other) =
        tensors.iter().find(|tensor| &tensor.dims()[1..] != inner || tensor.dtype() != first.dtype())
    {
        let message =
            format!("{} {:?} beside {} {:?}", first.dtype(), first.dims(), other.dtype(), other.dims());
        return Err(Error::shape(OP, message));
    }
    let mut dims = first.dims().to_vec();
    dims[0] = tensors.iter().map(|tensor| tensor.dims()[0]).sum();
    let all = Tensor::empty(first.device(), &dims, first.dtype())?;
    let mut row = 0;
    for tensor in tensors {
        let rows = tensor.dims()[0];
        all.slice(row, rows)?.copy_from(tensor)?;
        row += rows;
    }
    Ok(all)
}
