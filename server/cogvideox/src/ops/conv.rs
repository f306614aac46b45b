//! The convolutions of the video autoencoder, one output frame at a time.
//!
//! Weights are packed once, when they are loaded; inputs are read in place (no im2col), rows of output are shared
//! among the threads of rayon. Sums are `f32`; a half-precision result is rounded once, bias included, as `PyTorch`'s
//! CPU kernels do. Relies on [`super::conv_kernel`] for the arithmetic and on [`super::frame`] for the layout; must
//! not know the autoencoder's structure.

use rayon::prelude::*;

use super::Rounding;
use super::conv_kernel::{RowConv, Weights};
use super::frame::{Frame, FrameShape, LANES, Lanes};
use crate::Result;
use crate::weights::WeightScope;

/// Between two questions whether to go on: about a fifth of a second on two cores.
const MACS_BETWEEN_CHECKS: u64 = 20_000_000_000;

/// Told how many multiply-adds were done; an error stops the convolution.
pub(crate) type OnWork<'a> = &'a mut dyn FnMut(u64) -> Result<()>;

/// What a convolution does around its taps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// 3 x 3 x 3 on three bordered frames.
    Causal,
    /// 1 x 1 x 1 on one frame.
    Pointwise,
    /// Nearest-neighbour upsampling to twice the size, then 3 x 3, on one bordered frame of the small size.
    Upsampling,
    /// 3 x 3 with stride 2 on one frame of the columns split into even and odd.
    Downsampling,
}

/// The weights of one of the interleaved grids that the output consists of.
struct Phase {
    /// Where its pixels are in the output, and the first row and column that they read.
    y: usize,
    x: usize,
    weights: Vec<Weights>,
}

/// A convolution with its weights.
pub(crate) struct Conv {
    kind: Kind,
    in_channels: usize,
    out_channels: usize,
    /// Taps in time, height and width, as packed.
    taps: [usize; 3],
    phases: Vec<Phase>,
    bias: Vec<Lanes>,
    rounding: Rounding,
}

impl Conv {
    /// 3 x 3 x 3, causal in time.
    pub(crate) fn causal(scope: &WeightScope<'_>, in_channels: usize, out_channels: usize) -> Result<Self> {
        let weight = load(scope, &[out_channels, in_channels, 3, 3, 3])?;
        let at = |o, i, row, column| weight[((o * in_channels + i) * 9 + row) * 3 + column];
        Self::new(scope, Kind::Causal, [in_channels, out_channels], [3, 3, 3], &[(0, 0, &at)])
    }

    /// 1 x 1 x 1.
    pub(crate) fn pointwise(
        scope: &WeightScope<'_>,
        in_channels: usize,
        out_channels: usize,
    ) -> Result<Self> {
        let weight = load(scope, &[out_channels, in_channels, 1, 1, 1])?;
        let at = |o, i, _, _| weight[o * in_channels + i];
        Self::new(scope, Kind::Pointwise, [in_channels, out_channels], [1, 1, 1], &[(0, 0, &at)])
    }

