//! Group normalisation of a chunk of frames, fused with what follows it in the video autoencoder.
//!
//! Statistics are joined in `f64` in a fixed order. Normalising, the condition and `SiLU` are one pass that writes
//! where the next convolution reads, rounding after each step where `PyTorch` rounds. Must not know the autoencoder.

use crate::launch::{FloatKernels, Global, Launch, float_kernels, kernel_args};
use crate::{Dtype, Error, Result, Tensor};

const OP: &str = "group norm";
const MOMENTS: [FloatKernels; 2] =
    [float_kernels!("group_norm_moments"), float_kernels!("group_norm_moments_vec")];
const COEFFICIENTS: FloatKernels = float_kernels!("group_norm_coefficients");
const APPLY: [FloatKernels; 2] = [float_kernels!("group_norm_apply"), float_kernels!("group_norm_apply_vec")];
const THREADS: usize = 256;
/// Values that a thread sums up in `f32`.
const PIXELS_PER_SUM: usize = 128;
const PIXELS_PER_THREAD: usize = 8;

kernel_args! {
    struct MomentsArgs {
        x: Global,
        partial: Global,
        pixels: u32,
        channels: u32,
        group_len: u32,
        pixels_per_block: u32,
    }

    struct CoefficientsArgs {
        x: Global,
        weight: Global,
        bias: Global,
        partial: Global,
        out: Global,
        eps: f64,
        blocks: u32,
        pixels: u32,
        channels: u32,
        group_len: u32,
    }

    struct ApplyArgs {
        x: Global,
        coefficients: Global,
        condition: Global,
        out: Global,
        frames: u32,
        height: u32,
        width: u32,
        channels: u32,
        latent_frames: u32,
        latent_height: u32,
        latent_width: u32,
        segments: u32,
        pixels_per_thread: u32,
    }
}

/// A group norm's parameters.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

/// How threads share channels: in vectors of 16 bytes where that fits, one by one otherwise.
#[derive(Clone, Copy)]
struct Share {
    vectors: usize,
    fast: bool,
    /// Channels of a vector.
    len: usize,
}

impl Share {
    fn of(channels: usize, tensors: &[&Tensor]) -> Self {
        let len = 16 / tensors[0].dtype().bytes();
        let fast =
            channels.is_multiple_of(len) && tensors.iter().all(|tensor| tensor.address().is_multiple_of(16));
        let len = if fast { len } else { 1 };
        Self { vectors: channels / len, fast, len }
    }

    /// Pixels that a block has at once, and blocks for all vectors of one pixel.
    fn lanes_and_blocks(self) -> [usize; 2] {
        [THREADS / self.vectors.min(THREADS), self.vectors.div_ceil(THREADS)]
    }

    fn kernel(self, kernels: [FloatKernels; 2], dtype: Dtype) -> Result<&'static str> {
        kernels[usize::from(self.fast)].of(OP, dtype)
    }
}

impl GroupNorm {
    /// From weight and bias `[channels]`; `groups` divides `channels`.
    ///
    /// # Errors
    /// [`Error::Shape`] for tensors that do not fit.
    pub fn new(weight: Tensor, bias: Tensor, groups: usize, eps: f64) -> Result<Self> {
        let [channels] = weight.dims_n::<1>(OP)?;
        weight.device().expect_same(OP, bias.device())?;
        if (bias.dims(), bias.dtype()) != (weight.dims(), weight.dtype()) {
            let message = format!("bias: expected {:?}, found {:?}", weight.dims(), bias.dims());
            return Err(Error::shape(OP, message));
        }
        if channels == 0 || groups == 0 || channels % groups != 0 {
            return Err(Error::shape(OP, format!("{channels} channels in {groups} groups")));
        }
        Ok(Self { weight, bias, groups, eps })
    }

