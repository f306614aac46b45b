//! The convolutions and the group norm against loops written straight from their definitions, on random odd shapes.

mod conv;
mod group_norm;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::frame::{Frame, FrameShape, LANES, Planes};
use crate::weights::{DIFFUSERS_STEM, Weights};

/// Reproducible values between -1 and 1.
pub(super) struct Values(u64);

impl Values {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(super) fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// Weights as a file holds them.
pub(super) fn weights(tensors: &[(&str, &[f32], &[usize])]) -> Weights {
    let folder = tempfile::tempdir().unwrap();
    let tensors: HashMap<String, Tensor> = tensors
        .iter()
        .map(|(name, values, shape)| {
            ((*name).to_owned(), Tensor::from_slice(values, *shape, &Device::Cpu).unwrap())
        })
        .collect();
    let path = folder.path().join(format!("{DIFFUSERS_STEM}.safetensors"));
    candle_core::safetensors::save(&tensors, path).unwrap();
    // A mapped file stays readable after its folder is gone.
    Weights::open(folder.path(), DIFFUSERS_STEM).unwrap()
}

/// A picture, one plane a channel.
#[derive(Clone)]
pub(super) struct Picture {
    pub(super) shape: FrameShape,
    pub(super) values: Vec<f32>,
}

impl Picture {
    pub(super) fn random(shape: FrameShape, values: &mut Values) -> Self {
        Self { shape, values: values.take(shape.channels * shape.height * shape.width) }
    }

    /// Zero outside.
    pub(super) fn at(&self, channel: usize, y: isize, x: isize) -> f64 {
        let FrameShape { height, width, .. } = self.shape;
        if y < 0 || x < 0 || y >= height as isize || x >= width as isize {
            return 0.0;
        }
        f64::from(self.values[(channel * height + y as usize) * width + x as usize])
    }

    pub(super) fn frame(&self, border: usize) -> Frame {
        let FrameShape { channels, height, width } = self.shape;
        let mut frame = Frame::zeros(FrameShape::new(channels, height + 2 * border, width + 2 * border));
        let planes = Planes { data: &self.values, channel_stride: height * width, row_stride: width };
        frame.read_planes(planes, border);
        frame
    }
}

/// Compares every value, and that channels that fill up the last sixteen are zero.
#[track_caller]
pub(super) fn assert_frame(
    what: &str,
    frame: &Frame,
    bound: f64,
    expected: impl Fn(usize, usize, usize) -> f64,
) {
    let shape = frame.shape();
    for y in 0..shape.height {
        for (index, pixel) in frame.row(y).iter().enumerate() {
            let (block, x) = (index / shape.width, index % shape.width);
            for (lane, found) in pixel.0.iter().enumerate() {
                let channel = block * LANES + lane;
                let expected = if channel < shape.channels { expected(channel, y, x) } else { 0.0 };
                assert!(
                    (f64::from(*found) - expected).abs() <= bound,
                    "{what}: channel {channel}, row {y}, column {x}: expected {expected}, found {found}"
                );
            }
        }
    }
}

/// The dtypes with the relative size of a rounding step.
pub(super) const DTYPES: [(DType, f64); 3] =
    [(DType::F32, 0.0), (DType::F16, 0.000_488_3), (DType::BF16, 0.003_907)];
