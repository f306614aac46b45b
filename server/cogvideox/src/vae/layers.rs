//! The layers that the encoder and the decoder are made of, on the frames of one chunk of time.
//!
//! A causal convolution sees the last frames of the chunk before through the [`ConvCache`], which the caller holds
//! and passes; a layer has no state of its own. Layers take their input frames and free each as soon as it is not
//! needed any more, so that a resnet holds two sequences of frames and three frames of convolution input at most.
//! Relies on [`crate::ops`] for the arithmetic; must not know the order of the layers.

use std::sync::Arc;

use super::progress::Progress;
use crate::Result;
use crate::ops::conv::Conv;
use crate::ops::frame::{Frame, FramePool};
use crate::ops::group_norm::{Condition, GroupNorm, PreparedNorm};
use crate::weights::WeightScope;

/// For each causal convolution, the last input frames of the chunk before.
#[derive(Default)]
pub(super) struct ConvCache(Vec<Vec<Arc<Frame>>>);

/// What the layers need while they run over one chunk.
pub(super) struct Run<'a, 'b> {
    pub(super) cache: &'a mut ConvCache,
    pub(super) pool: &'a mut FramePool,
    pub(super) progress: &'a mut Progress<'b>,
    /// Whether a later chunk will want the cache.
    pub(super) fill_cache: bool,
}

/// A convolution of three frames: the current one and the two before.
pub(super) struct CausalConv {
    conv: Conv,
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

impl CausalConv {
    pub(super) fn load(scope: &WeightScope<'_>, slots: &mut Slots, channels: [usize; 2]) -> Result<Self> {
        let conv = Conv::causal(&scope.pp("conv"), channels[0], channels[1])?;
        Ok(Self { conv, slot: slots.next() })
    }

    pub(super) fn work(&self, frames: usize, height: usize, width: usize) -> u64 {
        frames as u64 * self.conv.macs(height, width)
    }

    /// A frame for this convolution's output, of unknown content.
    pub(super) fn output(&self, height: usize, width: usize, run: &mut Run<'_, '_>) -> Frame {
        run.pool.take(self.conv.output_shape(height, width))
    }

    /// Starts on a chunk.
    pub(super) fn window(&self, run: &mut Run<'_, '_>) -> Window<'_> {
        let previous = run.cache.0.get_mut(self.slot).map(std::mem::take).unwrap_or_default();
        Window { layer: self, previous }
    }
}

/// The frames that a causal convolution sees, moving through a chunk.
pub(super) struct Window<'a> {
    layer: &'a CausalConv,
    previous: Vec<Arc<Frame>>,
}

impl Window<'_> {
    /// Adds the next input frame, which has a border of zeros, and convolves.
    pub(super) fn step(
        &mut self,
        input: Frame,
        output: &mut Frame,
        residual: Option<&Frame>,
        run: &mut Run<'_, '_>,
    ) -> Result<()> {
        let input = Arc::new(input);
        let width = self.layer.conv.input_frames();
        // Before the very first frame of a video stands that frame again.
        while self.previous.len() < width {
            self.previous.push(Arc::clone(&input));
        }
        let frames: Vec<&Frame> = self.previous.iter().map(AsRef::as_ref).collect();
        self.layer.conv.run(&frames, output, residual, &mut |macs| run.progress.advance(macs))?;
        if let Some(unused) = Arc::into_inner(self.previous.remove(0)) {
            run.pool.give(unused);
        }
        Ok(())
    }

    /// Leaves the last frames to the next chunk.
    pub(super) fn finish(self, run: &mut Run<'_, '_>) {
        if run.fill_cache {
            let slots = &mut run.cache.0;
            slots.resize_with(slots.len().max(self.layer.slot + 1), Vec::new);
            slots[self.layer.slot] = self.previous;
        } else {
            self.previous.into_iter().filter_map(Arc::into_inner).for_each(|frame| run.pool.give(frame));
        }
    }
}

/// A group norm, in the decoder followed by a factor and a summand made from the latents.
pub(super) struct Norm {
    norm: GroupNorm,
    condition: Option<[Conv; 2]>,
}

