//! The decoder: latents to pictures, eight times the size and four times the frames.
//!
//! Relies on [`super::layers`]; must not know chunks' order, tiles or scaling factors.

use super::VaeConfig;
use super::coder::{Chunk, Coder};
use super::geometry::Geometry;
use super::layers::{CausalConv, Norm, NormConfig, Resnet, Run, Slots};
use super::resample::Upsampler;
use crate::Result;
use crate::ops::frame::Frame;
use crate::weights::WeightScope;

struct UpBlock {
    resnets: Vec<Resnet>,
    upsampler: Option<Upsampler>,
}

impl UpBlock {
    fn forward(
        &self,
        mut hidden: Vec<Frame>,
        latents: &[Frame],
        run: &mut Run<'_, '_>,
    ) -> Result<Vec<Frame>> {
        for resnet in &self.resnets {
            hidden = resnet.forward(hidden, latents, run)?;
        }
        match &self.upsampler {
            Some(upsampler) => upsampler.forward(hidden, run),
            None => Ok(hidden),
        }
    }
}

pub(super) struct Decoder {
    channels: [usize; 2],
    conv_in: CausalConv,
    mid: Vec<Resnet>,
    blocks: Vec<UpBlock>,
    norm_out: Norm,
    conv_out: CausalConv,
}

impl Decoder {
    pub(super) fn load(scope: &WeightScope<'_>, config: &VaeConfig) -> Result<Self> {
        let mut slots = Slots::default();
        let latent_channels = config.latent_channels;
        // diffusers does not pass norm_eps on to the decoder's norms.
        let norm =
            NormConfig { groups: config.norm_num_groups, eps: 1e-6, latent_channels: Some(latent_channels) };
        let reversed: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let conv_in = CausalConv::load(&scope.pp("conv_in"), &mut slots, [latent_channels, reversed[0]])?;
        let mid_scope = scope.pp("mid_block").pp("resnets");
        let mid = (0..2)
            .map(|index| Resnet::load(&mid_scope.pp(index), &mut slots, [reversed[0]; 2], norm))
            .collect::<Result<_>>()?;
        let mut blocks = Vec::with_capacity(reversed.len());
        for (index, &channels) in reversed.iter().enumerate() {
            let scope = scope.pp("up_blocks").pp(index);
            let before = reversed[index.saturating_sub(1)];
            let resnets = (0..=config.layers_per_block)
                .map(|resnet| {
                    let from = if resnet == 0 { before } else { channels };
                    Resnet::load(&scope.pp("resnets").pp(resnet), &mut slots, [from, channels], norm)
                })
                .collect::<Result<_>>()?;
            let upsampler = if index + 1 < reversed.len() {
                let doubles_frames = index < config.temporal_levels();
                Some(Upsampler::load(&scope.pp("upsamplers").pp(0), channels, doubles_frames)?)
            } else {
                None
            };
            blocks.push(UpBlock { resnets, upsampler });
        }
        let last = config.block_out_channels[0];
        Ok(Self {
            channels: [latent_channels, config.out_channels],
            conv_in,
            mid,
            blocks,
            norm_out: Norm::load(&scope.pp("norm_out"), last, norm)?,
            conv_out: CausalConv::load(&scope.pp("conv_out"), &mut slots, [last, config.out_channels])?,
        })
    }

    fn upsamplers(&self) -> impl Iterator<Item = &Upsampler> {
        self.blocks.iter().filter_map(|block| block.upsampler.as_ref())
    }
}

impl Geometry for Decoder {
    fn channels(&self) -> [usize; 2] {
        self.channels
    }

    fn chunk_frames(&self) -> usize {
        2
    }

    fn output_frames(&self, frames: usize) -> usize {
        self.upsamplers().fold(frames, |frames, upsampler| upsampler.frames(frames))
    }

    fn decodes(&self) -> bool {
        true
    }

    fn output_len(&self, len: usize) -> usize {
        len << self.upsamplers().count()
    }

    fn work(&self, mut frames: usize, mut height: usize, mut width: usize) -> u64 {
        let mut work = self.conv_in.work(frames, height, width);
        work += self.mid.iter().map(|resnet| resnet.work(frames, height, width)).sum::<u64>();
        for block in &self.blocks {
            work += block.resnets.iter().map(|resnet| resnet.work(frames, height, width)).sum::<u64>();
            if let Some(upsampler) = &block.upsampler {
                work += upsampler.work(frames, height, width);
                (frames, height, width) = (upsampler.frames(frames), 2 * height, 2 * width);
            }
        }
        work + self.conv_out.work(frames, height, width)
    }
}

