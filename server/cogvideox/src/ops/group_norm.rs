//! Group normalisation, fused with what follows it in the video autoencoder.
//!
//! Statistics are summed in `f64`, in an order that does not depend on the number of threads. Normalising, the
//! spatial condition and `SiLU` are one pass that writes straight into the next convolution's input, rounding after
//! each step where `PyTorch` rounds. Relies on [`super::frame`]; must not know the autoencoder's structure.

use rayon::prelude::*;

use super::Rounding;
use super::frame::{Frame, LANES, Lanes};
use super::vector::{dispatch, silu};
use crate::Result;
use crate::weights::WeightScope;

/// Rows that one thread sums up at a time.
const ROWS_PER_SUM: usize = 8;

/// A group norm's parameters.
pub(crate) struct GroupNorm {
    groups: usize,
    eps: f64,
    weight: Vec<f32>,
    bias: Vec<f32>,
    rounding: Rounding,
}

/// A group norm with the statistics of one input: `x * scale + shift` for each channel.
pub(crate) struct PreparedNorm {
    scale: Vec<Lanes>,
    shift: Vec<Lanes>,
    rounding: Rounding,
}

/// A factor and a summand for each pixel, given at a lower resolution (nearest neighbour), applied after the norm.
#[derive(Clone, Copy)]
pub(crate) struct Condition<'a> {
    pub(crate) factor: &'a Frame,
    pub(crate) summand: &'a Frame,
}

/// The sum of the values and the sum of their squares, for each channel.
type Moments = Vec<[[f64; LANES]; 2]>;

impl GroupNorm {
    /// `weight` and `bias` of `scope`; `groups` divides `channels`.
    pub(crate) fn load(scope: &WeightScope<'_>, channels: usize, groups: usize, eps: f64) -> Result<Self> {
        let load = |name| -> Result<Vec<f32>> {
            Ok(super::with_f32(&scope.tensor(name, &[channels])?, |values| Ok(values.to_vec()))?)
        };
        let rounding = Rounding::of(scope.dtype())?;
        Ok(Self { groups, eps, weight: load("weight")?, bias: load("bias")?, rounding })
    }

    /// Takes the statistics of each group over all pixels of all `frames`.
    pub(crate) fn prepare(&self, frames: &[Frame]) -> PreparedNorm {
        let shape = frames[0].shape();
        let row_len = shape.row_len();
        let bands: Vec<&[Lanes]> =
            frames.iter().flat_map(|frame| frame.rows().chunks(ROWS_PER_SUM * row_len)).collect();
        let partial: Vec<Moments> =
            bands.into_par_iter().map(|rows| dispatch(|| moments(rows, row_len, shape.width))).collect();
        let channels = self.weight.len();
        let group_len = channels / self.groups;
        let count = (frames.len() * shape.height * shape.width * group_len) as f64;
        let (mut scale, mut shift) = (vec![0.0; channels], vec![0.0; channels]);
        for group in 0..self.groups {
            let members = group * group_len..(group + 1) * group_len;
            let total = |moment: usize| -> f64 {
                let of_channel = |channel: usize| -> f64 {
                    partial.iter().map(|part| part[channel / LANES][moment][channel % LANES]).sum()
                };
                members.clone().map(of_channel).sum()
            };
            let mean = total(0) / count;
            let variance = (total(1) / count - mean * mean).max(0.0);
            let inverse_std = 1.0 / (variance + self.eps).sqrt();
            for channel in members.clone() {
                let factor = f64::from(self.weight[channel]) * inverse_std;
                scale[channel] = factor as f32;
                shift[channel] = (-mean).mul_add(factor, f64::from(self.bias[channel])) as f32;
            }
        }
        PreparedNorm { scale: Lanes::pack(&scale), shift: Lanes::pack(&shift), rounding: self.rounding }
    }
}