/// What a [`Norm`] is built from.
#[derive(Clone, Copy)]
pub(super) struct NormConfig {
    pub(super) groups: usize,
    pub(super) eps: f64,
    /// The channels of the latents, in the decoder.
    pub(super) latent_channels: Option<usize>,
}

/// A norm with the statistics of its input and the chunk's condition.
pub(super) struct ReadyNorm {
    norm: PreparedNorm,
    condition: Vec<[Frame; 2]>,
    frames: usize,
}

impl Norm {
    pub(super) fn load(scope: &WeightScope<'_>, channels: usize, config: NormConfig) -> Result<Self> {
        let Some(latent_channels) = config.latent_channels else {
            return Ok(Self {
                norm: GroupNorm::load(scope, channels, config.groups, config.eps)?,
                condition: None,
            });
        };
        let norm = GroupNorm::load(&scope.pp("norm_layer"), channels, config.groups, config.eps)?;
        let conv = |name| Conv::pointwise(&scope.pp(name).pp("conv"), latent_channels, channels);
        Ok(Self { norm, condition: Some([conv("conv_y")?, conv("conv_b")?]) })
    }

    /// `latents` are the chunk's, in the decoder; the condition is computed at their resolution, which gives the
    /// same values as enlarging them first.
    pub(super) fn prepare(&self, frames: &[Frame], latents: &[Frame]) -> Result<ReadyNorm> {
        let at_latents = |conv: &Conv, latent: &Frame| -> Result<Frame> {
            let shape = latent.shape();
            let mut output = Frame::zeros(conv.output_shape(shape.height, shape.width));
            // Too small to be counted as progress.
            conv.run(&[latent], &mut output, None, &mut |_| Ok(()))?;
            Ok(output)
        };
        let condition = match &self.condition {
            Some([factor, summand]) => latents
                .iter()
                .map(|latent| Ok([at_latents(factor, latent)?, at_latents(summand, latent)?]))
                .collect::<Result<_>>()?,
            None => Vec::new(),
        };
        Ok(ReadyNorm { norm: self.norm.prepare(frames), condition, frames: frames.len() })
    }
}

impl ReadyNorm {
    /// Norm, condition and `SiLU` of frame `index` of the chunk, as the next convolution's input.
    pub(super) fn apply(&self, input: &Frame, index: usize, run: &mut Run<'_, '_>) -> Frame {
        let mut output = run.pool.take(input.shape().bordered());
        let condition = (!self.condition.is_empty()).then(|| {
            let [factor, summand] = &self.condition[latent_of(index, self.frames, self.condition.len())];
            Condition { factor, summand }
        });
        self.norm.apply_silu(input, condition, &mut output);
        output
    }
}

/// The latent frame that conditions frame `index` of `frames`: nearest neighbour, where of an odd number of frames
/// the first belongs to the first latent alone.
fn latent_of(index: usize, frames: usize, latents: usize) -> usize {
    if frames > 1 && frames % 2 == 1 {
        if index == 0 { 0 } else { 1 + (index - 1) * (latents - 1) / (frames - 1) }
    } else {
        index * latents / frames
    }
}

/// Norm, convolution, norm, convolution, and the input added.
pub(super) struct Resnet {
    norm1: Norm,
    conv1: CausalConv,
    norm2: Norm,
    conv2: CausalConv,
    shortcut: Option<Conv>,
}

