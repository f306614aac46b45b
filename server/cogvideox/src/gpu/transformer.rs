//! `CogVideoXTransformer3DModel` on a device.
//!
//! The same function as [`crate::transformer`], from the same files; the difference is in where weights are kept and
//! in what is fused. Latents come from the host and the prediction goes back to it, a few megabytes a step. Relies on
//! the device's operations; must not know schedulers or guidance.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Tensor as HostTensor};
use device::ops::linear::{Activation, Linear};
use device::ops::norm::{self, ShiftScale, Streams};
use device::ops::patch::{self, Patch, PatchGrid};
use device::{Device, Event, Tensor};

use super::adapters::Adapters;
use super::block::{Block, BlockInput, NormWeights};
use super::source::{Scope, Source};
use super::streaming::{Layers, Residence};
use super::tables::{TableMaker, Tables, expect_weights};
use super::transfer::{to_device, to_host};
use super::{MemoryPlan, Precision};
use crate::lora;
use crate::pipeline::Denoiser;
use crate::transformer::{Grid, PositionMaker, Positions, TransformerConfig, TransformerInput};
use crate::weights::DIFFUSERS_STEM;
use crate::{Error, Result};

/// Blocks that the host is ahead of the device: enough that the device never waits, few enough that a stop comes soon.
const BLOCKS_AHEAD: usize = 3;

/// How a transformer uses a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TransformerMemory {
    pub(crate) residence: Residence,
    /// One prompt of the batch after the other: half the memory for activations, the weights read twice.
    pub(crate) sequential_guidance: bool,
    /// Rows of the feed-forward's hidden layer at a time.
    pub(crate) ff_rows: usize,
}

/// The denoiser.
pub struct GpuTransformer {
    config: TransformerConfig,
    dtype: DType,
    device: Device,
    memory: TransformerMemory,
    source: Source,
    patch_proj: Linear,
    text_proj: Linear,
    learned_table: Option<HostTensor>,
    blocks: Layers<Block>,
    /// Of each block's scores.
    score_bounds: Vec<f32>,
    norm_final: NormWeights,
    norm_out: NormWeights,
    proj_out: Linear,
    tables: Mutex<Option<Tables>>,
    positions: Mutex<Option<DevicePositions>>,
    /// The last run's.
    adapters: Mutex<Adapters>,
}

