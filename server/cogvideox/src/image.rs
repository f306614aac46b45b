//! provisional

use candle_core::{Device, Tensor};

use crate::Result;

/// An image.
#[derive(Clone, Debug)]
pub struct RgbImage {
    /// `(h, w, 3)`.
    pub rgb: Vec<u8>,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
}

pub(crate) fn preprocess(image: &RgbImage, _w: usize, _h: usize) -> Result<Tensor> {
    let x: Vec<f32> = image.rgb.iter().map(|&x| f32::from(x) / 255.0 * 2.0 - 1.0).collect();
    Ok(Tensor::from_vec(x, (1, image.height, image.width, 3), &Device::Cpu)?
        .permute((0, 3, 1, 2))?
        .contiguous()?)
}
