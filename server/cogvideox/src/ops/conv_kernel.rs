//! The inner loops of the convolutions: one row of output pixels, all its channels.
//!
//! An output tile of a few neighbouring pixels times one or two lanes of output channels lives in vector registers
//! while the kernel runs over every tap and input channel: one load of weights serves all pixels of the tile, one
//! broadcast of an input value serves all output channels of it. The registers are as wide as the machine has them
//! (`pulp` chooses at run time). Relies on the layout of [`super::frame`]; must not know which convolution it is.

#![expect(
    clippy::inline_always,
    reason = "a function that is not inlined is not compiled for the registers chosen at run time"
)]
#![expect(clippy::needless_range_loop, reason = "loops over constants, unrolled, index several arrays")]

use pulp::{Simd, WithSimd};

use super::Rounding;
use super::frame::{LANES, Lanes};

/// Weights of this size stay in a core's second-level cache while a row's tiles use them.
const WEIGHT_SLAB_BYTES: usize = 384 * 1024;

/// The weights of one tap for sixteen input channels: for each of them those of sixteen output channels.
pub(crate) type Weights = [Lanes; LANES];

/// One row of output for one set of weights.
pub(crate) struct RowConv<'a> {
    /// For each tap and sixteen input channels, what the first output pixel reads and the pixels after it.
    pub(crate) taps: &'a [&'a [Lanes]],
    /// For each sixteen output channels, one for each of `taps`.
    pub(crate) weights: &'a [Weights],
    pub(crate) bias: &'a [Lanes],
    pub(crate) output: &'a mut [Lanes],
    /// Pixels of an output row.
    pub(crate) output_width: usize,
    /// The kernel writes the pixels `first`, `first + step`, ...
    pub(crate) first: usize,
    pub(crate) step: usize,
    /// A row of the output's layout, added after rounding.
    pub(crate) residual: Option<&'a [Lanes]>,
    pub(crate) rounding: Rounding,
}

/// What a tile computes in one go: as many taps as have their weights in the cache.
struct Pass<'a> {
    /// Output channels, in lanes.
    block: usize,
    taps: &'a [&'a [Lanes]],
    /// Of the taps, for the output channels from `block` on.
    weights: &'a [Weights],
    /// For the next sixteen output channels.
    next_weights: &'a [Weights],
    first: bool,
    last: bool,
}

impl WithSimd for RowConv<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let blocks = self.bias.len();
        // Plain loops: a closure is a function of its own, and would not be compiled for the registers.
        match S::F32_LANES {
            // Thirty-two registers: 12 x 2 sums, 2 weights, 1 broadcast.
            16 => {
                for block in (0..blocks - blocks % 2).step_by(2) {
                    self.output_block::<S, 2>(simd, block, 12);
                }
                if blocks % 2 == 1 {
                    self.output_block::<S, 1>(simd, blocks - 1, 12);
                }
            }
            // Sixteen registers: 6 x 2 sums, 2 weights, 1 broadcast.
            8 => {
                for block in 0..blocks {
                    self.output_block::<S, 2>(simd, block, 6);
                }
            }
            4 => {
                for block in 0..blocks {
                    self.output_block::<S, 4>(simd, block, 6);
                }
            }
            _ => {
                for block in 0..blocks {
                    self.output_block::<S, 16>(simd, block, 1);
                }
            }
        }
    }
}

