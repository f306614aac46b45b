//! The layers that the encoder and the decoder are made of, on one chunk of time.
//!
//! Videos are `[frames, height, width, channels]`. A norm writes straight into the input of the convolution behind it,
//! whose first frames are the cache: the last ones that this convolution read in the chunk before. Tensors are
//! dropped as soon as the last operation that reads them was asked for. Must not know the order of the layers.

use device::ops::conv::{Conv3d, Window};
use device::ops::group_norm::GroupNorm;
use device::ops::layout;
use device::{Device, Dtype, Tensor};

use crate::Result;
use crate::gpu::source::{Scope, dtype_of};
use crate::vae::Progress;

/// Taps of a causal convolution in time, height and width.
const CAUSAL: [usize; 3] = [3; 3];
const POINTWISE: [usize; 3] = [1; 3];

/// For each causal convolution, the last input frames of the chunk before.
#[derive(Default)]
pub(super) struct ConvCache(Vec<Option<Tensor>>);

/// What the layers need while they run over one chunk.
pub(super) struct Run<'a, 'b> {
    pub(super) cache: &'a mut ConvCache,
    pub(super) progress: &'a mut Progress<'b>,
    /// Whether a later chunk will want the cache.
    pub(super) fill_cache: bool,
}

/// A convolution's tensors, stored channels first: `stored` are the weight's dimensions in the files, which leave out
/// a time of one tap where a picture's convolution is meant.
pub(super) fn load_conv(
    scope: &Scope<'_>,
    stored: &[usize],
    [channels, outs]: [usize; 2],
    taps: [usize; 3],
) -> Result<Conv3d> {
    let weight = layout::channels_last(&scope.tensor("weight", stored)?, channels)?;
    let weight = weight.reshape(&[outs, taps[0], taps[1], taps[2], channels])?;
    Ok(Conv3d::new(weight, Some(scope.tensor("bias", &[outs])?))?)
}

fn load_conv3d(scope: &Scope<'_>, channels: [usize; 2], taps: [usize; 3]) -> Result<Conv3d> {
    load_conv(scope, &[channels[1], channels[0], taps[0], taps[1], taps[2]], channels, taps)
}

/// A convolution of three frames: the current one and the two before.
pub(super) struct CausalConv {
    conv: Conv3d,
    /// Its place in the cache.
    slot: usize,
}

/// Gives each causal convolution its place in the cache.
#[derive(Default)]
pub(super) struct Slots(usize);

impl Slots {
    fn next(&mut self) -> usize {
        self.0 += 1;
        self.0 - 1
    }
}

/// A causal convolution's input: the frames before, and room for the chunk's.
pub(super) struct CausalInput {
    frames: Tensor,
    before: usize,
    /// Whether the frames before are there.
    cached: bool,
}

impl CausalInput {
    /// Where the chunk's frames go.
    pub(super) fn chunk(&self) -> Result<Tensor> {
        Ok(self.frames.slice(self.before, self.frames.dims()[0] - self.before)?)
    }
}

impl CausalConv {
    pub(super) fn load(scope: &Scope<'_>, slots: &mut Slots, channels: [usize; 2]) -> Result<Self> {
        Ok(Self { conv: load_conv3d(&scope.pp("conv"), channels, CAUSAL)?, slot: slots.next() })
    }

    pub(super) fn work(&self, frames: usize, height: usize, width: usize) -> u64 {
        frames as u64 * self.conv.macs(height, width)
    }

    /// Room for an input of the size of `chunk`; takes the frames before out of the cache.
    pub(super) fn input(&self, chunk: &Tensor, run: &mut Run<'_, '_>) -> Result<CausalInput> {
        let [frames, height, width, channels] = chunk.dims_n("causal_conv")?;
        let before = self.conv.frames() - 1;
        let dims = [before + frames, height, width, channels];
        let frames = Tensor::empty(chunk.device(), &dims, chunk.dtype())?;
        let cached = run.cache.0.get_mut(self.slot).and_then(Option::take);
        if let Some(cached) = &cached {
            frames.slice(0, before)?.copy_from(cached)?;
        }
        Ok(CausalInput { frames, before, cached: cached.is_some() })
    }

