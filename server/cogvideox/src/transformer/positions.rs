//! Where the tokens of a video are: rotary tables, the sincos table, or the learned table that a model brings.
//!
//! Made from the configuration on the host, once for a run, whatever device computes. Relies on the formulas in
//! `embeddings`; must not know blocks.

use std::sync::atomic::{AtomicU64, Ordering};

use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};

use super::config::TransformerConfig;
use super::embeddings::{Grid, crop_region, linspace, rotary_tables, sincos_table};
use crate::ops::attention::RotaryTables;
use crate::{Error, Result};

/// The positions of one video size, made once for all steps of a run.
pub struct Positions {
    pub(super) rotary: Option<RotaryTables>,
    /// Added to the embedded tokens, `(1, text + video, inner)`.
    pub(super) table: Option<Tensor>,
    /// Of no other positions in this process: whoever copies them to a device knows them again by it.
    id: u64,
}

impl Positions {
    /// Of no other positions in this process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Cosines and sines of the video tokens, `(tokens, head_dim)` row-major each; none for a model without rotary
    /// positions.
    pub fn rotary(&self) -> Option<(&[f32], &[f32])> {
        self.rotary.as_ref().map(|tables| (&tables.cos[..], &tables.sin[..]))
    }

    /// What is added to the embedded tokens, `(1, text + video, inner)`; none for a model with rotary positions only.
    pub fn table(&self) -> Option<&Tensor> {
        self.table.as_ref()
    }
}

impl Grid {
    /// The patches of latents of `frames` x `height` x `width`.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] if they do not divide into patches.
    pub(crate) fn of(config: &TransformerConfig, [frames, height, width]: [usize; 3]) -> Result<Self> {
        let (p, p_t) = (config.patch_size, config.patch_frames());
        let check = |field, value: usize, patch: usize| {
            if value > 0 && value.is_multiple_of(patch) {
                return Ok(value / patch);
            }
            Err(Error::invalid(field, format!("{value} latents do not divide into patches of {patch}")))
        };
        let (rows, columns) = (check("height", height, p)?, check("width", width, p)?);
        Ok(Self { frames: check("num_frames", frames, p_t)?, rows, columns })
    }
}

/// Makes the positions of a model.
pub(crate) struct PositionMaker<'a> {
    pub(crate) config: &'a TransformerConfig,
    /// `(1, text + video, inner)`, for models that have one.
    pub(crate) learned_table: Option<&'a Tensor>,
}

impl PositionMaker<'_> {
    /// For latents of `[frames, height, width]`, tables in `dtype`.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] for a size that the model cannot run.
    pub(crate) fn make(&self, size: [usize; 3], dtype: DType) -> Result<Positions> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let grid = Grid::of(self.config, size)?;
        let rotary =
            if self.config.use_rotary_positional_embeddings { Some(self.rotary(grid)?) } else { None };
        let table = if !self.config.use_rotary_positional_embeddings || self.learned_table.is_some() {
            Some(self.additive_table(grid, size, dtype)?)
        } else {
            None
        };
        Ok(Positions { rotary, table, id: NEXT_ID.fetch_add(1, Ordering::Relaxed) })
    }

    fn rotary(&self, grid: Grid) -> Result<RotaryTables> {
        let base_rows = self.config.sample_height / self.config.patch_size;
        let base_columns = self.config.sample_width / self.config.patch_size;
        let head_dim = self.config.attention_head_dim;
        let (rows, columns, frames) = (grid.rows as f64, grid.columns as f64, grid.frames as f64);
        if self.config.patch_size_t.is_some() {
            // 1.5: plain counting, cut from the training grid.
            for (field, found, limit) in
                [("height", grid.rows, base_rows), ("width", grid.columns, base_columns)]
            {
                if found > limit {
                    return Err(Error::invalid(
                        field,
                        format!("expected at most {limit} patches, found {found}"),
                    ));
                }
            }
            let count = |n: usize| (0..n).map(|i| i as f32).collect::<Vec<_>>();
            return Ok(rotary_tables(head_dim, &count(grid.frames), &count(grid.rows), &count(grid.columns)));
        }
        let [top, left, bottom, right] = crop_region(grid.rows, grid.columns, base_rows, base_columns);
        let times = linspace(0.0, frames * (frames - 1.0) / frames, grid.frames);
        let row_positions = linspace(top, bottom * (rows - 1.0) / rows, grid.rows);
        let column_positions = linspace(left, right * (columns - 1.0) / columns, grid.columns);
        Ok(rotary_tables(head_dim, &times, &row_positions, &column_positions))
    }

    /// The learned table where it fits, the sincos table otherwise: a model with a learned table silently falls back
    /// to sincos for another frame count, as in diffusers.
    fn additive_table(
        &self,
        grid: Grid,
        [frames, height, width]: [usize; 3],
        dtype: DType,
    ) -> Result<Tensor> {
        let config = self.config;
        if let Some(table) = self.learned_table {
            if (height, width) != (config.sample_height, config.sample_width) {
                let ratio = 8;
                return Err(Error::invalid(
                    "height",
                    format!(
                        "this model has learned positions and runs at {}x{} only, found {}x{}",
                        config.sample_width * ratio,
                        config.sample_height * ratio,
                        width * ratio,
                        height * ratio
                    ),
                ));
            }
            if (frames - 1) * config.temporal_compression_ratio + 1 == config.sample_frames {
                return Ok(table.clone());
            }
        }
        match dtype {
            DType::F32 => self.sincos_table::<f32>(grid),
            DType::F16 => self.sincos_table::<f16>(grid),
            DType::BF16 => self.sincos_table::<bf16>(grid),
            other => {
                Err(Error::UnsupportedDtype(format!("expected f32, f16 or bf16, found {}", other.as_str())))
            }
        }
    }

    fn sincos_table<T: WithDType>(&self, grid: Grid) -> Result<Tensor> {
        let config = self.config;
        let (text, dim) = (config.max_text_seq_length, config.inner_dim());
        let (spatial, temporal) = (config.spatial_interpolation_scale, config.temporal_interpolation_scale);
        let values = sincos_table::<T>(text, dim, grid, spatial, temporal);
        Ok(Tensor::from_vec(values, (1, text + grid.tokens(), dim), &Device::Cpu)?)
    }
}