#[inline(always)]
fn moments(rows: &[Lanes], row_len: usize, width: usize) -> Moments {
    let mut moments = vec![[[0.0; LANES]; 2]; row_len / width];
    for row in rows.chunks_exact(row_len) {
        for (pixels, total) in row.chunks_exact(width).zip(&mut moments) {
            let [mut sum, mut squares] = *total;
            for pixel in pixels {
                for lane in 0..LANES {
                    let value = f64::from(pixel.0[lane]);
                    sum[lane] += value;
                    squares[lane] = value.mul_add(value, squares[lane]);
                }
            }
            *total = [sum, squares];
        }
    }
    moments
}

impl PreparedNorm {
    /// `silu(norm(input) * factor + summand)`, written one pixel inside `output`, a bordered frame.
    pub(crate) fn apply_silu(&self, input: &Frame, condition: Option<Condition<'_>>, output: &mut Frame) {
        assert_eq!(output.shape(), input.shape().bordered(), "the next convolution reads a bordered frame");
        let height = input.shape().height;
        let row_len = output.shape().row_len();
        output.rows_mut()[row_len..][..height * row_len].par_chunks_mut(row_len).enumerate().for_each(
            |(y, row)| {
                dispatch(|| match (self.rounding, condition) {
                    (Rounding::None, None) => self.row(input, y, row, NoCondition, Rounding::None),
                    (rounding, None) => self.row(input, y, row, NoCondition, rounding),
                    (Rounding::None, Some(condition)) => {
                        self.row(input, y, row, RowCondition::new(condition, input, y), Rounding::None);
                    }
                    (rounding, Some(condition)) => {
                        self.row(input, y, row, RowCondition::new(condition, input, y), rounding);
                    }
                });
            },
        );
    }

    #[inline(always)]
    fn row(
        &self,
        input: &Frame,
        y: usize,
        output: &mut [Lanes],
        condition: impl ConditionAt,
        rounding: Rounding,
    ) {
        let width = input.shape().width;
        let rows = input.row(y).chunks_exact(width).zip(output.chunks_exact_mut(width + 2));
        for (block, (from, to)) in rows.enumerate() {
            let (scale, shift) = (&self.scale[block], &self.shift[block]);
            for (x, (from, to)) in from.iter().zip(&mut to[1..=width]).enumerate() {
                for lane in 0..LANES {
                    let normed = rounding.round(from.0[lane].mul_add(scale.0[lane], shift.0[lane]));
                    let conditioned = condition.apply(normed, block, x, lane, rounding);
                    to.0[lane] = rounding.round(silu(conditioned));
                }
            }
        }
    }
}

/// What happens between the norm and `SiLU`.
trait ConditionAt {
    fn apply(&self, value: f32, block: usize, x: usize, lane: usize, rounding: Rounding) -> f32;
}

struct NoCondition;

impl ConditionAt for NoCondition {
    #[inline(always)]
    fn apply(&self, value: f32, _block: usize, _x: usize, _lane: usize, _rounding: Rounding) -> f32 {
        value
    }
}

/// The condition's rows for one row of the input.
struct RowCondition<'a> {
    factor: &'a [Lanes],
    summand: &'a [Lanes],
    width: usize,
    /// Columns of the condition for each column of the input.
    columns: Vec<u32>,
}

impl<'a> RowCondition<'a> {
    fn new(condition: Condition<'a>, input: &Frame, y: usize) -> Self {
        let (shape, small) = (input.shape(), condition.factor.shape());
        let small_y = y * small.height / shape.height;
        Self {
            factor: condition.factor.row(small_y),
            summand: condition.summand.row(small_y),
            width: small.width,
            columns: (0..shape.width).map(|x| (x * small.width / shape.width) as u32).collect(),
        }
    }
}

impl ConditionAt for RowCondition<'_> {
    #[inline(always)]
    fn apply(&self, value: f32, block: usize, x: usize, lane: usize, rounding: Rounding) -> f32 {
        let at = block * self.width + self.columns[x] as usize;
        let product = rounding.round(value * self.factor[at].0[lane]);
        rounding.round(product + self.summand[at].0[lane])
    }
}
