//! The layers that the encoder and the decoder are made of, on one chunk of time.
//!
//! Videos are `[frames, height, width, channels]`. A norm writes straight into the input of the convolution behind it,
//! piece by piece: only the norm's statistics need the whole chunk. Must not know the order of the layers.

use device::ops::conv::{Conv3d, Window};
use device::ops::group_norm::{ChunkNorm, GroupNorm};
use device::{Device, Dtype, Tensor};

use super::causal::load_conv3d;
pub(super) use super::causal::{CausalConv, ConvCache, Run, Slots, load_conv};
use super::chunk::Chunk;
use crate::Result;
use crate::gpu::source::{Scope, dtype_of};

const POINTWISE: [usize; 3] = [1; 3];

/// A group norm, in the decoder followed by a factor and a summand made from the latents.
pub(super) struct Norm {
    norm: GroupNorm,
    condition: Option<Conv3d>,
}

/// What a [`Norm`] is built from.
#[derive(Clone, Copy)]
pub(super) struct NormConfig {
    pub(super) groups: usize,
    pub(super) eps: f64,
    /// The channels of the latents, in the decoder.
    pub(super) latent_channels: Option<usize>,
}

impl Norm {
    pub(super) fn load(scope: &Scope<'_>, channels: usize, config: NormConfig) -> Result<Self> {
        let norm = |scope: &Scope<'_>| -> Result<GroupNorm> {
            let (weight, bias) = (scope.tensor("weight", &[channels])?, scope.tensor("bias", &[channels])?);
            Ok(GroupNorm::new(weight, bias, config.groups, config.eps)?)
        };
        match config.latent_channels {
            None => Ok(Self { norm: norm(scope)?, condition: None }),
            Some(latent_channels) => Ok(Self {
                norm: norm(&scope.pp("norm_layer"))?,
                condition: Some(load_condition(scope, [latent_channels, channels])?),
            }),
        }
    }

    /// Takes the statistics of a chunk; `latents` are the chunk's, in the decoder. The condition is computed at their
    /// resolution, which gives the same values as enlarging them first.
    fn measure(&self, x: &Chunk, latents: Option<&Tensor>) -> Result<MeasuredNorm> {
        let condition = match (&self.condition, latents) {
            (Some(conv), Some(latents)) => Some(conv.forward(latents, Window::POINTWISE, None)?),
            _ => None,
        };
        Ok(MeasuredNorm { norm: self.norm.measure(x.pieces())?, condition })
    }
}

/// A norm of one chunk.
struct MeasuredNorm {
    norm: ChunkNorm,
    condition: Option<Tensor>,
}

impl MeasuredNorm {
    /// Norm, condition and `SiLU` of a piece that begins with this frame of the chunk.
    fn silu_into(&self, piece: &Tensor, first_frame: usize, out: &Tensor) -> Result<()> {
        Ok(self.norm.silu_into(piece, first_frame, self.condition.as_ref(), out)?)
    }
}

/// The convolutions for factor and summand as one: all factors, then all summands.
fn load_condition(scope: &Scope<'_>, [latent_channels, channels]: [usize; 2]) -> Result<Conv3d> {
    let dtype = dtype_of(scope.dtype())?;
    let stored = [channels, latent_channels, 1, 1, 1];
    let load = |name: &str| -> Result<[Tensor; 2]> {
        let scope = scope.pp(name).pp("conv");
        Ok([
            scope.tensor_as("weight", &stored, &[channels, 1, 1, 1, latent_channels])?,
            scope.tensor("bias", &[channels])?,
        ])
    };
    let (factor, summand) = (load("conv_y")?, load("conv_b")?);
    let weight = concat(scope.device(), dtype, &[&factor[0], &summand[0]])?;
    let bias = concat(scope.device(), dtype, &[&factor[1], &summand[1]])?;
    Ok(Conv3d::new(weight, Some(bias))?)
}

/// Tensors of one shape, one after the other along the first dimension.
fn concat(device: &Device, dtype: Dtype, parts: &[&Tensor]) -> Result<Tensor> {
    let mut dims = parts[0].dims().to_vec();
    let rows = dims[0];
    dims[0] *= parts.len();
    let whole = Tensor::empty(device, &dims, dtype)?;
    for (index, part) in parts.iter().enumerate() {
        whole.slice(index * rows, rows)?.copy_from(part)?;
    }
    Ok(whole)
}

