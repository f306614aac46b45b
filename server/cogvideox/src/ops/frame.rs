//! The picture layout of the convolutions: channels in lanes of sixteen, beside their pixel.
//!
//! A [`Frame`] is one time step. Its rows follow each other; a row holds, for each sixteen channels, the sixteen
//! values of every pixel of the row. So a convolution reads neighbouring pixels at constant distances and writes
//! whole vector registers, and a row is contiguous whatever the number of channels: threads share a frame by rows.
//! Channels are filled up with zeros to a multiple of sixteen. Relies on nothing; must not know what a frame means.

use rayon::prelude::*;

/// Channels side by side in memory: one AVX-512 register, two AVX2 registers, four NEON registers.
pub(crate) const LANES: usize = 16;

/// Sixteen channels of one pixel. Aligned, so that no vector load crosses a cache line.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Lanes(pub(crate) [f32; LANES]);

impl Lanes {
    pub(crate) const ZERO: Self = Self([0.0; LANES]);

    /// A per-channel parameter, cut into lanes and filled up with zeros.
    pub(crate) fn pack(values: &[f32]) -> Vec<Self> {
        values
            .chunks(LANES)
            .map(|chunk| {
                let mut lanes = Self::ZERO;
                lanes.0[..chunk.len()].copy_from_slice(chunk);
                lanes
            })
            .collect()
    }
}

/// The measures of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameShape {
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl FrameShape {
    pub(crate) fn new(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width }
    }

    /// With one more row above and below and one more column left and right.
    pub(crate) fn bordered(self) -> Self {
        Self { height: self.height + 2, width: self.width + 2, ..self }
    }

    /// How many [`Lanes`] a pixel takes.
    pub(crate) fn channel_blocks(self) -> usize {
        self.channels.div_ceil(LANES)
    }

    pub(crate) fn row_len(self) -> usize {
        self.channel_blocks() * self.width
    }
}

/// A rectangle of pictures stored one plane a channel, from its first value on.
#[derive(Clone, Copy)]
pub(crate) struct Planes<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) channel_stride: usize,
    pub(crate) row_stride: usize,
}

/// One time step of a picture sequence.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    shape: FrameShape,
    rows: Vec<Lanes>,
}

impl Frame {
    pub(crate) fn zeros(shape: FrameShape) -> Self {
        Self { shape, rows: vec![Lanes::ZERO; shape.height * shape.row_len()] }
    }

    pub(crate) fn shape(&self) -> FrameShape {
        self.shape
    }

    /// Row `y`: the `width` pixels of the first sixteen channels, then those of the next.
    pub(crate) fn row(&self, y: usize) -> &[Lanes] {
        let len = self.shape.row_len();
        &self.rows[y * len..][..len]
    }

    /// All rows, one after the other.
    pub(crate) fn rows(&self) -> &[Lanes] {
        &self.rows
    }

    pub(crate) fn rows_mut(&mut self) -> &mut [Lanes] {
        &mut self.rows
    }

    /// Copies the pixels of `planes` to `border` pixels inside the frame.
    pub(crate) fn read_planes(&mut self, planes: Planes<'_>, border: usize) {
        let shape = self.shape;
        let (height, width) = (shape.height - 2 * border, shape.width - 2 * border);
        for channel in 0..shape.channels {
            for y in 0..height {
                let values = &planes.data[channel * planes.channel_stride + y * planes.row_stride..][..width];
                let start = (y + border) * shape.row_len() + channel / LANES * shape.width + border;
                for (pixel, value) in self.rows[start..][..width].iter_mut().zip(values) {
                    pixel.0[channel % LANES] = *value;
                }
            }
        }
    }

    /// Copies `input` to one pixel inside this frame.
    pub(crate) fn read_inside(&mut self, input: &Self) {
        assert_eq!(self.shape, input.shape.bordered(), "the next convolution reads a bordered frame");
        let (width, row_len) = (input.shape.width, self.shape.row_len());
        self.rows[row_len..][..input.shape.height * row_len].par_chunks_mut(row_len).enumerate().for_each(
            |(y, row)| {
                for (from, to) in input.row(y).chunks_exact(width).zip(row.chunks_exact_mut(width + 2)) {
                    to[1..=width].copy_from_slice(from);
                }
            },
        );
    }

    /// Copies the pixels to planes of `height * width` values, one for each channel, `stride` apart.
    pub(crate) fn write_planes(&self, planes: &mut [f32], stride: usize) {
        let shape = self.shape;
        for channel in 0..shape.channels {
            let plane = &mut planes[channel * stride..][..shape.height * shape.width];
            for (y, values) in plane.chunks_exact_mut(shape.width).enumerate() {
                let row = &self.row(y)[channel / LANES * shape.width..][..shape.width];
                for (pixel, value) in row.iter().zip(values) {
                    *value = pixel.0[channel % LANES];
                }
            }
        }
    }
}

/// Frames that are no longer needed, kept for the next one of the same shape.
///
/// Fresh memory costs the operating system more than the arithmetic of a thin convolution; and a bordered frame
/// that comes back still has its border of zeros.
#[derive(Default)]
pub(crate) struct FramePool {
    spare: Vec<Frame>,
}

impl FramePool {
    /// A frame whose values are to be overwritten.
    pub(crate) fn take(&mut self, shape: FrameShape) -> Frame {
        match self.spare.iter().position(|frame| frame.shape == shape) {
            Some(index) => self.spare.swap_remove(index),
            None => Frame::zeros(shape),
        }
    }

    pub(crate) fn give(&mut self, frame: Frame) {
        self.spare.push(frame);
    }

    /// Gives the memory back, when the next frames have another size.
    pub(crate) fn clear(&mut self) {
        self.spare.clear();
    }
}