/// The last run's positions.
struct DevicePositions {
    id: u64,
    rotary: Option<[Tensor; 2]>,
    table: Option<Tensor>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl GpuTransformer {
    /// Loads `dir`, the pipeline's `transformer` folder, to compute in `dtype` (f32, f16 or bf16).
    ///
    /// # Errors
    /// Those of [`crate::transformer::CogVideoXTransformer3DModel::load`]; [`Error::Device`].
    pub fn open(
        dir: &Path,
        dtype: DType,
        device: &Device,
        plan: &MemoryPlan,
        precision: Precision,
    ) -> Result<Self> {
        let config = TransformerConfig::load(&dir.join("config.json"))?;
        let source = Source::open(dir, DIFFUSERS_STEM, device)?;
        Self::load(config, source, dtype, device, plan.transformer_memory(), precision)
    }

    /// As [`crate::transformer::CogVideoXTransformer3DModel::positions`].
    ///
    /// # Errors
    /// As there.
    pub fn positions(&self, frames: usize, height: usize, width: usize) -> Result<Positions> {
        let maker = PositionMaker { config: &self.config, learned_table: self.learned_table.as_ref() };
        maker.make([frames, height, width], self.dtype)
    }

    /// As [`crate::transformer::CogVideoXTransformer3DModel::forward`]; adapters are computed beside their layers,
    /// as diffusers does with `set_adapters`, and stay on the device until others are asked for.
    ///
    /// # Errors
    /// As there; [`Error::Device`].
    pub fn forward(
        &self,
        input: &TransformerInput<'_>,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<HostTensor> {
        let outputs = self.start(input, true, check)?;
        // Every part is asked for before the first is waited for.
        let outputs = outputs.iter().map(to_host).collect::<Result<Vec<_>>>()?;
        Ok(HostTensor::cat(&outputs, 0)?)
    }

    /// # Errors
    /// Those of the weights, and of the device's memory.
    pub(crate) fn load(
        config: TransformerConfig,
        source: Source,
        dtype: DType,
        device: &Device,
        memory: TransformerMemory,
        precision: Precision,
    ) -> Result<Self> {
        let root = source.root(dtype, device);
        let dim = config.inner_dim();
        let patch = root.pp("patch_embed");
        expect_weights(&root, &config)?;
        let norm = |scope: Scope<'_>| {
            NormWeights::load(&scope, dim, config.norm_eps as f32, config.norm_elementwise_affine)
        };
        let blocks = root.pp("transformer_blocks");
        let mut score_bounds = vec![f32::INFINITY; config.num_layers];
        let load_block = |i: usize| {
            let block = Block::load(&blocks.pp(i), &config, precision)?;
            score_bounds[i] = block.score_bound()?;
            Ok(block)
        };
        let blocks = Layers::load(device, memory.residence, config.num_layers, load_block)?;
        let model = Self {
            patch_proj: load_patch_proj(&patch.pp("proj"), &config)?,
            text_proj: patch.pp("text_proj").linear(config.text_embed_dim, dim, true)?,
            learned_table: load_learned_table(&patch, &config)?,
            blocks,
            score_bounds,
            norm_final: norm(root.pp("norm_final"))?,
            norm_out: norm(root.pp("norm_out").pp("norm"))?,
            proj_out: root.pp("proj_out").linear(dim, config.patch_values(config.out_channels), true)?,
            tables: Mutex::default(),
            positions: Mutex::default(),
            adapters: Mutex::new(Adapters::none(config.num_layers)),
            device: device.clone(),
            dtype,
            memory,
            config,
            source,
        };
        model.source.finish()?;
        Ok(model)
    }

    /// Uploads positions, unless they are there from the last step.
    fn place(&self, positions: &Positions, slot: &mut Option<DevicePositions>) -> Result<()> {
        if slot.as_ref().is_some_and(|placed| placed.id == positions.id()) {
            return Ok(());
        }
        *slot = None;
        let rotary = positions.rotary().map(|(cos, sin)| -> Result<[Tensor; 2]> {
            let head_dim = self.config.attention_head_dim;
            let dims = [cos.len() / head_dim, head_dim];
            Ok([Tensor::from_slice(&self.device, &dims, cos)?, Tensor::from_slice(&self.device, &dims, sin)?])
        });
        let table = positions.table().map(|table| to_device(&table.to_dtype(self.dtype)?, &self.device));
        *slot = Some(DevicePositions {
            id: positions.id(),
            rotary: rotary.transpose()?,
            table: table.transpose()?,
        });
        Ok(())
    }

    /// Text and patches as one sequence with their positions, `(b, text + video, inner)`.
    fn embed(&self, latents: &Tensor, text: &Tensor, positions: &DevicePositions) -> Result<Tensor> {
        let text = self.text_proj.forward(text, Activation::Identity)?;
        let video =
            self.patch_proj.forward(&patch::patchify(latents, self.patch())?, Activation::Identity)?;
        let [_, text_len, inner] = text.dims_n("text_proj")?;
        let [_, video_len, _] = video.dims_n("patch_embed")?;
        let table = match &positions.table {
            None => None,
            Some(table) if table.len() == (text_len + video_len) * inner => {
                Some(table.reshape(&[text_len + video_len, inner])?)
            }
            Some(table) => {
                let (expected, found) = (table.len() / inner, text_len + video_len);
                return Err(Error::invalid(
                    "prompt_embeds",
                    format!("expected {expected} tokens in all, found {found}"),
                ));
            }
        };
        Ok(patch::join(&text, &video, table.as_ref())?)
    }

