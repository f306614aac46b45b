//! The decoder: latents to pictures, eight times the size and four times the frames.
//!
//! Relies on [`super::layers`]; must not know chunks' order, tiles or scaling factors.

use device::Tensor;

use super::coder::Coder;
use super::layers::{CausalConv, Norm, NormConfig, Resnet, Run, Slots, conv_in, norm_and_conv};
use super::resample::Upsampler;
use crate::Result;
use crate::gpu::source::Scope;
use crate::vae::{Geometry, VaeConfig};

struct UpBlock {
    resnets: Vec<Resnet>,
    upsampler: Option<Upsampler>,
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
    pub(super) fn load(scope: &Scope<'_>, config: &VaeConfig) -> Result<Self> {
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
    fn forward(&self, chunk: &Tensor, run: &mut Run<'_, '_>) -> Result<Tensor> {
        let latents = Some(chunk);
        let mut hidden = conv_in(&self.conv_in, chunk, run)?;
        for resnet in &self.mid {
            hidden = resnet.forward(hidden, latents, run)?;
        }
        for block in &self.blocks {
            for resnet in &block.resnets {
                hidden = resnet.forward(hidden, latents, run)?;
            }
            if let Some(upsampler) = &block.upsampler {
                hidden = upsampler.forward(hidden, run)?;
            }
        }
        norm_and_conv((&self.norm_out, &self.conv_out), hidden, latents, None, run)?.join()
    }
}
