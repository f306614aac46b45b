//! Convolutions of videos, channels last.
//!
//! Sums are `f32`; a half-precision result is rounded once, bias included, and once more after a residual is added.
//! An input brings its padding in time along, so that a causal convolution's cached frames are copied where its norm
//! writes; zeros around a frame are the kernel's. NVIDIA's library convolves where `ops::library` says
//! so; which of the own kernels does otherwise is decided in one place, `Engine::choose`.
//! Must not know the autoencoder.

use super::library;
use crate::launch::{FloatKernels, Global, Launch, float_kernels, kernel_args};
use crate::{Dtype, Error, Result, Tensor};

const OP: &str = "conv3d";
const THREADS: u32 = 256;
const WIDE: FloatKernels = float_kernels!("conv_wide");
const NARROW: FloatKernels = float_kernels!("conv_narrow");

kernel_args! {
    struct ConvArgs {
        input: Global,
        weight: Global,
        bias: Global,
        residual: Global,
        out: Global,
        height: u32,
        width: u32,
        channels: u32,
        out_frames: u32,
        out_height: u32,
        out_width: u32,
        outs: u32,
        kt: u32,
        kh: u32,
        kw: u32,
        top: u32,
        left: u32,
        stride: u32,
        enlarged: u32,
    }
}

/// How a convolution's window moves over a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Zeros above and below, left and right.
    pub padding: [[usize; 2]; 2],
    /// Pixels from one window to the next, in height and in width.
    pub stride: usize,
    /// Reads the input as if every pixel stood twice in height and in width (nearest-neighbour upsampling).
    pub enlarged: bool,
}

impl Window {
    /// Of 1 x 1.
    pub const POINTWISE: Self = Self { padding: [[0; 2]; 2], stride: 1, enlarged: false };
    /// Of 3 x 3, for an output as large as the input.
    pub const SAME: Self = Self { padding: [[1; 2]; 2], stride: 1, enlarged: false };
    /// Of 3 x 3, for an output of half the size, padded below and to the right only.
    pub const HALVING: Self = Self { padding: [[0, 1]; 2], stride: 2, enlarged: false };
    /// Of 3 x 3, for an output of twice the size.
    pub const DOUBLING: Self = Self { padding: [[1; 2]; 2], stride: 1, enlarged: true };
}

/// A convolution's weights.
#[derive(Clone, Debug)]
pub struct Conv3d {
    weight: Tensor,
    bias: Option<Tensor>,
}

/// What a convolution is computed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    /// Any size, tiles of 128 pixels and 8 output channels.
    Narrow,
    /// Any size, tiles of 64 pixels and 64 output channels.
    Wide,
    /// Half precision in multiples of eight channels, from compute capability 8.0 on.
    TensorCores,
}

impl Engine {
    /// The fastest that can compute it.
    fn choose(input: &Tensor, weight: &Tensor) -> Self {
        let (channels, outs) = (weight.dims()[4], weight.dims()[0]);
        let half = matches!(input.dtype(), Dtype::F16 | Dtype::Bf16);
        let aligned = [input, weight].iter().all(|tensor| tensor.address().is_multiple_of(16));
        if half && aligned && channels % 8 == 0 && outs % 8 == 0 && input.device().capability().major >= 8 {
            Self::TensorCores
        } else if outs <= 16 {
            Self::Narrow
        } else {
            Self::Wide
        }
    }

    fn kernel(self, dtype: Dtype) -> Result<&'static str> {
        match (self, dtype) {
            (Self::TensorCores, Dtype::F16) => Ok("conv_mma_f16"),
            (Self::TensorCores, _) => Ok("conv_mma_bf16"),
            (Self::Narrow, _) => NARROW.of(OP, dtype),
            (Self::Wide, _) => WIDE.of(OP, dtype),
        }
    }

    /// Pixels and output channels of a block.
    fn tile(self) -> [usize; 2] {
        match self {
            Self::Narrow => [128, 8],
            Self::Wide => [64, 64],
            Self::TensorCores => [128, 128],
        }
    }

    /// As laid out in the kernel: `f32` tiles 16 products deep, or three stages of 32 products.
    fn shared_bytes(self) -> usize {
        let [pixels, outs] = self.tile();
        match self {
            Self::Narrow | Self::Wide => 16 * (pixels + 1 + outs) * 4,
            Self::TensorCores => 3 * 32 * (pixels + outs) * 2,
        }
    }
}