impl Resnet {
    pub(super) fn load(
        scope: &WeightScope<'_>,
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
                Some(Conv::pointwise(&scope.pp("conv_shortcut"), from, to)?)
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
        inputs: Vec<Frame>,
        latents: &[Frame],
        run: &mut Run<'_, '_>,
    ) -> Result<Vec<Frame>> {
        let shape = inputs[0].shape();
        let norm = self.norm1.prepare(&inputs, latents)?;
        let mut window = self.conv1.window(run);
        let mut hidden = Vec::with_capacity(inputs.len());
        let mut residuals = Vec::with_capacity(inputs.len());
        for (index, input) in inputs.into_iter().enumerate() {
            let normed = norm.apply(&input, index, run);
            let mut output = self.conv1.output(shape.height, shape.width, run);
            window.step(normed, &mut output, None, run)?;
            hidden.push(output);
            residuals.push(self.residual(input, run)?);
        }
        window.finish(run);
        if self.shortcut.is_some() {
            // Frames of the old number of channels fit nowhere any more.
            run.pool.clear();
        }

        let norm = self.norm2.prepare(&hidden, latents)?;
        let mut window = self.conv2.window(run);
        for (index, (hidden, residual)) in hidden.iter_mut().zip(residuals).enumerate() {
            let normed = norm.apply(hidden, index, run);
            window.step(normed, hidden, Some(&residual), run)?;
            run.pool.give(residual);
        }
        window.finish(run);
        Ok(hidden)
    }

    /// What is added in the end: the input, or its 1 x 1 x 1 convolution.
    fn residual(&self, input: Frame, run: &mut Run<'_, '_>) -> Result<Frame> {
        let Some(conv) = &self.shortcut else { return Ok(input) };
        let mut output = run.pool.take(conv.output_shape(input.shape().height, input.shape().width));
        conv.run(&[&input], &mut output, None, &mut |macs| run.progress.advance(macs))?;
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::ops::frame::{FrameShape, Planes};
    use crate::weights::Weights;

    /// A frame of a sequence that does not repeat.
    fn frame(index: usize) -> Frame {
        let shape = FrameShape::new(5, 3, 4);
        let values: Vec<f32> = (0..60).map(|i| ((index * 60 + i) as f32 * 0.7).sin()).collect();
        let mut frame = Frame::zeros(shape.bordered());
        frame.read_planes(Planes { data: &values, channel_stride: 12, row_stride: 4 }, 1);
        frame
    }

    /// Convolves frames 0, 1, ... in chunks of the given lengths.
    fn convolve(conv: &CausalConv, chunks: &[usize]) -> Vec<Frame> {
        let (mut cache, mut pool) = (ConvCache::default(), FramePool::default());
        let mut go_on = |_| Ok(());
        let mut progress = Progress::new(1, &mut go_on);
        let mut outputs = Vec::new();
        for (index, len) in chunks.iter().enumerate() {
            let fill_cache = index + 1 < chunks.len();
            let mut run = Run { cache: &mut cache, pool: &mut pool, progress: &mut progress, fill_cache };
            let mut window = conv.window(&mut run);
            for _ in 0..*len {
                let mut output = conv.output(3, 4, &mut run);
                window.step(frame(outputs.len()), &mut output, None, &mut run).unwrap();
                outputs.push(output);
            }
            window.finish(&mut run);
        }
        outputs
    }

    #[test]
    fn a_causal_convolution_in_chunks_is_the_convolution_of_the_whole() {
        let weights = Weights::random(1);
        let scope = weights.root(DType::F32, &Device::Cpu);
        let conv = CausalConv::load(&scope, &mut Slots::default(), [5, 7]).unwrap();
        let whole = convolve(&conv, &[7]);
        for chunks in [&[3, 2, 2][..], &[1, 1, 5], &[1, 2, 1, 3]] {
            for (index, (found, expected)) in convolve(&conv, chunks).iter().zip(&whole).enumerate() {
                assert_eq!(found.rows(), expected.rows(), "frame {index} in chunks of {chunks:?}");
            }
        }
    }

    #[test]
    fn latents_condition_the_frames_that_come_from_them() {
        let map = |frames, latents| (0..frames).map(|t| latent_of(t, frames, latents)).collect::<Vec<_>>();
        assert_eq!(map(9, 3), [0, 1, 1, 1, 1, 2, 2, 2, 2]);
        assert_eq!(map(3, 3), [0, 1, 2]);
        assert_eq!(map(8, 2), [0, 0, 0, 0, 1, 1, 1, 1]);
        assert_eq!(map(1, 1), [0]);
    }
}
