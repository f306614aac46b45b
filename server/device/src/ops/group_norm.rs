//! Group normalisation of a chunk of frames, fused with what follows it in the video autoencoder.
//!
//! A chunk comes in pieces of some frames, so that what it is turned into need not exist as a whole: first its
//! statistics are taken, joined in `f64` in a fixed order, then piece after piece is normalised. Normalising, the
//! condition and `SiLU` are one pass that writes where the next convolution reads, rounding after each step where
//! `PyTorch` rounds. Must not know the autoencoder.

use crate::launch::{FloatKernels, Global, Launch, float_kernels, kernel_args};
use crate::{Dtype, Error, Result, Tensor};

const OP: &str = "group norm";
const MOMENTS: [FloatKernels; 2] =
    [float_kernels!("group_norm_moments"), float_kernels!("group_norm_moments_vec")];
const COEFFICIENTS: FloatKernels = float_kernels!("group_norm_coefficients");
const APPLY: [FloatKernels; 2] = [float_kernels!("group_norm_apply"), float_kernels!("group_norm_apply_vec")];
const THREADS: usize = 256;
/// Values that a thread sums up in `f32`: as few as make this many blocks, to occupy a whole GPU also with a small piece.
const LEAST_PIXELS_PER_SUM: usize = 8;
const MOST_PIXELS_PER_SUM: usize = 128;
const BLOCKS: usize = 512;
const PIXELS_PER_THREAD: usize = 8;