impl Coder for Decoder {
    fn forward(
        &self,
        chunk: &Chunk<'_>,
        run: &mut Run<'_, '_>,
        emit: &mut dyn FnMut(usize, &Frame),
    ) -> Result<()> {
        let latents: Vec<Frame> = (0..chunk.frames).map(|index| chunk.frame(index)).collect();
        let mut hidden = conv_in(&self.conv_in, chunk, run)?;
        for resnet in &self.mid {
            hidden = resnet.forward(hidden, &latents, run)?;
        }
        for block in &self.blocks {
            hidden = block.forward(hidden, &latents, run)?;
        }
        conv_out(&self.norm_out, &self.conv_out, hidden, &latents, run, emit)
    }
}

/// The first convolution, from the chunk's pictures.
pub(super) fn conv_in(conv: &CausalConv, chunk: &Chunk<'_>, run: &mut Run<'_, '_>) -> Result<Vec<Frame>> {
    let shape = chunk.shape();
    let mut window = conv.window(run);
    let mut outputs = Vec::with_capacity(chunk.frames);
    for index in 0..chunk.frames {
        let mut output = conv.output(shape.height, shape.width, run);
        window.step(chunk.bordered_frame(index), &mut output, None, run)?;
        outputs.push(output);
    }
    window.finish(run);
    Ok(outputs)
}

/// The last norm and convolution, each frame of which is handed out at once.
pub(super) fn conv_out(
    norm: &Norm,
    conv: &CausalConv,
    inputs: Vec<Frame>,
    latents: &[Frame],
    run: &mut Run<'_, '_>,
    emit: &mut dyn FnMut(usize, &Frame),
) -> Result<()> {
    let shape = inputs[0].shape();
    let norm = norm.prepare(&inputs, latents)?;
    let mut window = conv.window(run);
    let mut output = conv.output(shape.height, shape.width, run);
    for (index, input) in inputs.into_iter().enumerate() {
        let normed = norm.apply(&input, index, run);
        drop(input);
        window.step(normed, &mut output, None, run)?;
        emit(index, &output);
    }
    window.finish(run);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use candle_core::{DType, Device, Tensor};

    use super::*;
    use crate::ops::frame::FramePool;
    use crate::vae::coder::Area;
    use crate::vae::layers::ConvCache;
    use crate::vae::progress::Progress;
    use crate::weights::{DIFFUSERS_STEM, Weights};

    /// The largest difference from a golden of (1, channels, frames, height, width).
    fn difference(frames: &[Frame], golden: &Tensor) -> f32 {
        let (_, _, count, height, width) = golden.dims5().unwrap();
        let expected: Vec<f32> = golden.flatten_all().unwrap().to_vec1().unwrap();
        let mut found = vec![0.0; expected.len()];
        assert_eq!(frames.len(), count);
        for (index, frame) in frames.iter().enumerate() {
            frame.write_planes(&mut found[index * height * width..], count * height * width);
        }
        found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn every_stage_is_diffusers_stage() {
        for form in ["2b", "5b", "5b-i2v", "1.5-5b", "1.5-5b-i2v"] {
            let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(form);
            let goldens =
                candle_core::safetensors::load(dir.join("golden.safetensors"), &Device::Cpu).unwrap();
            let golden = |stage: &str| &goldens[&format!("vae.dbg.{stage}")];
            let config = VaeConfig::load(&dir.join("vae/config.json")).unwrap();
            let weights = Weights::open(&dir.join("vae"), DIFFUSERS_STEM).unwrap();
            let scope = weights.root(DType::F32, &Device::Cpu).pp("decoder");
            let decoder = Decoder::load(&scope, &config).unwrap();

            let (_, channels, frames, height, width) = golden("z").dims5().unwrap();
            let data: Vec<f32> = golden("z").flatten_all().unwrap().to_vec1().unwrap();
            let chunk = Area::whole(&data, [channels, frames, height, width]).chunk(0, frames);
            let mut go_on = |_| Ok(());
            let mut run = Run {
                cache: &mut ConvCache::default(),
                pool: &mut FramePool::default(),
                progress: &mut Progress::new(1, &mut go_on),
                fill_cache: false,
            };
            let latents: Vec<Frame> = (0..frames).map(|index| chunk.frame(index)).collect();
            let mut hidden = conv_in(&decoder.conv_in, &chunk, &mut run).unwrap();
            let mut stages = vec![("conv_in".to_owned(), difference(&hidden, golden("conv_in")))];
            for resnet in &decoder.mid {
                hidden = resnet.forward(hidden, &latents, &mut run).unwrap();
            }
            stages.push(("mid".to_owned(), difference(&hidden, golden("mid"))));
            for (index, block) in decoder.blocks.iter().enumerate() {
                hidden = block.forward(hidden, &latents, &mut run).unwrap();
                // The golden has no third block.
                if index != 2 {
                    let stage = format!("up{index}");
                    stages.push((stage.clone(), difference(&hidden, golden(&stage))));
                }
            }
            for (stage, difference) in stages {
                assert!(difference <= 1e-4, "{form} {stage}: differs by {difference:e}");
            }
        }
    }
}
