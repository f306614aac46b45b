//! The encoder: pictures to the mean and logarithmic variance of latents.
//!
//! Relies on [`super::layers`]; must not know chunks' order, tiles or scaling factors.

use device::Tensor;

use super::coder::Coder;
use super::layers::{CausalConv, Norm, NormConfig, Resnet, Run, Slots, conv_in, norm_and_conv};
use super::resample::Downsampler;
use crate::Result;
use crate::gpu::source::Scope;
use crate::vae::{Geometry, VaeConfig};

struct DownBlock {
    resnets: Vec<Resnet>,
    downsampler: Option<Downsampler>,
}

pub(super) struct Encoder {
    channels: [usize; 2],
    conv_in: CausalConv,
    blocks: Vec<DownBlock>,
    mid: Vec<Resnet>,
    norm_out: Norm,
    conv_out: CausalConv,
}

impl Encoder {
    pub(super) fn load(scope: &Scope<'_>, config: &VaeConfig) -> Result<Self> {
        let mut slots = Slots::default();
        let norm =
            NormConfig { groups: config.norm_num_groups, eps: config.norm_eps(), latent_channels: None };
        let outs = &config.block_out_channels;
        let conv_in = CausalConv::load(&scope.pp("conv_in"), &mut slots, [config.in_channels, outs[0]])?;
        let mut blocks = Vec::with_capacity(outs.len());
        for (index, &channels) in outs.iter().enumerate() {
            let scope = scope.pp("down_blocks").pp(index);
            let before = outs[index.saturating_sub(1)];
            let resnets = (0..config.layers_per_block)
                .map(|resnet| {
                    let from = if resnet == 0 { before } else { channels };
                    Resnet::load(&scope.pp("resnets").pp(resnet), &mut slots, [from, channels], norm)
                })
                .collect::<Result<_>>()?;
            let downsampler = if index + 1 < outs.len() {
                let halves_frames = index < config.temporal_levels();
                Some(Downsampler::load(&scope.pp("downsamplers").pp(0), channels, halves_frames)?)
            } else {
                None
            };
            blocks.push(DownBlock { resnets, downsampler });
        }
        let last = outs[outs.len() - 1];
        let mid_scope = scope.pp("mid_block").pp("resnets");
        let mid = (0..2)
            .map(|index| Resnet::load(&mid_scope.pp(index), &mut slots, [last; 2], norm))
            .collect::<Result<_>>()?;
        let moments = 2 * config.latent_channels;
        Ok(Self {
            channels: [config.in_channels, moments],
            conv_in,
            blocks,
            mid,
            // diffusers does not pass norm_eps on to this one.
            norm_out: Norm::load(&scope.pp("norm_out"), last, NormConfig { eps: 1e-6, ..norm })?,
            conv_out: CausalConv::load(&scope.pp("conv_out"), &mut slots, [last, moments])?,
        })
    }

    fn downsamplers(&self) -> impl Iterator<Item = &Downsampler> {
        self.blocks.iter().filter_map(|block| block.downsampler.as_ref())
    }
}

impl Geometry for Encoder {
    fn channels(&self) -> [usize; 2] {
        self.channels
    }

    fn chunk_frames(&self) -> usize {
        8
    }

    fn output_frames(&self, frames: usize) -> usize {
        self.downsamplers().fold(frames, |frames, downsampler| downsampler.frames(frames))
    }

    fn decodes(&self) -> bool {
        false
    }

    fn output_len(&self, len: usize) -> usize {
        len >> self.downsamplers().count()
    }

    fn work(&self, mut frames: usize, mut height: usize, mut width: usize) -> u64 {
        let mut work = self.conv_in.work(frames, height, width);
        for block in &self.blocks {
            work += block.resnets.iter().map(|resnet| resnet.work(frames, height, width)).sum::<u64>();
            if let Some(downsampler) = &block.downsampler {
                work += downsampler.work(frames, height, width);
                (frames, height, width) = (downsampler.frames(frames), height / 2, width / 2);
            }
        }
        work += self.mid.iter().map(|resnet| resnet.work(frames, height, width)).sum::<u64>();
        work + self.conv_out.work(frames, height, width)
    }
}

impl Coder for Encoder {
    fn forward(&self, chunk: &Tensor, run: &mut Run<'_, '_>) -> Result<Tensor> {
        let mut hidden = conv_in(&self.conv_in, chunk, run)?;
        for block in &self.blocks {
            for resnet in &block.resnets {
                hidden = resnet.forward(hidden, None, run)?;
            }
            if let Some(downsampler) = &block.downsampler {
                hidden = downsampler.forward(hidden, run)?;
            }
        }
        for resnet in &self.mid {
            hidden = resnet.forward(hidden, None, run)?;
        }
        norm_and_conv((&self.norm_out, &self.conv_out), hidden, None, None, run)?.join()
    }
}
