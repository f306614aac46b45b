//! 3-D convolution with its bias, on channels-last tensors.
//!
//! Relies on [`super::builder`]; must not know causal padding or caches: time is a dimension like the others.

use super::builder::{Builder, Window};
use super::graph::{Graph, Operand, Search};
use super::{Engine, Notes, Target, sys};
use crate::{Dtype, Error, Result};

/// `y = x * w + bias`. In memory x and y are `[n, depth, height, width, channels]`, w is
/// `[out channels, depth, height, width, channels]`, and the bias `[out channels]`. Sums are f32, rounded once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConvGraph {
    /// Of x: n, channels, depth, height, width.
    pub input: [usize; 5],
    /// Channels of y.
    pub out_channels: usize,
    /// The filter's depth, height and width.
    pub kernel: [usize; 3],
    /// Zeros in front of each of them.
    pub pre_padding: [usize; 3],
    /// Zeros behind.
    pub post_padding: [usize; 3],
    /// Steps from one output to the next.
    pub strides: [usize; 3],
    /// Of all tensors.
    pub dtype: Dtype,
    /// Whether there is one.
    pub bias: bool,
}

impl ConvGraph {
    /// The input's id in an execution.
    pub const X: i64 = 1;
    /// The filters' id.
    pub const W: i64 = 2;
    /// The output's id.
    pub const Y: i64 = 3;
    /// The bias' id.
    pub const BIAS: i64 = 4;

    /// Of y: n, channels, depth, height, width.
    ///
    /// # Errors
    /// [`Error::Shape`] if the filter does not fit into the input, or a size is 0.
    pub fn output(&self) -> Result<[usize; 5]> {
        let [n, _, ..] = self.input;
        let mut output = [n, self.out_channels, 0, 0, 0];
        for axis in 0..3 {
            let padded = self.pre_padding[axis] + self.input[axis + 2] + self.post_padding[axis];
            let (kernel, stride) = (self.kernel[axis], self.strides[axis]);
            if kernel == 0 || stride == 0 || kernel > padded {
                let message =
                    format!("axis {axis}: filter of {kernel}, stride of {stride}, {padded} padded inputs");
                return Err(Error::shape("conv", message));
            }
            output[axis + 2] = (padded - kernel) / stride + 1;
        }
        if self.input.contains(&0) || self.out_channels == 0 {
            let message =
                format!("expected sizes of at least 1, found {:?} to {}", self.input, self.out_channels);
            return Err(Error::shape("conv", message));
        }
        Ok(output)
    }

    /// The engines for it on this target, best first. All give the same bytes each time, and in f32 none uses TF32.
    ///
    /// # Errors
    /// [`Error::Shape`] for sizes that it cannot have, [`Error::Unsupported`] if cuDNN has no engine.
    pub fn engines(&self, target: &Target<'_>) -> Result<Vec<Engine>> {
        let graph = self.graph(target)?;
        let excluded = self.excluded();
        let mut engines = graph.engines(target, Search::Proposed, excluded)?;
        engines.extend(graph.engines(target, Search::Fallback, excluded)?);
        if engines.is_empty() {
            let message = format!("no engine for a convolution on this GPU: {self:?}");
            return Err(Error::Unsupported { call: "cuDNN", message });
        }
        Ok(engines)
    }

    fn excluded(&self) -> Notes {
        match self.dtype {
            Dtype::F32 => Notes::UNWANTED.union(Notes::TENSOR_CORES),
            _ => Notes::UNWANTED,
        }
    }

    fn graph(&self, target: &Target<'_>) -> Result<Graph> {
        let [n, channels, ..] = self.input;
        let [depth, height, width] = self.kernel;
        let output = channels_last_dims(self.output()?);
        let mut builder = Builder::new(target);
        let x = builder.operand(self.operand(Self::X, "x", self.input))?;
        let w = builder.operand(self.operand(
            Self::W,
            "w",
            [self.out_channels, channels, depth, height, width],
        ))?;
        let y = Operand {
            dims: output.0.to_vec(),
            strides: output.1.to_vec(),
            ..self.operand(Self::Y, "y", [n; 5])
        };
        let y = builder.operand(y)?;
        let window = Window {
            pre_padding: self.pre_padding.map(|size| size as i64),
            post_padding: self.post_padding.map(|size| size as i64),
            strides: self.strides.map(|size| size as i64),
        };
        if !self.bias {
            builder.convolution(&window, x, w, y)?;
            return builder.finish("conv");
        }
        // Only with f32 between convolution and bias, and a bias of the tensors' dtype, is the pair one compiled kernel.
        let sums = builder.intermediate(Dtype::F32, &output.0, &output.1)?;
        builder.convolution(&window, x, w, sums)?;
        let bias = builder.operand(self.operand(Self::BIAS, "bias", [1, self.out_channels, 1, 1, 1]))?;
        builder.pointwise(sys::POINTWISE_ADD, sums, Some(bias), y)?;
        builder.finish("conv + bias")
    }

    fn operand(&self, id: i64, name: &'static str, dims: [usize; 5]) -> Operand {
        let (dims, strides) = channels_last_dims(dims);
        Operand { id, name, dtype: self.dtype, dims: dims.to_vec(), strides: strides.to_vec() }
    }
}

/// n, channels, depth, height and width as cuDNN is told them, with their strides if channels are innermost.
fn channels_last_dims(dims: [usize; 5]) -> ([i64; 5], [i64; 5]) {
    let [n, c, d, h, w] = dims.map(|dim| dim as i64);
    ([n, c, d, h, w], [c * d * h * w, 1, h * w * c, w * c, c])
}
