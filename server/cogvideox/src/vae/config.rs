//! `vae/config.json`, as diffusers' `AutoencoderKLCogVideoX` reads it.
//!
//! Missing keys take the class's defaults; keys that change nothing in what this crate computes are not read. Relies
//! on [`crate::pipeline_config`] for the file; must not know weights.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::pipeline_config::read_config;
use crate::{Error, Result};

/// The configuration of the autoencoder.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Channels of the pictures that are encoded.
    pub in_channels: usize,
    /// Channels of the pictures that are decoded.
    pub out_channels: usize,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    /// Channels of each resolution, the largest resolution first.
    pub block_out_channels: Vec<usize>,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Resnets of a block of the encoder; the decoder's have one more.
    pub layers_per_block: usize,
    act_fn: String,
    norm_eps: f64,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    temporal_compression_ratio: f64,
    /// Twice the height of the default tile.
    pub sample_height: usize,
    /// Twice the width of the default tile.
    pub sample_width: usize,
    /// Latents are multiplied by it after encoding and divided by it before decoding.
    pub scaling_factor: f64,
    /// Whether the image condition's latents are divided by the scaling factor instead (1.5).
    pub invert_scale_latents: bool,
    use_quant_conv: bool,
    use_post_quant_conv: bool,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["CogVideoXDownBlock3D".to_owned(); 4],
            up_block_types: vec!["CogVideoXUpBlock3D".to_owned(); 4],
            block_out_channels: vec![128, 256, 256, 512],
            latent_channels: 16,
            layers_per_block: 3,
            act_fn: "silu".to_owned(),
            norm_eps: 1e-6,
            norm_num_groups: 32,
            temporal_compression_ratio: 4.0,
            sample_height: 480,
            sample_width: 720,
            scaling_factor: 1.152_584_26,
            invert_scale_latents: false,
            use_quant_conv: false,
            use_post_quant_conv: false,
        }
    }
}

impl VaeConfig {
    /// Reads and checks `path`.
    ///
    /// # Errors
    /// [`Error::Config`] for another class, a value that the class or this crate does not know, or channels that do
    /// not fit together.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let config = read_config::<Self>(path, &["AutoencoderKLCogVideoX"])?.config;
        config.check().map_err(|message| Error::config(path, message))?;
        Ok(config)
    }

    fn check(&self) -> std::result::Result<(), String> {
        for (key, types, only) in [
            ("down_block_types", &self.down_block_types, "CogVideoXDownBlock3D"),
            ("up_block_types", &self.up_block_types, "CogVideoXUpBlock3D"),
        ] {
            if let Some(other) = types.iter().find(|found| *found != only) {
                return Err(format!("{key}: expected {only}, found {other:?}"));
            }
            if types.len() != self.block_out_channels.len() {
                let (blocks, found) = (self.block_out_channels.len(), types.len());
                return Err(format!(
                    "{key}: expected {blocks}, as many as block_out_channels, found {found}"
                ));
            }
        }
        for (key, used) in
            [("use_quant_conv", self.use_quant_conv), ("use_post_quant_conv", self.use_post_quant_conv)]
        {
            if used {
                return Err(format!("{key}: expected false, no published CogVideoX has one, found true"));
            }
        }
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return Err(format!("act_fn: expected silu, found {:?}", self.act_fn));
        }
        if self.block_out_channels.is_empty() {
            return Err("block_out_channels: expected at least one, found none".to_owned());
        }
        for (key, value) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
            ("layers_per_block", self.layers_per_block),
            ("norm_num_groups", self.norm_num_groups),
        ] {
            if value == 0 {
                return Err(format!("{key}: expected at least 1, found 0"));
            }
        }
        let groups = self.norm_num_groups;
        if let Some(odd) = self.block_out_channels.iter().find(|c| **c == 0 || *c % groups != 0) {
            return Err(format!(
                "block_out_channels: expected multiples of norm_num_groups {groups}, found {odd}"
            ));
        }
        if !(self.norm_eps > 0.0 && self.scaling_factor > 0.0) {
            let (eps, factor) = (self.norm_eps, self.scaling_factor);
            return Err(format!(
                "norm_eps and scaling_factor: expected positive numbers, found {eps} and {factor}"
            ));
        }
        let ratio = self.temporal_compression_ratio;
        if !(1.0..=f64::from(1 << 16)).contains(&ratio) {
            return Err(format!("temporal_compression_ratio: expected at least 1, found {ratio}"));
        }
        Ok(())
    }

    /// Of the encoder's norms (the decoder's are fixed at 1e-6 in diffusers).
    pub(crate) fn norm_eps(&self) -> f64 {
        self.norm_eps
    }

    /// How many of the blocks change the number of frames, the encoder's first and the decoder's first.
    pub(crate) fn temporal_levels(&self) -> usize {
        self.temporal_compression_ratio.log2() as usize
    }

    /// Pixels of a video for each latent pixel, in height and in width.
    pub fn spatial_compression_ratio(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// Frames of a video for each latent frame, the first one aside.
    pub fn temporal_compression_ratio(&self) -> usize {
        self.temporal_compression_ratio as usize
    }
}