impl Conv3d {
    /// From a weight `[outs, kt, kh, kw, channels]` and a bias `[outs]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for other shapes, or different dtypes.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let [outs, ..] = weight.dims_n::<5>(OP)?;
        if weight.is_empty() {
            return Err(Error::shape(OP, format!("expected a weight, found {:?}", weight.dims())));
        }
        if let Some(bias) = &bias {
            expect(&weight, bias, "bias", &[outs])?;
        }
        Ok(Self { weight, bias })
    }

    /// Input channels that it reads.
    pub fn channels(&self) -> usize {
        self.weight.dims()[4]
    }

    /// Output channels.
    pub fn outs(&self) -> usize {
        self.weight.dims()[0]
    }

    /// Frames that one output frame sees: an input has one less than that more than its output.
    pub fn frames(&self) -> usize {
        self.weight.dims()[1]
    }

    /// Multiply-adds of an output frame of `height` x `width`.
    pub fn macs(&self, height: usize, width: usize) -> u64 {
        height as u64 * width as u64 * self.weight.len() as u64
    }

    /// `[outs, kt, kh, kw, channels]`.
    #[cfg(feature = "cuda")]
    pub(super) fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `[outs]`.
    #[cfg(feature = "cuda")]
    pub(super) fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Whether NVIDIA's library can read the tensors as they are. It would need an enlarged input in memory, where an own
    /// kernel reads it from the small one.
    pub(super) fn suits_library(&self, input: &Tensor, window: Window) -> bool {
        let tensors = [Some(input), Some(&self.weight), self.bias.as_ref()];
        !window.enlarged
            && tensors
                .into_iter()
                .flatten()
                .all(|tensor| tensor.dtype().is_float() && tensor.address().is_multiple_of(16))
    }

    /// What NVIDIA's library is asked for this call; none if it is not asked.
    ///
    /// # Errors
    /// [`Error::Shape`] for an input of other dimensions.
    #[cfg(feature = "cuda")]
    pub fn graph(&self, input: &Tensor, window: Window) -> Result<Option<crate::cudnn::ConvGraph>> {
        let [outs, kt, kh, kw, channels] = self.weight.dims_n::<5>(OP)?;
        let [frames, height, width, _] = input.dims_n::<4>(OP)?;
        if !self.suits_library(input, window) {
            return Ok(None);
        }
        let [[top, bottom], [left, right]] = window.padding;
        Ok(Some(crate::cudnn::ConvGraph {
            input: [1, channels, frames, height, width],
            out_channels: outs,
            kernel: [kt, kh, kw],
            pre_padding: [0, top, left],
            post_padding: [0, bottom, right],
            strides: [1, window.stride, window.stride],
            dtype: input.dtype(),
            bias: self.bias.is_some(),
        }))
    }

    /// `[t, h', w', outs]` of an input `[t + kt - 1, h, w, channels]`; `residual`, of the output's shape, is added after
    /// rounding.
    ///
    /// # Errors
    /// [`Error::Shape`] for tensors that do not fit, [`Error::OutOfMemory`].
    pub fn forward(&self, input: &Tensor, window: Window, residual: Option<&Tensor>) -> Result<Tensor> {
        let out = Tensor::empty(input.device(), &self.out_dims(input, window)?, input.dtype())?;
        self.forward_into(input, window, residual, &out)?;
        Ok(out)
    }

    /// Of the output of [`Self::forward`].
    fn out_dims(&self, input: &Tensor, window: Window) -> Result<[usize; 4]> {
        let [outs, kt, kh, kw, channels] = self.weight.dims_n::<5>(OP)?;
        let [frames, height, width, _] = input.dims_n::<4>(OP)?;
        expect(&self.weight, input, "input", &[frames, height, width, channels])?;
        let [out_height, out_width] = window.out_size([height, width], [kh, kw])?;
        let Some(out_frames) = (frames + 1).checked_sub(kt) else {
            return Err(Error::shape(OP, format!("expected {} frames at least, found {frames}", kt - 1)));
        };
        Ok([out_frames, out_height, out_width, outs])
    }

    /// [`Self::forward`] into a tensor that is there already, and neither the input nor the residual.
    ///
    /// # Errors
    /// [`Error::Shape`] for tensors that do not fit, [`Error::OutOfMemory`] for a library's workspace.
    pub fn forward_into(
        &self,
        input: &Tensor,
        window: Window,
        residual: Option<&Tensor>,
        out: &Tensor,
    ) -> Result<()> {
        let [outs, kt, kh, kw, channels] = self.weight.dims_n::<5>(OP)?;
        let dims = self.out_dims(input, window)?;
        expect(&self.weight, out, "output", &dims)?;
        let [frames, height, width, _] = input.dims_n::<4>(OP)?;
        let [out_frames, out_height, out_width, _] = dims;
        let pixels = out_frames * out_height * out_width;
        // The kernels count pixels in 32 bits.
        if pixels.max(frames * height * width) > i32::MAX as usize || self.weight.len() > i32::MAX as usize {
            return Err(Error::shape(OP, format!("{:?} to {dims:?} is too large", input.dims())));
        }
        if let Some(residual) = residual {
            expect(&self.weight, residual, "residual", &dims)?;
        }
        if library::convolve(self, input, window, residual, out)? {
            return Ok(());
        }
        let args = ConvArgs {
            input: input.global(),
            weight: self.weight.global(),
            bias: self.bias.as_ref().map_or(Global::ABSENT, Tensor::global),
            residual: residual.map_or(Global::ABSENT, Tensor::global),
            out: out.global(),
            height: height as u32,
            width: width as u32,
            channels: channels as u32,
            out_frames: out_frames as u32,
            out_height: out_height as u32,
            out_width: out_width as u32,
            outs: outs as u32,
            kt: kt as u32,
            kh: kh as u32,
            kw: kw as u32,
            top: window.padding[0][0] as u32,
            left: window.padding[1][0] as u32,
            stride: window.stride as u32,
            enlarged: window.enlarged.into(),
        };
        let engine = Engine::choose(input, &self.weight);
        let [tile_pixels, tile_outs] = engine.tile();
        let blocks = pixels.div_ceil(tile_pixels) * outs.div_ceil(tile_outs);
        let launch =
            Launch::new(engine.kernel(input.dtype())?, blocks, THREADS).shared(engine.shared_bytes());
        input.device().launch(&launch, &args)
    }
}

impl Window {
    /// Height and width of the output for an input's and a kernel's.
    fn out_size(self, input: [usize; 2], kernel: [usize; 2]) -> Result<[usize; 2]> {
        let mut sizes = [0; 2];
        for axis in 0..2 {
            let len = (input[axis] << usize::from(self.enlarged)) + self.padding[axis].iter().sum::<usize>();
            if len < kernel[axis] || self.stride == 0 {
                return Err(Error::shape(
                    OP,
                    format!("{self:?} of {kernel:?} does not fit {input:?} pixels"),
                ));
            }
            sizes[axis] = (len - kernel[axis]) / self.stride + 1;
        }
        Ok(sizes)
    }
}

/// Checks a tensor that goes with a weight.
fn expect(weight: &Tensor, found: &Tensor, name: &str, dims: &[usize]) -> Result<()> {
    weight.device().expect_same(OP, found.device())?;
    if (found.dims(), found.dtype()) != (dims, weight.dtype()) {
        let message = format!(
            "{name}: expected {} of {dims:?}, found {} of {:?}",
            weight.dtype(),
            found.dtype(),
            found.dims()
        );
        return Err(Error::shape(OP, message));
    }
    Ok(())
}
