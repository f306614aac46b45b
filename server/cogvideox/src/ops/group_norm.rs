//! Group normalisation, fused with what follows it in the video autoencoder.
//!
//! Statistics are summed in `f64`, in an order that does not depend on the number of threads. Normalising, the
//! spatial condition and `SiLU` are one pass that writes straight into the next convolution's input, rounding after
//! each step where `PyTorch` rounds. Relies on [`super::frame`]; must not know the autoencoder's structure.

#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined is not compiled for the registers chosen at run time"
)]

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use super::frame::{Frame, LANES, Lanes};
use super::vector::silu;
use super::{Rounding, rounding};
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
        let partial: Vec<Moments> = bands
            .into_par_iter()
            .map(|rows| Arch::new().dispatch(SumRows { rows, row_len, width: shape.width }))
            .collect();
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

/// The moments of some rows.
struct SumRows<'a> {
    rows: &'a [Lanes],
    row_len: usize,
    width: usize,
}

impl NullaryFnOnce for SumRows<'_> {
    type Output = Moments;

    #[inline(always)]
    fn call(self) -> Moments {
        let mut moments = vec![[[0.0; LANES]; 2]; self.row_len / self.width];
        for row in self.rows.chunks_exact(self.row_len) {
            for (pixels, total) in row.chunks_exact(self.width).zip(&mut moments) {
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
}

impl PreparedNorm {
    /// `silu(norm(input) * factor + summand)`, written one pixel inside `output`, a bordered frame.
    pub(crate) fn apply_silu(&self, input: &Frame, condition: Option<Condition<'_>>, output: &mut Frame) {
        let shape = input.shape();
        assert_eq!(output.shape(), shape.bordered(), "the next convolution reads a bordered frame");
        // Nearest neighbour, the same for every row.
        let columns: Vec<usize> = match condition {
            Some(condition) => {
                let small = condition.factor.shape().width;
                (0..shape.width).map(|x| x * small / shape.width).collect()
            }
            None => Vec::new(),
        };
        let row_len = output.shape().row_len();
        let rows = output.rows_mut()[row_len..][..shape.height * row_len].par_chunks_mut(row_len);
        rows.enumerate().for_each(|(y, output)| {
            let row = NormRow { norm: self, input: input.row(y), width: shape.width, output };
            match condition {
                Some(Condition { factor, summand }) => {
                    let small = factor.shape();
                    let small_y = y * small.height / shape.height;
                    let (factor, summand) = (factor.row(small_y), summand.row(small_y));
                    let condition = RowCondition { factor, summand, width: small.width, columns: &columns };
                    row.run(condition);
                }
                None => row.run(NoCondition),
            }
        });
    }
}

/// One row to normalise.
struct NormRow<'a> {
    norm: &'a PreparedNorm,
    input: &'a [Lanes],
    width: usize,
    output: &'a mut [Lanes],
}

impl NormRow<'_> {
    fn run(self, condition: impl ConditionAt) {
        // A loop of its own for each dtype, with the rounding compiled in.
        let arch = Arch::new();
        match self.norm.rounding {
            Rounding::None => arch.dispatch(NormTask { row: self, condition, round: |x| x }),
            Rounding::F16 => arch.dispatch(NormTask { row: self, condition, round: rounding::to_f16 }),
            Rounding::Bf16 => arch.dispatch(NormTask { row: self, condition, round: rounding::to_bf16 }),
        }
    }
}

/// A row with what is to be done, as a type that is compiled into vector code whole.
struct NormTask<'a, C, R> {
    row: NormRow<'a>,
    condition: C,
    round: R,
}

impl<C: ConditionAt, R: Fn(f32) -> f32> NullaryFnOnce for NormTask<'_, C, R> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let NormRow { norm, input, width, output } = self.row;
        let rows = input.chunks_exact(width).zip(output.chunks_exact_mut(width + 2));
        for (block, (from, to)) in rows.enumerate() {
            let (scale, shift) = (&norm.scale[block], &norm.shift[block]);
            for (x, (from, to)) in from.iter().zip(&mut to[1..=width]).enumerate() {
                let condition = self.condition.at(block, x);
                for lane in 0..LANES {
                    let mut value = (self.round)(from.0[lane].mul_add(scale.0[lane], shift.0[lane]));
                    if let Some((factor, summand)) = condition {
                        value = (self.round)((self.round)(value * factor.0[lane]) + summand.0[lane]);
                    }
                    to.0[lane] = (self.round)(silu(value));
                }
            }
        }
    }
}

/// What happens between the norm and `SiLU`.
trait ConditionAt {
    /// Factor and summand of a pixel.
    fn at(&self, block: usize, x: usize) -> Option<(&Lanes, &Lanes)>;
}

struct NoCondition;

impl ConditionAt for NoCondition {
    #[inline(always)]
    fn at(&self, _block: usize, _x: usize) -> Option<(&Lanes, &Lanes)> {
        None
    }
}

/// The condition's rows for one row of the input.
struct RowCondition<'a> {
    factor: &'a [Lanes],
    summand: &'a [Lanes],
    width: usize,
    /// The condition's column for each column of the input.
    columns: &'a [usize],
}

impl ConditionAt for RowCondition<'_> {
    #[inline(always)]
    fn at(&self, block: usize, x: usize) -> Option<(&Lanes, &Lanes)> {
        let at = block * self.width + self.columns[x];
        Some((&self.factor[at], &self.summand[at]))
    }
}