    /// Asks for the predictions of a batch, in one part or one for each prompt; if `paced`, not far ahead of the device.
    fn start(
        &self,
        input: &TransformerInput<'_>,
        paced: bool,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        let (batch, frames, channels, height, width) = input.hidden_states.dims5()?;
        if channels != self.config.in_channels {
            let message = format!("expected {} channels, found {channels}", self.config.in_channels);
            return Err(Error::invalid("latents", message));
        }
        let grid = Grid::of(&self.config, [frames, height, width])?;
        lora::check(input.lora, &self.config)?;
        self.prepare(&[input.timestep], input.ofs)?;
        let tables = locked(&self.tables);
        let tables = tables.as_ref().ok_or_else(not_prepared)?;
        let mut positions = locked(&self.positions);
        self.place(input.positions, &mut positions)?;
        let positions = positions.as_ref().ok_or_else(not_prepared)?;
        let mut adapters = locked(&self.adapters);
        adapters.set(input.lora, self.dtype, &self.device)?;
        let step = Step { timestep: input.timestep, grid, positions, tables, adapters: &adapters, paced };
        let latents = to_device(input.hidden_states, &self.device)?;
        let text = to_device(input.encoder_hidden_states, &self.device)?;
        let count = if self.memory.sequential_guidance { 1 } else { batch };
        (0..batch)
            .step_by(count.max(1))
            .map(|first| {
                self.predict(&latents.slice(first, count)?, &text.slice(first, count)?, &step, check)
            })
            .collect()
    }

    fn patch(&self) -> Patch {
        Patch { frames: self.config.patch_frames(), size: self.config.patch_size }
    }

    /// The prediction for a whole batch, `(b, f, c, h, w)`.
    fn predict(
        &self,
        latents: &Tensor,
        text: &Tensor,
        step: &Step<'_>,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Tensor> {
        let [_, text_len, _] = text.dims_n("encoder_hidden_states")?;
        let x = self.embed(latents, text, step.positions)?;
        let [_, tokens, _] = x.dims_n("hidden_states")?;
        let streams = Streams { tokens, text_len };
        let mut ahead: VecDeque<Event> = VecDeque::new();
        self.blocks.for_each(|index, block| {
            if ahead.len() == BLOCKS_AHEAD
                && let Some(done) = ahead.pop_front()
            {
                done.synchronize()?;
            }
            check()?;
            let rotary = step.positions.rotary.as_ref().map(|[cos, sin]| (cos, sin));
            let rows = step.tables.block(index, step.timestep).ok_or_else(not_prepared)??;
            let (heads, ff_rows) = (self.config.num_attention_heads, self.memory.ff_rows);
            let score_bound = self.score_bounds[index];
            let adapters = step.adapters.block(index);
            block
                .forward(&x, &BlockInput { heads, rows, rotary, streams, score_bound, ff_rows, adapters })?;
            if step.paced {
                ahead.push_back(Event::record(&self.device)?);
            }
            Ok(())
        })?;
        // diffusers norms the text tokens too and drops them.
        let video = patch::video_part(&x, text_len)?;
        drop(x);
        let normed = norm::layer_norm(&video, &self.norm_final.norm())?;
        let row = step.tables.norm_out(step.timestep).ok_or_else(not_prepared)??;
        let shift_scale = ShiftScale { table: &row, shift: [0, 0], scale: [1, 1] };
        let streams = Streams { tokens: tokens - text_len, text_len: 0 };
        let modulated = norm::modulated(&normed, &self.norm_out.norm(), &shift_scale, streams)?;
        let patches = self.proj_out.forward(&modulated, Activation::Identity)?;
        let Grid { frames, rows, columns } = step.grid;
        Ok(patch::unpatchify(&patches, PatchGrid { frames, rows, columns }, self.patch())?)
    }
}