impl RowConv<'_> {
    /// `N` vectors of output channels from `block` on, in tiles of at most `max_tile` pixels.
    #[inline(always)]
    fn output_block<S: Simd, const N: usize>(&mut self, simd: S, block: usize, max_tile: usize) {
        let width = (self.output_width - self.first).div_ceil(self.step);
        let tiles = width.div_ceil(max_tile);
        let (tile, longer) = (width / tiles, width % tiles);
        let count = self.taps.len();
        let weights = &self.weights[block * count..];
        // A tile that is one lane of output channels wide does not look at the next.
        let next_weights = if weights.len() > count { &weights[count..] } else { weights };
        let slabs = (count * size_of::<Weights>() * N * S::F32_LANES / LANES).div_ceil(WEIGHT_SLAB_BYTES);
        for slab in 0..slabs {
            let taps = count * slab / slabs..count * (slab + 1) / slabs;
            let pass = Pass {
                block,
                taps: &self.taps[taps.clone()],
                weights: &weights[taps.clone()],
                next_weights: &next_weights[taps],
                first: slab == 0,
                last: slab + 1 == slabs,
            };
            let mut x = 0;
            for index in 0..tiles {
                let len = tile + usize::from(index < longer);
                self.any_tile::<S, N>(simd, &pass, x, len);
                x += len;
            }
        }
    }

    #[inline(always)]
    fn any_tile<S: Simd, const N: usize>(&mut self, simd: S, pass: &Pass<'_>, x: usize, len: usize) {
        if S::F32_LANES == 16 {
            match len {
                7 => return self.tile::<S, N, 7>(simd, pass, x),
                8 => return self.tile::<S, N, 8>(simd, pass, x),
                9 => return self.tile::<S, N, 9>(simd, pass, x),
                10 => return self.tile::<S, N, 10>(simd, pass, x),
                11 => return self.tile::<S, N, 11>(simd, pass, x),
                12 => return self.tile::<S, N, 12>(simd, pass, x),
                _ => {}
            }
        }
        if S::F32_LANES >= 4 {
            match len {
                2 => return self.tile::<S, N, 2>(simd, pass, x),
                3 => return self.tile::<S, N, 3>(simd, pass, x),
                4 => return self.tile::<S, N, 4>(simd, pass, x),
                5 => return self.tile::<S, N, 5>(simd, pass, x),
                6 => return self.tile::<S, N, 6>(simd, pass, x),
                _ => {}
            }
        }
        for x in x..x + len {
            self.tile::<S, N, 1>(simd, pass, x);
        }
    }

    /// `M` pixels from `x` on.
    #[inline(always)]
    fn tile<S: Simd, const N: usize, const M: usize>(&mut self, simd: S, pass: &Pass<'_>, x: usize) {
        let mut sums = self.start::<S, N, M>(simd, pass, x);
        let weights = pass.weights.iter().zip(pass.next_weights);
        for (tap, (weights, next_weights)) in pass.taps.iter().zip(weights) {
            let pixels: &[Lanes; M] = tap[x..].first_chunk().expect("a tap covers the whole row");
            multiply_add::<S, N, M>(simd, &mut sums, pixels, [weights, next_weights]);
        }
        self.store::<S, N, M>(simd, pass, x, sums);
    }

    /// The bias, or the sums that an earlier pass left in the output.
    #[inline(always)]
    fn start<S: Simd, const N: usize, const M: usize>(
        &self,
        simd: S,
        pass: &Pass<'_>,
        x: usize,
    ) -> [[S::f32s; N]; M] {
        let mut sums = [[simd.splat_f32s(0.0); N]; M];
        let per_lanes = LANES / S::F32_LANES;
        for m in 0..M {
            for n in 0..N {
                let block = pass.block + n / per_lanes;
                let from = if pass.first {
                    &self.bias[block]
                } else {
                    &self.output[block * self.output_width + self.first + (x + m) * self.step]
                };
                sums[m][n] = S::as_simd_f32s(&from.0).0[n % per_lanes];
            }
        }
        sums
    }

    #[inline(always)]
    fn store<S: Simd, const N: usize, const M: usize>(
        &mut self,
        simd: S,
        pass: &Pass<'_>,
        x: usize,
        sums: [[S::f32s; N]; M],
    ) {
        let per_lanes = LANES / S::F32_LANES;
        let rounds = pass.last && self.rounding != Rounding::None;
        for m in 0..M {
            for n in 0..N {
                let at = (pass.block + n / per_lanes) * self.output_width + self.first + (x + m) * self.step;
                let mut sum = sums[m][n];
                if rounds {
                    round(simd, self.rounding, &mut sum);
                }
                if pass.last
                    && let Some(residual) = self.residual
                {
                    sum = simd.add_f32s(sum, S::as_simd_f32s(&residual[at].0).0[n % per_lanes]);
                    if rounds {
                        round(simd, self.rounding, &mut sum);
                    }
                }
                S::as_mut_simd_f32s(&mut self.output[at].0).0[n % per_lanes] = sum;
            }
        }
    }
}

/// `sums[pixel][lane] += pixels[pixel][k] * weights[k][lane]`.
#[inline(always)]
fn multiply_add<S: Simd, const N: usize, const M: usize>(
    simd: S,
    sums: &mut [[S::f32s; N]; M],
    pixels: &[Lanes; M],
    weights: [&Weights; 2],
) {
    let per_lanes = LANES / S::F32_LANES;
    for k in 0..LANES {
        let mut weight = [simd.splat_f32s(0.0); N];
        for n in 0..N {
            weight[n] = S::as_simd_f32s(&weights[n / per_lanes][k].0).0[n % per_lanes];
        }
        for m in 0..M {
            let value = simd.splat_f32s(pixels[m].0[k]);
            for n in 0..N {
                sums[m][n] = simd.mul_add_e_f32s(value, weight[n], sums[m][n]);
            }
        }
    }
}

#[inline(always)]
fn round<S: Simd>(simd: S, rounding: Rounding, values: &mut S::f32s) {
    let _ = simd;
    for value in pulp::bytemuck::cast_slice_mut::<S::f32s, f32>(std::slice::from_mut(values)) {
        *value = rounding.round(*value);
    }
}