/// Norm, convolution, norm, convolution, and the input added.
pub(super) struct Resnet {
    norm1: Norm,
    conv1: CausalConv,
    norm2: Norm,
    conv2: CausalConv,
    shortcut: Option<Conv3d>,
}

impl Resnet {
    pub(super) fn load(
        scope: &Scope<'_>,
        slots: &mut Slots,
        [from, to]: [usize; 2],
        norm: NormConfig,
    ) -> Result<Self> {
        Ok(Self {
            norm1: Norm::load(&scope.pp("norm1"), from, norm)?,
            conv1: CausalConv::load(&scope.pp("conv1"), slots, [from, to])?,
            norm2: Norm::load(&scope.pp("norm2"), to, norm)?,
            conv2: CausalConv::load(&scope.pp("conv2"), slots, [to, to])?,
            shortcut: if from == to {
                None
            } else {
                Some(load_conv3d(&scope.pp("conv_shortcut"), [from, to], POINTWISE)?)
            },
        })
    }

    pub(super) fn work(&self, frames: usize, height: usize, width: usize) -> u64 {
        let shortcut = self.shortcut.as_ref().map_or(0, |conv| conv.macs(height, width));
        let convs = [&self.conv1, &self.conv2].map(|conv| conv.work(frames, height, width));
        convs[0] + convs[1] + frames as u64 * shortcut
    }

    pub(super) fn forward(&self, x: Chunk, latents: Option<&Tensor>, run: &mut Run<'_, '_>) -> Result<Chunk> {
        let (mut hidden, mut residuals) = (Vec::new(), Vec::new());
        let norm = self.norm1.measure(&x, latents)?;
        let mut conv = self.conv1.roll(&x, run)?;
        for (first, piece) in x.into_pieces() {
            let fill = |out: &Tensor| norm.silu_into(&piece, first, out);
            hidden.push(conv.forward(piece.dims()[0], fill, None, run)?);
            residuals.push(self.residual(piece, run)?);
        }
        conv.finish(run)?;
        drop(norm);
        norm_and_conv((&self.norm2, &self.conv2), Chunk::new(hidden), latents, Some(residuals), run)
    }

    /// What is added in the end: the input, or its 1 x 1 x 1 convolution.
    fn residual(&self, piece: Tensor, run: &mut Run<'_, '_>) -> Result<Tensor> {
        let Some(conv) = &self.shortcut else { return Ok(piece) };
        let output = conv.forward(&piece, Window::POINTWISE, None)?;
        let [frames, height, width, _] = piece.dims_n("conv_shortcut")?;
        run.progress.advance(frames as u64 * conv.macs(height, width))?;
        Ok(output)
    }
}

/// The first convolution, which reads the chunk as it is.
pub(super) fn conv_in(conv: &CausalConv, chunk: &Tensor, run: &mut Run<'_, '_>) -> Result<Chunk> {
    let chunk = Chunk::split(chunk)?;
    let mut output = Vec::with_capacity(chunk.pieces().len());
    let mut rolling = conv.roll(&chunk, run)?;
    for piece in chunk.pieces() {
        let fill = |input: &Tensor| Ok(input.copy_from(piece)?);
        output.push(rolling.forward(piece.dims()[0], fill, None, run)?);
    }
    rolling.finish(run)?;
    Ok(Chunk::new(output))
}

/// A norm and a convolution behind it, and what is added, piece by piece, if anything is.
pub(super) fn norm_and_conv(
    (norm, conv): (&Norm, &CausalConv),
    x: Chunk,
    latents: Option<&Tensor>,
    residuals: Option<Vec<Tensor>>,
    run: &mut Run<'_, '_>,
) -> Result<Chunk> {
    let norm = norm.measure(&x, latents)?;
    let mut conv = conv.roll(&x, run)?;
    let mut residuals = residuals.map(Vec::into_iter);
    let mut output = Vec::with_capacity(x.pieces().len());
    for (first, piece) in x.into_pieces() {
        let residual = residuals.as_mut().and_then(Iterator::next);
        let (frames, norm) = (piece.dims()[0], &norm);
        // The piece goes with it: its memory is free when the convolution asks for its own.
        let fill = move |out: &Tensor| norm.silu_into(&piece, first, out);
        output.push(conv.forward(frames, fill, residual.as_ref(), run)?);
    }
    conv.finish(run)?;
    Ok(Chunk::new(output))
}