/// What all prompts of a batch share.
struct Step<'a> {
    timestep: usize,
    grid: Grid,
    positions: &'a DevicePositions,
    tables: &'a Tables,
    adapters: &'a Adapters,
    /// Whether the host waits for the device between blocks, so that a stop takes effect soon.
    paced: bool,
}

fn not_prepared() -> Error {
    Error::invalid("timestep", "expected one of the run's, found another")
}

impl Denoiser for GpuTransformer {
    fn config(&self) -> &TransformerConfig {
        &self.config
    }

    fn positions(&self, frames: usize, height: usize, width: usize) -> Result<Positions> {
        self.positions(frames, height, width)
    }

    fn prepare(&self, timesteps: &[usize], ofs: f32) -> Result<()> {
        let mut tables = locked(&self.tables);
        if tables.as_ref().is_some_and(|tables| tables.serve(timesteps, ofs)) {
            return Ok(());
        }
        *tables = None;
        let maker = TableMaker {
            config: &self.config,
            source: &self.source,
            dtype: self.dtype,
            device: &self.device,
        };
        *tables = Some(maker.make(timesteps, ofs)?);
        Ok(())
    }

    fn forward(
        &self,
        input: &TransformerInput<'_>,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<HostTensor> {
        self.forward(input, check)
    }
}

/// Two transformers on two devices, each with one prompt of the guidance.
///
/// Both are asked before either is waited for (the first one's work is not paced, so that the second one's goes on
/// beside it); what they exchange, the latents and the predictions, passes through the host as it does with one device.
pub(crate) struct GuidanceParallel(pub(crate) [GpuTransformer; 2]);

impl Denoiser for GuidanceParallel {
    fn config(&self) -> &TransformerConfig {
        self.0[0].config()
    }

    fn positions(&self, frames: usize, height: usize, width: usize) -> Result<Positions> {
        self.0[0].positions(frames, height, width)
    }

    fn prepare(&self, timesteps: &[usize], ofs: f32) -> Result<()> {
        self.0.iter().try_for_each(|transformer| transformer.prepare(timesteps, ofs))
    }

    fn forward(
        &self,
        input: &TransformerInput<'_>,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<HostTensor> {
        let batch = input.hidden_states.dim(0)?;
        let mut outputs = Vec::with_capacity(batch);
        for prompt in 0..batch {
            let part = TransformerInput {
                hidden_states: &input.hidden_states.narrow(0, prompt, 1)?,
                encoder_hidden_states: &input.encoder_hidden_states.narrow(0, prompt, 1)?,
                ..*input
            };
            outputs.extend(self.0[prompt % 2].start(&part, prompt + 1 == batch, check)?);
        }
        let outputs = outputs.iter().map(to_host).collect::<Result<Vec<_>>>()?;
        Ok(HostTensor::cat(&outputs, 0)?)
    }
}

/// See `transformer/mod.rs`.
fn load_patch_proj(scope: &Scope<'_>, config: &TransformerConfig) -> Result<Linear> {
    let (dim, p, values) = (config.inner_dim(), config.patch_size, config.patch_values(config.in_channels));
    if config.patch_size_t.is_some() {
        return scope.linear(values, dim, true);
    }
    let weight = scope.tensor_as("weight", &[dim, config.in_channels, p, p], &[dim, values])?;
    let bias = if config.patch_bias { Some(scope.tensor("bias", &[dim])?) } else { None };
    Ok(Linear::dense(weight, bias)?)
}

/// On the host: it is part of the positions, which are made there.
fn load_learned_table(scope: &Scope<'_>, config: &TransformerConfig) -> Result<Option<HostTensor>> {
    let Some(files) = scope.files() else {
        if config.use_learned_positional_embeddings {
            scope.expect("pos_embedding", &crate::transformer::learned_table_dims(config))?;
        }
        return Ok(None);
    };
    crate::transformer::load_learned_table(files, config)
}
