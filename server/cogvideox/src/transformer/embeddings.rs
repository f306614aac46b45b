//! Sinusoids of the timestep, and the three kinds of positions: sincos table, rotary tables, learned table.
//!
//! The formulas and their precision are those of diffusers' `embeddings.py`: the sincos table in `f64`, the rotary
//! tables and the timestep in `f32`. Pure tables; must not know weights.

use candle_core::{Device, Result, Tensor, WithDType};

use crate::ops::attention::RotaryTables;

/// Base of all frequencies.
const THETA: f64 = 10_000.0;

/// The timestep's sinusoid, `(1, dim)` in `f32` (diffusers' `get_timestep_embedding`).
pub(crate) fn timestep_embedding(
    timestep: f32,
    dim: usize,
    flip_sin_to_cos: bool,
    freq_shift: i64,
) -> Result<Tensor> {
    let half = dim / 2;
    let divisor = half as f32 - freq_shift as f32;
    let mut sin = Vec::with_capacity(dim);
    let mut cos = Vec::with_capacity(dim);
    for i in 0..half {
        let exponent = -(THETA.ln() as f32) * i as f32 / divisor;
        let angle = timestep * exponent.exp();
        sin.push(angle.sin());
        cos.push(angle.cos());
    }
    let mut values = if flip_sin_to_cos { [cos, sin].concat() } else { [sin, cos].concat() };
    // diffusers pads an odd width.
    values.resize(dim, 0.0);
    Tensor::from_vec(values, (1, dim), &Device::Cpu)
}

/// Patches of a video: latent frames (or pairs of them), rows, columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) frames: usize,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Grid {
    pub(crate) fn tokens(self) -> usize {
        self.frames * self.rows * self.columns
    }
}

/// The sincos table, `(tokens, dim)` row-major (diffusers' `get_3d_sincos_pos_embed`): a quarter of the width for
/// time, then three eighths each for the column and the row, in this order. Behind `zeros` tokens of zeros.
pub(crate) fn sincos_table<T: WithDType>(
    zeros: usize,
    dim: usize,
    grid: Grid,
    spatial_scale: f64,
    temporal_scale: f64,
) -> Vec<T> {
    // Rounded once, before the values are spread: the whole table in `f64` would be a quarter of a GiB.
    let axis = |count: usize, scale: f64, width: usize| -> Vec<Vec<T>> {
        let rounded = |i| sincos(f64::from(i as f32 / scale as f32), width).into_iter().map(T::from_f64);
        (0..count).map(|i| rounded(i).collect()).collect()
    };
    let spatial = 3 * dim / 4 / 2;
    let times = axis(grid.frames, temporal_scale, dim / 4);
    let rows = axis(grid.rows, spatial_scale, spatial);
    let columns = axis(grid.columns, spatial_scale, spatial);
    let mut table = Vec::with_capacity((zeros + grid.tokens()) * dim);
    table.resize(zeros * dim, T::from_f64(0.0));
    for time in &times {
        for row in &rows {
            for column in &columns {
                table.extend_from_slice(time);
                table.extend_from_slice(column);
                table.extend_from_slice(row);
            }
        }
    }
    table
}

/// Sines, then cosines, of one position.
fn sincos(position: f64, width: usize) -> Vec<f64> {
    let half = width / 2;
    let angles = (0..half).map(|i| position * (1.0 / THETA.powf(i as f64 / (width as f64 / 2.0))));
    angles.clone().map(f64::sin).chain(angles.map(f64::cos)).collect()
}

/// Rotary tables for positions along the three axes (diffusers' `get_3d_rotary_pos_embed`): a quarter of the head for
/// time, three eighths each for the row and the column.
pub(crate) fn rotary_tables(head_dim: usize, times: &[f32], rows: &[f32], columns: &[f32]) -> RotaryTables {
    let spatial = head_dim / 8 * 3;
    let times = axis_angles(times, head_dim / 4);
    let rows = axis_angles(rows, spatial);
    let columns = axis_angles(columns, spatial);
    let mut angles = Vec::with_capacity(times.len() * rows.len() * columns.len() * head_dim);
    for time in &times {
        for row in &rows {
            for column in &columns {
                angles.extend(time.iter().chain(row).chain(column).flat_map(|&angle| [angle, angle]));
            }
        }
    }
    RotaryTables {
        cos: angles.iter().map(|angle| angle.cos()).collect(),
        sin: angles.iter().map(|angle| angle.sin()).collect(),
    }
}

fn axis_angles(positions: &[f32], dim: usize) -> Vec<Vec<f32>> {
    let frequencies: Vec<f32> = (0..dim / 2)
        .map(|i| {
            let exponent = (2 * i) as f32 / dim as f32;
            1.0 / THETA.powf(f64::from(exponent)) as f32
        })
        .collect();
    positions.iter().map(|position| frequencies.iter().map(|f| position * f).collect()).collect()
}

/// `torch.linspace(start, end, count)` in `f32`: from the start for the first half, from the end for the second.
pub(crate) fn linspace(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    if count == 1 {
        return vec![start];
    }
    let step = (end - start) / (count - 1) as f32;
    (0..count)
        .map(|i| if i < count / 2 { start + step * i as f32 } else { end - step * (count - 1 - i) as f32 })
        .collect()
}

/// The part of the training grid that a grid of another shape is fitted into, as `[top, left, bottom, right]`
/// (diffusers' `get_resize_crop_region_for_grid`).
pub(crate) fn crop_region(rows: usize, columns: usize, base_rows: usize, base_columns: usize) -> [f64; 4] {
    let (h, w) = (rows as f64, columns as f64);
    let (th, tw) = (base_rows as f64, base_columns as f64);
    let ratio = h / w;
    let (fit_h, fit_w) = if ratio > th / tw {
        (th, (th / h * w).round_ties_even())
    } else {
        ((tw / w * h).round_ties_even(), tw)
    };
    let top = ((th - fit_h) / 2.0).round_ties_even();
    let left = ((tw - fit_w) / 2.0).round_ties_even();
    [top, left, top + fit_h, left + fit_w]
}
