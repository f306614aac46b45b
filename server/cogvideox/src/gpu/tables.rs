//! The adaptive norms' rows of a whole schedule: what depends on the timestep alone, computed once.
//!
//! The layers that make them are a seventh to a fifth of a transformer's weights and
//! are not kept on the device: they are read, used for all timesteps of a schedule at once, and dropped; the result
//! stays until another schedule is asked for. Must not know what a row is used for.

use candle_core::DType;
use device::ops::elementwise;
use device::ops::linear::{Activation, Linear};
use device::{Device, Tensor};

use super::source::{Scope, Source, dtype_of};
use crate::Result;
use crate::transformer::{TransformerConfig, timestep_embedding};

/// Each adaptive norm's rows, `(timesteps, chunks * inner)`.
pub(super) struct Tables {
    timesteps: Vec<usize>,
    ofs: f32,
    /// Both of each block.
    blocks: Vec<[Tensor; 2]>,
    norm_out: Tensor,
}

/// Marks what [`TableMaker`] will read.
///
/// # Errors
/// Those of the weights.
pub(super) fn expect_weights(root: &Scope<'_>, config: &TransformerConfig) -> Result<()> {
    let (dim, time_dim) = (config.inner_dim(), config.time_embed_dim);
    let linear = |scope: &Scope<'_>, from: usize, to: usize| -> Result<()> {
        scope.expect("weight", &[to, from])?;
        scope.expect("bias", &[to])
    };
    let embedding = |scope: &Scope<'_>, from: usize, to: usize| -> Result<()> {
        linear(&scope.pp("linear_1"), from, to)?;
        linear(&scope.pp("linear_2"), to, to)
    };
    embedding(&root.pp("time_embedding"), dim, time_dim)?;
    if let Some(ofs_dim) = config.ofs_embed_dim {
        embedding(&root.pp("ofs_embedding"), ofs_dim, ofs_dim)?;
    }
    for i in 0..config.num_layers {
        let block = root.pp("transformer_blocks").pp(i);
        linear(&block.pp("norm1").pp("linear"), time_dim, 6 * dim)?;
        linear(&block.pp("norm2").pp("linear"), time_dim, 6 * dim)?;
    }
    linear(&root.pp("norm_out").pp("linear"), time_dim, 2 * dim)
}

/// What makes them.
pub(super) struct TableMaker<'a> {
    pub(super) config: &'a TransformerConfig,
    pub(super) source: &'a Source,
    pub(super) dtype: DType,
    pub(super) device: &'a Device,
}

impl Tables {
    /// Whether they were made for these timesteps, or for more.
    pub(super) fn serve(&self, timesteps: &[usize], ofs: f32) -> bool {
        self.ofs.to_bits() == ofs.to_bits() && timesteps.iter().all(|t| self.timesteps.contains(t))
    }

    /// The rows of block `index`, `(1, 6 * inner)` each; none for another timestep.
    pub(super) fn block(&self, index: usize, timestep: usize) -> Option<Result<[Tensor; 2]>> {
        let step = self.step(timestep)?;
        let [first, second] = &self.blocks[index];
        let rows = || Ok([first.slice(step, 1)?, second.slice(step, 1)?]);
        Some(rows())
    }

    /// The row of the last norm, `(1, 2 * inner)`.
    pub(super) fn norm_out(&self, timestep: usize) -> Option<Result<Tensor>> {
        Some(self.norm_out.slice(self.step(timestep)?, 1).map_err(Into::into))
    }

    fn step(&self, timestep: usize) -> Option<usize> {
        self.timesteps.iter().position(|t| *t == timestep)
    }
}

impl TableMaker<'_> {
    /// # Errors
    /// Those of the weights and of the device.
    pub(super) fn make(&self, timesteps: &[usize], ofs: f32) -> Result<Tables> {
        let root = self.source.root(self.dtype, self.device);
        let (dim, time_dim) = (self.config.inner_dim(), self.config.time_embed_dim);
        let emb = self.embed(&root, timesteps, ofs)?;
        let rows = |scope: &Scope<'_>, chunks: usize| -> Result<Tensor> {
            Ok(scope
                .pp("linear")
                .linear(time_dim, chunks * dim, true)?
                .forward(&emb, Activation::Identity)?)
        };
        let blocks = root.pp("transformer_blocks");
        let blocks = (0..self.config.num_layers).map(|i| {
            let block = blocks.pp(i);
            Ok([rows(&block.pp("norm1"), 6)?, rows(&block.pp("norm2"), 6)?])
        });
        Ok(Tables {
            timesteps: timesteps.to_vec(),
            ofs,
            blocks: blocks.collect::<Result<_>>()?,
            norm_out: rows(&root.pp("norm_out"), 2)?,
        })
    }

    /// SiLU of the timesteps' embeddings, `(timesteps, time_embed_dim)`.
    fn embed(&self, root: &Scope<'_>, timesteps: &[usize], ofs: f32) -> Result<Tensor> {
        let (dim, time_dim) = (self.config.inner_dim(), self.config.time_embed_dim);
        let values: Vec<f32> = timesteps.iter().map(|t| *t as f32).collect();
        let emb = self.embedding(&root.pp("time_embedding"), &values, [dim, time_dim])?;
        if let Some(ofs_dim) = self.config.ofs_embed_dim {
            let ofs = self.embedding(&root.pp("ofs_embedding"), &[ofs], [ofs_dim, ofs_dim])?;
            elementwise::add_in_place(&emb, &ofs)?;
        }
        Ok(elementwise::silu(&emb)?)
    }

    /// `linear_2(silu(linear_1(sinusoids)))` (diffusers' `TimestepEmbedding`).
    fn embedding(&self, scope: &Scope<'_>, values: &[f32], [from, to]: [usize; 2]) -> Result<Tensor> {
        let config = self.config;
        let mut sinusoids = Vec::with_capacity(values.len() * from);
        for value in values {
            let row = timestep_embedding(*value, from, config.flip_sin_to_cos, config.freq_shift)?;
            sinusoids.extend(row.flatten_all()?.to_vec1::<f32>()?);
        }
        let sinusoids =
            Tensor::from_f32(self.device, &[values.len(), from], dtype_of(self.dtype)?, &sinusoids)?;
        let linear = |name, from| -> Result<Linear> { scope.pp(name).linear(from, to, true) };
        let hidden = linear("linear_1", from)?.forward(&sinusoids, Activation::Identity)?;
        Ok(linear("linear_2", to)?.forward(&elementwise::silu(&hidden)?, Activation::Identity)?)
    }
}