kernel_args! {
    struct MomentsArgs {
        x: Global,
        origin: Global,
        partial: Global,
        pixels: u32,
        channels: u32,
        group_len: u32,
        pixels_per_block: u32,
    }

    struct CoefficientsArgs {
        origin: Global,
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
        first_frame: u32,
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

/// A group norm of one chunk, whose statistics are known.
#[derive(Debug)]
pub struct ChunkNorm {
    /// A factor for each channel, then a summand for each; none of an empty chunk.
    coefficients: Option<Tensor>,
    /// The whole chunk's `[frames, height, width, channels]`.
    dims: [usize; 4],
    dtype: Dtype,
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

    /// Takes the statistics of a chunk, all frames of all `pieces` `[frames, height, width, channels]` of it.
    ///
    /// # Errors
    /// [`Error::Shape`] for tensors that do not fit, [`Error::OutOfMemory`].
    pub fn measure(&self, pieces: &[Tensor]) -> Result<ChunkNorm> {
        let dims = self.check(pieces)?;
        let coefficients = if dims.contains(&0) { None } else { Some(self.coefficients(pieces, dims)?) };
        Ok(ChunkNorm { coefficients, dims, dtype: self.weight.dtype() })
    }

    fn coefficients(
        &self,
        pieces: &[Tensor],
        [frames, height, width, channels]: [usize; 4],
    ) -> Result<Tensor> {
        let device = self.weight.device();
        let group_len = channels / self.groups;
        let share = Share::of(channels, &pieces.iter().collect::<Vec<_>>());
        let [lanes, vector_blocks] = share.lanes_and_blocks();
        // By sizes alone, so that the order of the sums is the same on every GPU.
        let largest = pieces.iter().map(|piece| piece.len() / channels).max().unwrap_or(0);
        let pixels_per_sum = (largest / (lanes * BLOCKS)).clamp(LEAST_PIXELS_PER_SUM, MOST_PIXELS_PER_SUM);
        let pixels_per_block = lanes * pixels_per_sum;
        let blocks_of = |piece: &Tensor| (piece.len() / channels).div_ceil(pixels_per_block);
        let blocks: usize = pieces.iter().map(blocks_of).sum();
        // Of `f64`, for which there is no dtype: two `f32` each.
        let partial = Tensor::empty(device, &[blocks, channels, 2, 2], Dtype::F32)?;
        let doubles = |tensor: &Tensor| Global { len: tensor.len() as u64 / 2, ..tensor.global() };
        let origin = pieces.iter().find(|piece| !piece.is_empty()).map_or(Global::ABSENT, Tensor::global);
        let mut first_block = 0;
        for piece in pieces {
            let blocks = blocks_of(piece);
            let launch = Launch {
                grid: [blocks as u32, vector_blocks as u32, 1],
                ..Launch::new(share.kernel(MOMENTS, piece.dtype())?, 1, THREADS as u32)
            };
            let moments = MomentsArgs {
                x: piece.global(),
                origin,
                partial: doubles(&partial.slice(first_block, blocks)?),
                pixels: (piece.len() / channels) as u32,
                channels: channels as u32,
                group_len: group_len as u32,
                pixels_per_block: pixels_per_block as u32,
            };
            device.launch(&launch.shared(THREADS * share.len * 2 * size_of::<f32>()), &moments)?;
            first_block += blocks;
        }
        let out = Tensor::empty(device, &[2, channels], Dtype::F32)?;
        let launch = Launch::new(COEFFICIENTS.of(OP, self.weight.dtype())?, self.groups, THREADS as u32);
        let coefficients = CoefficientsArgs {
            origin,
            weight: self.weight.global(),
            bias: self.bias.global(),
            partial: doubles(&partial),
            out: out.global(),
            eps: self.eps,
            blocks: blocks as u32,
            pixels: (frames * height * width) as u32,
            channels: channels as u32,
            group_len: group_len as u32,
        };
        device.launch(&launch.shared(THREADS * 2 * size_of::<f64>()), &coefficients)?;
        Ok(out)
    }

    /// The chunk's frames, height, width and channels.
    fn check(&self, pieces: &[Tensor]) -> Result<[usize; 4]> {
        let [channels] = self.weight.dims_n::<1>(OP)?;
        let Some(first) = pieces.first() else {
            return Err(Error::shape(OP, "expected a chunk, found no piece"));
        };
        let [_, height, width, _] = first.dims_n::<4>(OP)?;
        let mut dims = [0, height, width, channels];
        for piece in pieces {
            let [frames, ..] = piece.dims_n::<4>(OP)?;
            expect(&self.weight, self.weight.dtype(), "x", piece, &[frames, height, width, channels])?;
            dims[0] += frames;
        }
        // The kernels count pixels in 32 bits; rows and frames are the grid's.
        if dims[0] * height * width > i32::MAX as usize || height.max(dims[0]) > 65_535 {
            return Err(Error::shape(OP, format!("{dims:?} is too large")));
        }
        Ok(dims)
    }
}

impl ChunkNorm {
    /// `silu(norm(x))` into `out`, of the same shape, of a piece `x` of the chunk that begins with its `first_frame`.
    ///
    /// With a `condition` `[latent frames, latent height, latent width, 2 * channels]` of the whole chunk, a factor and a
    /// summand for each channel, taken from the nearest neighbour, stand between norm and `SiLU`.
    ///
    /// # Errors
    /// [`Error::Shape`] for tensors that do not fit.
    pub fn silu_into(
        &self,
        x: &Tensor,
        first_frame: usize,
        condition: Option<&Tensor>,
        out: &Tensor,
    ) -> Result<()> {
        let latents = self.check(x, first_frame, condition, out)?;
        let (Some(coefficients), false) = (&self.coefficients, x.is_empty()) else { return Ok(()) };
        let [frames, height, width, channels] = self.dims;
        let tensors: Vec<&Tensor> = [x, out].into_iter().chain(condition).collect();
        let share = Share::of(channels, &tensors);
        let [lanes, vector_blocks] = share.lanes_and_blocks();
        let segments = width.div_ceil(lanes * PIXELS_PER_THREAD);
        let launch = Launch {
            grid: [(segments * vector_blocks) as u32, height as u32, x.dims()[0] as u32],
            ..Launch::new(share.kernel(APPLY, x.dtype())?, 1, THREADS as u32)
        };
        let args = ApplyArgs {
            x: x.global(),
            coefficients: coefficients.global(),
            condition: condition.map_or(Global::ABSENT, Tensor::global),
            out: out.global(),
            frames: frames as u32,
            first_frame: first_frame as u32,
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

    /// The condition's frames, height and width.
    fn check(
        &self,
        x: &Tensor,
        first_frame: usize,
        condition: Option<&Tensor>,
        out: &Tensor,
    ) -> Result<[usize; 3]> {
        let [chunk_frames, height, width, channels] = self.dims;
        let [frames, ..] = x.dims_n::<4>(OP)?;
        let end = first_frame + frames;
        if end > chunk_frames {
            return Err(Error::shape(OP, format!("frames {first_frame} to {end} of {chunk_frames}")));
        }
        let dims = [frames, height, width, channels];
        let like = self.coefficients.as_ref().unwrap_or(x);
        expect(like, self.dtype, "x", x, &dims)?;
        expect(like, self.dtype, "out", out, &dims)?;
        let Some(condition) = condition else { return Ok([0; 3]) };
        let [latent_frames, latent_height, latent_width, _] = condition.dims_n::<4>(OP)?;
        let dims = [latent_frames, latent_height, latent_width, 2 * channels];
        expect(like, self.dtype, "condition", condition, &dims)?;
        if condition.is_empty() {
            return Err(Error::shape(OP, "condition: expected pixels, found none"));
        }
        Ok([latent_frames, latent_height, latent_width])
    }
}

/// Checks a tensor that lies beside another.
fn expect(beside: &Tensor, dtype: Dtype, name: &str, found: &Tensor, dims: &[usize]) -> Result<()> {
    beside.device().expect_same(OP, found.device())?;
    if (found.dims(), found.dtype()) == (dims, dtype) {
        return Ok(());
    }
    let (found, found_dtype) = (found.dims(), found.dtype());
    let message = format!("{name}: expected {dtype} of {dims:?}, found {found_dtype} of {found:?}");
    Err(Error::shape(OP, message))
}