    /// `silu(norm(x))` of `x` `[frames, height, width, channels]` into `out`, of the same shape.
    ///
    /// The statistics are those of all of `x`. With a `condition`
    /// `[latent frames, latent height, latent width, 2 * channels]`, a factor and a summand for each channel, taken from the nearest neighbour, stand between norm
    /// and `SiLU`.
    ///
    /// # Errors
    /// [`Error::Shape`] for tensors that do not fit, [`Error::OutOfMemory`].
    pub fn silu_into(&self, x: &Tensor, condition: Option<&Tensor>, out: &Tensor) -> Result<()> {
        let latents = self.check(x, condition, out)?;
        if x.is_empty() {
            return Ok(());
        }
        let coefficients = self.coefficients(x)?;
        let [frames, height, width, channels] = x.dims_n::<4>(OP)?;
        let tensors: Vec<&Tensor> = [x, out].into_iter().chain(condition).collect();
        let share = Share::of(channels, &tensors);
        let [lanes, vector_blocks] = share.lanes_and_blocks();
        let segments = width.div_ceil(lanes * PIXELS_PER_THREAD);
        let launch = Launch {
            grid: [(segments * vector_blocks) as u32, height as u32, frames as u32],
            ..Launch::new(share.kernel(APPLY, x.dtype())?, 1, THREADS as u32)
        };
        let args = ApplyArgs {
            x: x.global(),
            coefficients: coefficients.global(),
            condition: condition.map_or(Global::ABSENT, Tensor::global),
            out: out.global(),
            frames: frames as u32,
            height: height as u32,
            width: width as u32,
            channels: channels as u32,
            latent_frames: latents[0] as u32,
            latent_height: latents[1] as u32,
            latent_width: latents[2] as u32,
            segments: segments as u32,
            pixels_per_thread: PIXELS_PER_THREAD as u32,
        };
        x.device().launch(&launch, &args)
    }

    /// A factor for each channel, then a summand for each.
    fn coefficients(&self, x: &Tensor) -> Result<Tensor> {
        let [frames, height, width, channels] = x.dims_n::<4>(OP)?;
        let (pixels, group_len) = (frames * height * width, channels / self.groups);
        let share = Share::of(channels, &[x]);
        let [lanes, vector_blocks] = share.lanes_and_blocks();
        let pixels_per_block = lanes * PIXELS_PER_SUM;
        let blocks = pixels.div_ceil(pixels_per_block);
        // Of `f64`, for which there is no dtype: two `f32` each.
        let partial = Tensor::empty(x.device(), &[blocks, channels, 2, 2], Dtype::F32)?;
        let partial_global = Global { len: partial.len() as u64 / 2, ..partial.global() };
        let launch = Launch {
            grid: [blocks as u32, vector_blocks as u32, 1],
            ..Launch::new(share.kernel(MOMENTS, x.dtype())?, 1, THREADS as u32)
        };
        let moments = MomentsArgs {
            x: x.global(),
            partial: partial_global,
            pixels: pixels as u32,
            channels: channels as u32,
            group_len: group_len as u32,
            pixels_per_block: pixels_per_block as u32,
        };
        x.device().launch(&launch.shared(THREADS * share.len * 2 * size_of::<f32>()), &moments)?;
        let out = Tensor::empty(x.device(), &[2, channels], Dtype::F32)?;
        let launch = Launch::new(COEFFICIENTS.of(OP, x.dtype())?, self.groups, THREADS as u32);
        let coefficients = CoefficientsArgs {
            x: x.global(),
            weight: self.weight.global(),
            bias: self.bias.global(),
            partial: partial_global,
            out: out.global(),
            eps: self.eps,
            blocks: blocks as u32,
            pixels: pixels as u32,
            channels: channels as u32,
            group_len: group_len as u32,
        };
        x.device().launch(&launch.shared(THREADS * 2 * size_of::<f64>()), &coefficients)?;
        Ok(out)
    }

    /// The condition's frames, height and width.
    fn check(&self, x: &Tensor, condition: Option<&Tensor>, out: &Tensor) -> Result<[usize; 3]> {
        let [frames, height, width, _] = x.dims_n::<4>(OP)?;
        let [channels] = self.weight.dims_n::<1>(OP)?;
        let dims = [frames, height, width, channels];
        let dtype = self.weight.dtype();
        let expect = |name: &str, tensor: &Tensor, dims: &[usize]| {
            self.weight.device().expect_same(OP, tensor.device())?;
            if (tensor.dims(), tensor.dtype()) == (dims, dtype) {
                return Ok(());
            }
            let (found, found_dtype) = (tensor.dims(), tensor.dtype());
            let message = format!("{name}: expected {dtype} of {dims:?}, found {found_dtype} of {found:?}");
            Err(Error::shape(OP, message))
        };
        expect("x", x, &dims)?;
        expect("out", out, &dims)?;
        // The kernels count pixels in 32 bits; rows and frames are the grid's.
        if frames * height * width > i32::MAX as usize || height.max(frames) > 65_535 {
            return Err(Error::shape(OP, format!("{dims:?} is too large")));
        }
        let Some(condition) = condition else { return Ok([0; 3]) };
        let [latent_frames, latent_height, latent_width, _] = condition.dims_n::<4>(OP)?;
        expect("condition", condition, &[latent_frames, latent_height, latent_width, 2 * channels])?;
        if condition.is_empty() {
            return Err(Error::shape(OP, "condition: expected pixels, found none"));
        }
        Ok([latent_frames, latent_height, latent_width])
    }
}
