//! `CogVideoXTransformer3DModel`: latents, text and a timestep in, the predicted velocity out.
//!
//! One type serves all published forms; its configuration decides between sincos, rotary and learned positions,
//! patches in space or in space and time, and the `ofs` embedding. Relies on `ops` and `weights`;
//! must not know schedulers, guidance or how latents become frames.

mod block;
mod config;
mod embeddings;
mod positions;

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use self::block::{Block, BlockInput};
pub use self::config::TransformerConfig;
pub(crate) use self::embeddings::{Grid, timestep_embedding};
pub(crate) use self::positions::PositionMaker;
pub use self::positions::Positions;
use crate::lora::{self, LoraChoice};
use crate::ops::linear::Linear;
use crate::ops::norm::{LayerNorm, Modulation, ShiftScale, Streams};
use crate::ops::silu;
use crate::weights::{DIFFUSERS_STEM, WeightScope, Weights};
use crate::{Error, Result};

/// `linear_1`, SiLU, `linear_2` (diffusers' `TimestepEmbedding`).
struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl TimestepEmbedding {
    fn load(scope: &WeightScope<'_>, in_dim: usize, dim: usize) -> Result<Self> {
        Ok(Self {
            linear_1: Linear::load(&scope.pp("linear_1"), in_dim, dim, true)?,
            linear_2: Linear::load(&scope.pp("linear_2"), dim, dim, true)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(self.linear_2.forward(&silu(&self.linear_1.forward(x)?)?)?)
    }
}

/// What one forward computes from; all tensors in the model's dtype.
pub struct TransformerInput<'a> {
    /// `(b, f, c, h, w)`; image-to-video models take the image's latents as further channels.
    pub hidden_states: &'a Tensor,
    /// `(b, text, text_embed_dim)`.
    pub encoder_hidden_states: &'a Tensor,
    /// 0 to 999.
    pub timestep: usize,
    /// The value that `ofs_embedding` embeds, for models that have one.
    pub ofs: f32,
    /// From [`CogVideoXTransformer3DModel::positions`] for this size.
    pub positions: &'a Positions,
    /// Adapters of the blocks' weights, all at once.
    pub lora: &'a [LoraChoice],
}

/// The denoiser.
pub struct CogVideoXTransformer3DModel {
    config: TransformerConfig,
    dtype: DType,
    patch_proj: Linear,
    text_proj: Linear,
    learned_table: Option<Tensor>,
    time_embedding: TimestepEmbedding,
    ofs_embedding: Option<TimestepEmbedding>,
    blocks: Vec<Block>,
    norm_final: LayerNorm,
    norm_out_linear: Linear,
    norm_out: LayerNorm,
    proj_out: Linear,
}

impl CogVideoXTransformer3DModel {
    /// Loads the `transformer/` folder of a pipeline.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Weights`], [`Error::MissingTensor`], [`Error::TensorShape`] or
    /// [`Error::SurplusTensors`] when the folder is not this model's.
    pub fn load(dir: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let config = TransformerConfig::load(&dir.join("config.json"))?;
        let weights = Weights::open(dir, DIFFUSERS_STEM)?;
        let model = Self::from_weights(config, &weights.root(dtype, device))?;
        weights.finish()?;
        Ok(model)
    }

    pub(crate) fn from_weights(config: TransformerConfig, scope: &WeightScope<'_>) -> Result<Self> {
        let (dim, time_dim) = (config.inner_dim(), config.time_embed_dim);
        let patch = scope.pp("patch_embed");
        let ofs_embedding = match config.ofs_embed_dim {
            Some(ofs_dim) => Some(TimestepEmbedding::load(&scope.pp("ofs_embedding"), ofs_dim, ofs_dim)?),
            None => None,
        };
        let blocks = scope.pp("transformer_blocks");
        let norm_out = scope.pp("norm_out");
        let norm = |scope| LayerNorm::load(&scope, dim, config.norm_eps, config.norm_elementwise_affine);
        Ok(Self {
            patch_proj: load_patch_proj(&patch.pp("proj"), &config)?,
            text_proj: Linear::load(&patch.pp("text_proj"), config.text_embed_dim, dim, true)?,
            learned_table: load_learned_table(&patch, &config)?,
            time_embedding: TimestepEmbedding::load(&scope.pp("time_embedding"), dim, time_dim)?,
            ofs_embedding,
            blocks: (0..config.num_layers)
                .map(|i| Block::load(&blocks.pp(i), &config))
                .collect::<Result<_>>()?,
            norm_final: norm(scope.pp("norm_final"))?,
            norm_out_linear: Linear::load(&norm_out.pp("linear"), time_dim, 2 * dim, true)?,
            norm_out: norm(norm_out.pp("norm"))?,
            proj_out: Linear::load(
                &scope.pp("proj_out"),
                dim,
                config.patch_values(config.out_channels),
                true,
            )?,
            dtype: scope.dtype(),
            config,
        })
    }

    /// As read from `config.json`.
    pub fn config(&self) -> &TransformerConfig {
        &self.config
    }

    /// The positions for latents of `frames` x `height` x `width`.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] for a size that the model cannot run: not divisible into patches, another size than
    /// a learned table's, or beyond the training size of a model with sliced rotary positions (1.5).
    pub fn positions(&self, frames: usize, height: usize, width: usize) -> Result<Positions> {
        let maker = PositionMaker { config: &self.config, learned_table: self.learned_table.as_ref() };
        maker.make([frames, height, width], self.dtype)
    }

    /// Predicts `(b, f, out_channels, h, w)`. `check` is called between blocks; its error ends the forward. Adapters
    /// are merged into a copy of each layer for as long as the layer is used: what diffusers computes after `fuse_lora`.
    ///
    /// # Errors
    /// What `check` returned, a shape that does not fit, or that of [`LoraAdapter::check`](crate::lora::LoraAdapter::check).
    pub fn forward(
        &self,
        input: &TransformerInput<'_>,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Tensor> {
        lora::check(input.lora, &self.config)?;
        let (_, frames, _, height, width) = input.hidden_states.dims5()?;
        let grid = Grid::of(&self.config, [frames, height, width])?;
        let streams = Streams { text_len: input.encoder_hidden_states.dim(1)? };
        let silu_emb = silu(&self.time_emb(input)?)?;
        let mut x = self.embed(input)?;
        let block_input = BlockInput {
            silu_emb: &silu_emb,
            rotary: input.positions.rotary.as_ref(),
            streams,
            lora: input.lora,
        };
        for (index, block) in self.blocks.iter().enumerate() {
            check()?;
            x = block.forward(index, &x, &block_input)?;
        }
        // diffusers norms the text tokens too and drops them.
        let video = x.narrow(1, streams.text_len, grid.tokens())?.contiguous()?;
        let normed = self.norm_final.forward(&video)?;
        let modulation = Modulation::new(&self.norm_out_linear.forward(&silu_emb)?, 2)?;
        let shift_scale = ShiftScale { values: &modulation, shift: [0, 0], scale: [1, 1] };
        let modulated = self.norm_out.modulated(&normed, Streams { text_len: 0 }, shift_scale)?;
        self.unpatchify(&self.proj_out.forward(&modulated)?, grid)
    }

    /// The embedding of the timestep (and of `ofs`), `(1, time_embed_dim)`.
    fn time_emb(&self, input: &TransformerInput<'_>) -> Result<Tensor> {
        let config = &self.config;
        let sinusoid = |value: f32, dim: usize| -> Result<Tensor> {
            let embedding = timestep_embedding(value, dim, config.flip_sin_to_cos, config.freq_shift)?;
            Ok(embedding.to_dtype(self.dtype)?)
        };
        let emb = self.time_embedding.forward(&sinusoid(input.timestep as f32, config.inner_dim())?)?;
        match (&self.ofs_embedding, config.ofs_embed_dim) {
            (Some(ofs_embedding), Some(dim)) => {
                Ok((emb + ofs_embedding.forward(&sinusoid(input.ofs, dim)?)?)?)
            }
            _ => Ok(emb),
        }
    }

    /// Text and patches as one sequence with their positions, `(b, text + video, inner)`.
    fn embed(&self, input: &TransformerInput<'_>) -> Result<Tensor> {
        let text = self.text_proj.forward(input.encoder_hidden_states)?;
        let video = self.patch_proj.forward(&self.patchify(input.hidden_states)?)?;
        let x = Tensor::cat(&[&text, &video], 1)?;
        match &input.positions.table {
            Some(table) if table.dim(1)? == x.dim(1)? => Ok(x.broadcast_add(table)?),
            Some(table) => {
                let (expected, found) = (table.dim(1)?, x.dim(1)?);
                Err(Error::invalid(
                    "prompt_embeds",
                    format!("expected {expected} tokens in all, found {found}"),
                ))
            }
            None => Ok(x),
        }
    }

    /// `(b, f, c, h, w)` to `(b, tokens, c * p_t * p * p)`, the channel slowest within a patch.
    fn patchify(&self, x: &Tensor) -> Result<Tensor> {
        let (b, f, c, h, w) = x.dims5()?;
        if c != self.config.in_channels {
            return Err(Error::invalid(
                "latents",
                format!("expected {} channels, found {c}", self.config.in_channels),
            ));
        }
        let (p, p_t) = (self.config.patch_size, self.config.patch_frames());
        let split = x.reshape(vec![b, f / p_t, p_t, c, h / p, p, w / p, p])?;
        let patches = split.permute(vec![0, 1, 4, 6, 3, 2, 5, 7])?.contiguous()?;
        Ok(patches.reshape((b, f / p_t * (h / p) * (w / p), self.config.patch_values(c)))?)
    }

    /// The inverse of [`Self::patchify`] for the output's channels.
    fn unpatchify(&self, x: &Tensor, grid: Grid) -> Result<Tensor> {
        let (b, c) = (x.dim(0)?, self.config.out_channels);
        let (p, p_t) = (self.config.patch_size, self.config.patch_frames());
        let Grid { frames, rows, columns } = grid;
        let split = x.reshape(vec![b, frames, rows, columns, c, p_t, p, p])?;
        let video = split.permute(vec![0, 1, 5, 4, 2, 6, 3, 7])?.contiguous()?;
        Ok(video.reshape((b, frames * p_t, c, rows * p, columns * p))?)
    }
}

/// The 1.0 patch layer is a convolution whose stride is its kernel, hence a linear layer over a patch's values; the
/// 1.5 one is stored as a linear layer, with a bias whatever `patch_bias` says.
fn load_patch_proj(scope: &WeightScope<'_>, config: &TransformerConfig) -> Result<Linear> {
    let (dim, p, values) = (config.inner_dim(), config.patch_size, config.patch_values(config.in_channels));
    if config.patch_size_t.is_some() {
        return Linear::load(scope, values, dim, true);
    }
    let weight = scope.tensor("weight", &[dim, config.in_channels, p, p])?.reshape((dim, values))?;
    let bias = if config.patch_bias { Some(scope.tensor("bias", &[dim])?) } else { None };
    Ok(Linear::new(weight, bias))
}

pub(crate) fn load_learned_table(
    scope: &WeightScope<'_>,
    config: &TransformerConfig,
) -> Result<Option<Tensor>> {
    if !config.use_learned_positional_embeddings {
        // diffusers once stored the fixed sincos table too.
        scope.ignore("pos_embedding");
        return Ok(None);
    }
    Ok(Some(scope.tensor("pos_embedding", &learned_table_dims(config))?))
}

/// `(1, text + video, inner)` of the sizes that the model was trained with.
pub(crate) fn learned_table_dims(config: &TransformerConfig) -> [usize; 3] {
    let frames = (config.sample_frames - 1) / config.temporal_compression_ratio + 1;
    let p = config.patch_size;
    let tokens = config.max_text_seq_length + frames * (config.sample_height / p) * (config.sample_width / p);
    [1, tokens, config.inner_dim()]
}
