//! The conditioning image of image-to-video: from a file to what the VAE encodes.
//!
//! Follows diffusers' `load_image` and `VaeImageProcessor.preprocess`: the orientation of the EXIF data applied, alpha
//! dropped, resized to the video's size (without keeping the aspect) by Pillow's Lanczos filter, whose fixed-point
//! arithmetic on bytes is repeated here to the bit (rows before columns, as every Pillow up to 12). Relies on the `image` crate for decoding; must not know the VAE.

use std::io::Cursor;
use std::path::Path;

use candle_core::{Device, Tensor};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use rayon::prelude::*;

use crate::{Error, Result};

/// The most pixels that a file may hold: far above any camera's preview, far below what fills the memory.
const MAX_PIXELS: u64 = 64 << 20;
/// Bytes that a decoder may ask for.
const MAX_ALLOC_BYTES: u64 = 1 << 30;

/// An image of 8-bit RGB samples, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    rgb: Vec<u8>,
    width: usize,
    height: usize,
}

impl RgbImage {
    /// From samples at hand.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] for an empty image, or when the samples are not `height * width * 3`.
    pub fn new(rgb: Vec<u8>, width: usize, height: usize) -> Result<Self> {
        let expected = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
        if expected != Some(rgb.len()) || rgb.is_empty() {
            let found = rgb.len();
            return Err(refuse(format!("expected {width}x{height} pixels of 3 bytes, found {found} bytes")));
        }
        Ok(Self { rgb, width, height })
    }

    /// Decodes a PNG, JPEG or WebP file, told apart by its first bytes.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] on `image` for another format, a damaged file, or more than 64 million pixels.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(|e| refuse(format!("not readable: {e}")))?;
        if !matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) {
            return Err(refuse(format!(
                "expected a PNG, JPEG or WebP file, found {} other bytes",
                bytes.len()
            )));
        }
        let mut limits = Limits::default();
        limits.max_alloc = Some(MAX_ALLOC_BYTES);
        reader.limits(limits);
        let damaged = |e| refuse(format!("damaged: {e}"));
        let mut decoder = reader.into_decoder().map_err(damaged)?;
        let (width, height) = decoder.dimensions();
        if u64::from(width) * u64::from(height) > MAX_PIXELS {
            return Err(refuse(format!("expected at most {MAX_PIXELS} pixels, found {width}x{height}")));
        }
        let orientation = decoder.orientation().map_err(damaged)?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
        image.apply_orientation(orientation);
        let (width, height) = (image.width() as usize, image.height() as usize);
        Self::new(rgb8(image), width, height)
    }

    /// Pixels of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The samples, `(height, width, 3)`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// `PIL.Image.resize((width, height), LANCZOS)`.
    ///
    /// # Errors
    /// [`Error::InvalidParams`] for an empty size.
    pub fn resize(&self, width: usize, height: usize) -> Result<Self> {
        if width == 0 || height == 0 {
            return Err(refuse(format!("cannot be resized to {width}x{height}")));
        }
        let mut rgb = self.rgb.clone();
        if width != self.width {
            rgb = resize_rows(&rgb, self.width, &Filter::lanczos(self.width, width));
        }
        if height != self.height {
            rgb = resize_columns(&rgb, width, &Filter::lanczos(self.height, height));
        }
        Self::new(rgb, width, height)
    }

    /// Resized to the video's size and scaled to -1..=1, as the VAE expects it: `(1, 3, height, width)` in `f32`.
    ///
    /// # Errors
    /// As [`Self::resize`].
    pub fn preprocess(&self, width: usize, height: usize) -> Result<Tensor> {
        let resized = self.resize(width, height)?;
        let planes: Vec<f32> = (0..3)
            .flat_map(|c| resized.rgb.iter().skip(c).step_by(3))
            .map(|sample| 2.0 * (f32::from(*sample) / 255.0) - 1.0)
            .collect();
        Ok(Tensor::from_vec(planes, (1, 3, height, width), &Device::Cpu)?)
    }
}

/// [`RgbImage::decode`] of a file.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, and as [`RgbImage::decode`].
pub fn load_rgb(path: &Path) -> Result<RgbImage> {
    RgbImage::decode(&std::fs::read(path).map_err(|source| Error::io(path, source))?)
}

fn refuse(message: String) -> Error {
    Error::invalid("image", message)
}

/// Without alpha; of 16-bit samples the high byte, as Pillow takes it.
fn rgb8(image: DynamicImage) -> Vec<u8> {
    let bytes_per_sample = image.color().bytes_per_pixel() / image.color().channel_count();
    if bytes_per_sample == 1 {
        image.into_rgb8().into_raw()
    } else {
        image.into_rgb16().into_raw().into_iter().map(|sample| (sample >> 8) as u8).collect()
    }
}

/// Bits after the point of a weight (Pillow's `PRECISION_BITS`).
const PRECISION_BITS: u32 = 32 - 8 - 2;

/// For each output position the input positions that it is made of, and their weights.
struct Filter {
    taps: Vec<(usize, Vec<i32>)>,
}

impl Filter {
    /// Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc` with its Lanczos filter.
    fn lanczos(input: usize, output: usize) -> Self {
        const SUPPORT: f64 = 3.0;
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = SUPPORT * filter_scale;
        let taps = (0..output).map(|i| {
            let center = (i as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(input);
            let weights: Vec<f64> =
                (first..end).map(|j| lanczos((j as f64 - center + 0.5) * (1.0 / filter_scale))).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |weight: f64| {
                let scaled =
                    (if sum == 0.0 { weight } else { weight / sum }) * f64::from(1 << PRECISION_BITS);
                (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
            };
            (first, weights.into_iter().map(fixed).collect())
        });
        Self { taps: taps.collect() }
    }
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| {
        let x = x * std::f64::consts::PI;
        if x == 0.0 { 1.0 } else { x.sin() / x }
    };
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

/// The weighted sum of samples `stride` apart, rounded and clipped to a byte.
fn weigh(samples: &[u8], stride: usize, weights: &[i32]) -> u8 {
    let half = 1 << (PRECISION_BITS - 1);
    let sum = samples
        .iter()
        .step_by(stride)
        .zip(weights)
        .fold(half, |sum, (sample, weight)| sum + i32::from(*sample) * weight);
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

fn resize_rows(rgb: &[u8], width: usize, filter: &Filter) -> Vec<u8> {
    let row_bytes = filter.taps.len() * 3;
    let mut out = vec![0; rgb.len() / (width * 3) * row_bytes];
    out.par_chunks_mut(row_bytes).zip(rgb.par_chunks(width * 3)).for_each(|(out, row)| {
        for (pixel, (first, weights)) in out.chunks_exact_mut(3).zip(&filter.taps) {
            for (c, sample) in pixel.iter_mut().enumerate() {
                *sample = weigh(&row[first * 3 + c..], 3, weights);
            }
        }
    });
    out
}

fn resize_columns(rgb: &[u8], width: usize, filter: &Filter) -> Vec<u8> {
    let row_bytes = width * 3;
    let mut out = vec![0; filter.taps.len() * row_bytes];
    out.par_chunks_mut(row_bytes).zip(&filter.taps).for_each(|(out, (first, weights))| {
        for (i, sample) in out.iter_mut().enumerate() {
            *sample = weigh(&rgb[first * row_bytes + i..], row_bytes, weights);
        }
    });
    out
}