    /// Nearest-neighbour upsampling to twice the size, then 3 x 3.
    ///
    /// Each of the four output pixels that come from one input pixel sees only 2 x 2 different input pixels, so it
    /// gets a 2 x 2 convolution of its own, whose weights are sums of the 3 x 3 weights.
    pub(crate) fn upsampling(scope: &WeightScope<'_>, channels: usize) -> Result<Self> {
        let weight = load(scope, &[channels, channels, 3, 3])?;
        // The taps of 3 that fall on small pixel 0 or 1 of the two that an even (0) or odd (1) pixel sees.
        let taps = |phase: usize, tap: usize| match (phase, tap) {
            (0, 0) => 0..1,
            (0, _) => 1..3,
            (_, 0) => 0..2,
            _ => 2..3,
        };
        let at = |y: usize, x: usize| {
            let weight = &weight;
            move |o, i, row, column| {
                let kernel = &weight[(o * channels + i) * 9..][..9];
                let rows = taps(y, row);
                rows.flat_map(|r| taps(x, column).map(move |c| kernel[r * 3 + c])).sum::<f32>()
            }
        };
        let weights = [at(0, 0), at(0, 1), at(1, 0), at(1, 1)];
        let phases: [(usize, usize, &WeightAt<'_>); 4] =
            [(0, 0, &weights[0]), (0, 1, &weights[1]), (1, 0, &weights[2]), (1, 1, &weights[3])];
        Self::new(scope, Kind::Upsampling, [channels, channels], [1, 2, 2], &phases)
    }

    /// 3 x 3 with stride 2, padded to the right and below only.
    pub(crate) fn downsampling(scope: &WeightScope<'_>, channels: usize) -> Result<Self> {
        let weight = load(scope, &[channels, channels, 3, 3])?;
        let at = |o, i, row, column| weight[((o * channels + i) * 3 + row) * 3 + column];
        Self::new(scope, Kind::Downsampling, [channels, channels], [1, 3, 3], &[(0, 0, &at)])
    }

    fn new(
        scope: &WeightScope<'_>,
        kind: Kind,
        [in_channels, out_channels]: [usize; 2],
        taps: [usize; 3],
        phases: &[(usize, usize, &WeightAt<'_>)],
    ) -> Result<Self> {
        let bias = super::with_f32(&scope.tensor("bias", &[out_channels])?, |bias| Ok(Lanes::pack(bias)))?;
        let phases = phases
            .iter()
            .map(|&(y, x, at)| Phase { y, x, weights: pack(in_channels, out_channels, taps, at) })
            .collect();
        let rounding = Rounding::of(scope.dtype())?;
        Ok(Self { kind, in_channels, out_channels, taps, phases, bias, rounding })
    }

    /// How many frames [`Self::run`] reads.
    pub(crate) fn input_frames(&self) -> usize {
        self.taps[0]
    }

    /// Multiply-adds of an output frame of `height` x `width`.
    pub(crate) fn macs(&self, height: usize, width: usize) -> u64 {
        let per_pixel = self.in_channels * self.out_channels * self.taps.iter().product::<usize>();
        height as u64 * width as u64 * per_pixel as u64
    }

    /// The frame that [`Self::run`] writes for inputs of this size (without borders).
    pub(crate) fn output_shape(&self, height: usize, width: usize) -> FrameShape {
        let (height, width) = match self.kind {
            Kind::Causal | Kind::Pointwise => (height, width),
            Kind::Upsampling => (2 * height, 2 * width),
            Kind::Downsampling => (height / 2, width / 2),
        };
        FrameShape::new(self.out_channels, height, width)
    }

    /// One output frame; `residual`, a frame of its shape, is added after rounding.
    ///
    /// # Errors
    /// What `on_work` returns.
    pub(crate) fn run(
        &self,
        inputs: &[&Frame],
        output: &mut Frame,
        residual: Option<&Frame>,
        on_work: OnWork<'_>,
    ) -> Result<()> {
        let shape = output.shape();
        assert_eq!(inputs.len(), self.taps[0], "a convolution reads one frame for each tap in time");
        assert!(
            residual.is_none_or(|residual| residual.shape() == shape),
            "a residual is of the output's shape"
        );
        // Phases interleave, so that a band of rows holds all phases of its rows.
        let step = if self.phases.len() == 1 { 1 } else { 2 };
        let band = step * shape.row_len();
        let macs_per_band = self.macs(step, shape.width);
        let bands_per_check = MACS_BETWEEN_CHECKS.div_ceil(macs_per_band.max(1)) as usize;
        let threads_share = |first: usize, bands: &mut [Lanes]| {
            bands.par_chunks_mut(band).enumerate().for_each(|(index, rows)| {
                self.band(inputs, first + index, rows, shape, residual);
            });
            (bands.len() / band) as u64 * macs_per_band
        };
        for (index, bands) in output.rows_mut().chunks_mut(bands_per_check * band).enumerate() {
            let macs = threads_share(index * bands_per_check, bands);
            on_work(macs)?;
        }
        Ok(())
    }

    /// The output rows of one input row, `rows`.
    fn band(
        &self,
        inputs: &[&Frame],
        index: usize,
        rows: &mut [Lanes],
        shape: FrameShape,
        residual: Option<&Frame>,
    ) {
        let input_shape = inputs[0].shape();
        let row_len = shape.row_len();
        let step = rows.len() / row_len;
        let input_step = if self.kind == Kind::Downsampling { 2 } else { 1 };
        for phase in &self.phases {
            let columns = match self.kind {
                Kind::Downsampling => [0, input_shape.width / 2, 1],
                _ => [phase.x, phase.x + 1, phase.x + 2],
            };
            let mut taps = Vec::with_capacity(phase.weights.len() / self.bias.len());
            for frame in inputs {
                for tap in 0..self.taps[1] {
                    let row = frame.row(index * input_step + phase.y + tap);
                    for block in row.chunks_exact(input_shape.width) {
                        taps.extend(columns[..self.taps[2]].iter().map(|column| &block[*column..]));
                    }
                }
            }
            pulp::Arch::new().dispatch(RowConv {
                taps: &taps,
                weights: &phase.weights,
                bias: &self.bias,
                output: &mut rows[phase.y * row_len..][..row_len],
                output_width: shape.width,
                first: phase.x,
                step,
                residual: residual.map(|frame| frame.row(index * step + phase.y)),
                rounding: self.rounding,
            });
        }
    }
}

/// The frame that [`Conv::downsampling`] reads: one row and column of zeros below and to the right, and in each row
/// the even columns before the odd ones, so that a stride of 2 reads neighbours.
pub(crate) fn split_columns_shape(channels: usize, height: usize, width: usize) -> FrameShape {
    FrameShape::new(channels, height + 1, (width / 2 + 1) * 2)
}

/// Where column `x` of a picture lies in a row of `width` pixels of such a frame.
pub(crate) fn split_column(x: usize, width: usize) -> usize {
    x / 2 + x % 2 * (width / 2)
}

/// The weight of (output channel, input channel, tap in time and height, tap in width).
type WeightAt<'a> = dyn Fn(usize, usize, usize, usize) -> f32 + 'a;

fn load(scope: &WeightScope<'_>, shape: &[usize]) -> Result<Vec<f32>> {
    Ok(super::with_f32(&scope.tensor("weight", shape)?, |weight| Ok(weight.to_vec()))?)
}

/// In the order in which [`RowConv`] reads them; channels that fill up the last sixteen have weights of zero.
fn pack(in_channels: usize, out_channels: usize, taps: [usize; 3], at: &WeightAt<'_>) -> Vec<Weights> {
    let mut packed = Vec::new();
    for out_block in (0..out_channels).step_by(LANES) {
        for row in 0..taps[0] * taps[1] {
            for in_block in (0..in_channels).step_by(LANES) {
                for column in 0..taps[2] {
                    let mut weights = [Lanes::ZERO; LANES];
                    for input in in_block..in_channels.min(in_block + LANES) {
                        for output in out_block..out_channels.min(out_block + LANES) {
                            weights[input - in_block].0[output - out_block] = at(output, input, row, column);
                        }
                    }
                    packed.push(weights);
                }
            }
        }
    }
    packed
}
