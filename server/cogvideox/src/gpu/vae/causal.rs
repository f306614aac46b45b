//! Causal convolutions, piece by piece through a chunk, and what they leave to the next chunk.
//!
//! What a convolution reads exists for one piece and the two frames before it at a time; whoever calls writes it there.
//! Must not know what is computed between convolutions.

use device::Tensor;
use device::ops::conv::{Conv3d, Window};
use device::ops::layout;

use super::chunk::Chunk;
use crate::Result;
use crate::gpu::source::Scope;
use crate::vae::Progress;

/// Taps of a causal convolution in time, height and width.
const CAUSAL: [usize; 3] = [3; 3];

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

pub(super) fn load_conv3d(scope: &Scope<'_>, channels: [usize; 2], taps: [usize; 3]) -> Result<Conv3d> {
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

/// A causal convolution on its way through a chunk.
pub(super) struct Rolling<'a> {
    layer: &'a CausalConv,
    /// What it reads: the frames before a piece, and behind them room for the largest.
    input: Tensor,
    /// Whether there are frames before: of the chunk before or, from the second piece on, of this one.
    begun: bool,
    /// Of the piece that `input` holds: as far the frames before the next one are from where they belong.
    piece_frames: usize,
}

impl CausalConv {
    pub(super) fn load(scope: &Scope<'_>, slots: &mut Slots, channels: [usize; 2]) -> Result<Self> {
        Ok(Self { conv: load_conv3d(&scope.pp("conv"), channels, CAUSAL)?, slot: slots.next() })
    }

    pub(super) fn work(&self, frames: usize, height: usize, width: usize) -> u64 {
        frames as u64 * self.conv.macs(height, width)
    }

    /// Frames that it reads before the first that it writes.
    fn before(&self) -> usize {
        self.conv.frames() - 1
    }

    /// Begins a chunk of the size of `chunk`; takes the frames before it out of the cache.
    pub(super) fn roll(&self, chunk: &Chunk, run: &mut Run<'_, '_>) -> Result<Rolling<'_>> {
        let largest = chunk.pieces().iter().max_by_key(|piece| piece.dims()[0]);
        let Some(piece) = largest else {
            return Err(crate::Error::invalid("latents", "expected frames, found none"));
        };
        let [frames, height, width, channels] = piece.dims_n("causal_conv")?;
        let dims = [self.before() + frames, height, width, channels];
        let input = Tensor::empty(piece.device(), &dims, piece.dtype())?;
        let cached = run.cache.0.get_mut(self.slot).and_then(Option::take);
        if let Some(cached) = &cached {
            input.slice(0, self.before())?.copy_from(cached)?;
        }
        Ok(Rolling { layer: self, input, begun: cached.is_some(), piece_frames: 0 })
    }
}

impl Rolling<'_> {
    /// Convolves the next piece of so many frames, which `fill` writes where they are read, and adds the residual.
    pub(super) fn forward(
        &mut self,
        frames: usize,
        fill: impl FnOnce(&Tensor) -> Result<()>,
        residual: Option<&Tensor>,
        run: &mut Run<'_, '_>,
    ) -> Result<Tensor> {
        let before = self.layer.before();
        if self.piece_frames > 0 {
            // Frame by frame in rising order: a frame is read before it is overwritten.
            (0..before).try_for_each(|index| {
                self.input.slice(index, 1)?.copy_from(&self.input.slice(self.piece_frames + index, 1)?)
            })?;
        }
        let input = self.input.slice(0, before + frames)?;
        fill(&input.slice(before, frames)?)?;
        if !self.begun {
            // Before the very first frame of a video stands that frame again.
            let first = input.slice(before, 1)?;
            (0..before).try_for_each(|index| input.slice(index, 1)?.copy_from(&first))?;
        }
        (self.begun, self.piece_frames) = (true, frames);
        let output = self.layer.conv.forward(&input, Window::SAME, residual)?;
        let [_, height, width, _] = output.dims_n("causal_conv")?;
        run.progress.advance(self.layer.work(frames, height, width))?;
        Ok(output)
    }

    /// Leaves the last frames to the next chunk.
    pub(super) fn finish(self, run: &mut Run<'_, '_>) -> Result<()> {
        if run.fill_cache {
            let last = self.input.slice(self.piece_frames, self.layer.before())?;
            let copy = Tensor::empty(last.device(), last.dims(), last.dtype())?;
            copy.copy_from(&last)?;
            let (slots, slot) = (&mut run.cache.0, self.layer.slot);
            slots.resize_with(slots.len().max(slot + 1), || None);
            slots[slot] = Some(copy);
        }
        Ok(())
    }
}