    /// Convolves an input that is filled, and leaves its last frames to the next chunk.
    pub(super) fn forward(
        &self,
        input: CausalInput,
        residual: Option<&Tensor>,
        run: &mut Run<'_, '_>,
    ) -> Result<Tensor> {
        let CausalInput { frames, before, cached } = input;
        if !cached {
            // Before the very first frame of a video stands that frame again.
            let first = frames.slice(before, 1)?;
            (0..before).try_for_each(|index| frames.slice(index, 1)?.copy_from(&first))?;
        }
        let output = self.conv.forward(&frames, Window::SAME, residual)?;
        if run.fill_cache {
            let last = frames.slice(frames.dims()[0] - before, before)?;
            let copy = Tensor::empty(last.device(), last.dims(), last.dtype())?;
            copy.copy_from(&last)?;
            let slots = &mut run.cache.0;
            slots.resize_with(slots.len().max(self.slot + 1), || None);
            slots[self.slot] = Some(copy);
        }
        let [frames, height, width, _] = output.dims_n("causal_conv")?;
        run.progress.advance(self.work(frames, height, width))?;
        Ok(output)
    }
}

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

    /// Norm, condition and `SiLU` of `x` into `out`; `latents` are the chunk's, in the decoder. The condition is
    /// computed at their resolution, which gives the same values as enlarging them first.
    pub(super) fn silu_into(&self, x: &Tensor, latents: Option<&Tensor>, out: &Tensor) -> Result<()> {
        let condition = match (&self.condition, latents) {
            (Some(conv), Some(latents)) => Some(conv.forward(latents, Window::POINTWISE, None)?),
            _ => None,
        };
        Ok(self.norm.silu_into(x, condition.as_ref(), out)?)
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

    pub(super) fn forward(
        &self,
        x: Tensor,
        latents: Option<&Tensor>,
        run: &mut Run<'_, '_>,
    ) -> Result<Tensor> {
        let input = self.conv1.input(&x, run)?;
        self.norm1.silu_into(&x, latents, &input.chunk()?)?;
        let residual = self.residual(x, run)?;
        let hidden = self.conv1.forward(input, None, run)?;
        let input = self.conv2.input(&hidden, run)?;
        self.norm2.silu_into(&hidden, latents, &input.chunk()?)?;
        drop(hidden);
        self.conv2.forward(input, Some(&residual), run)
    }

    /// What is added in the end: the input, or its 1 x 1 x 1 convolution.
    fn residual(&self, x: Tensor, run: &mut Run<'_, '_>) -> Result<Tensor> {
        let Some(conv) = &self.shortcut else { return Ok(x) };
        let output = conv.forward(&x, Window::POINTWISE, None)?;
        let [frames, height, width, _] = x.dims_n("conv_shortcut")?;
        run.progress.advance(frames as u64 * conv.macs(height, width))?;
        Ok(output)
    }
}

/// The first convolution, which reads the chunk as it is.
pub(super) fn conv_in(conv: &CausalConv, chunk: &Tensor, run: &mut Run<'_, '_>) -> Result<Tensor> {
    let input = conv.input(chunk, run)?;
    input.chunk()?.copy_from(chunk)?;
    conv.forward(input, None, run)
}

/// The last norm and convolution.
pub(super) fn conv_out(
    norm: &Norm,
    conv: &CausalConv,
    x: Tensor,
    latents: Option<&Tensor>,
    run: &mut Run<'_, '_>,
) -> Result<Tensor> {
    let input = conv.input(&x, run)?;
    norm.silu_into(&x, latents, &input.chunk()?)?;
    drop(x);
    conv.forward(input, None, run)
}
