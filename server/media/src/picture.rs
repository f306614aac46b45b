//! Still pictures of a clip: a poster, a contact sheet, and single small pictures. Relies on `image` for resizing and
//! JPEG and on libwebp for lossy WebP; knows nothing of the MP4 side.

use image::{
    ExtendedColorType, ImageBuffer, Rgb, RgbImage,
    codecs::jpeg::JpegEncoder,
    imageops::{self, FilterType},
};

use crate::{Error, Frames, Result, frames::check_shape};

/// The poster's longest side in pixels, at most.
const POSTER_SIDE: u32 = 512;
/// libwebp's quality, 0 to 100: 9 kB for the tests' natural clip at 512x341, 22 kB when it is noisy.
const POSTER_QUALITY: f32 = 85.0;

/// A tile's longest side in pixels, at most: the sheet then fits into 960x960.
const TILE_SIDE: u32 = 240;
const SHEET_TILES: u32 = 16;
const SHEET_COLUMNS: u32 = 4;

const JPEG_QUALITY: u8 = 80;

/// A WebP thumbnail of the clip's middle frame (frame 24 of 49), its longest side at most 512 pixels, never enlarged.
///
/// The middle one because a clip's first and last frames are the least like the rest: what the prompt asks for has
/// yet to happen, or is over.
///
/// # Errors
/// [`Error::Picture`] when the encoder fails.
pub fn poster_webp(frames: &Frames) -> Result<Vec<u8>> {
    let poster = thumbnail(frames, (frames.count() - 1) / 2, POSTER_SIDE)?;
    webp::Encoder::from_rgb(&poster, poster.width(), poster.height())
        .encode_simple(false, POSTER_QUALITY)
        .map(|coded| coded.to_vec())
        .map_err(|reason| Error::Picture { format: "webp", reason: format!("{reason:?}") })
}

/// A JPEG contact sheet: up to 16 frames, evenly spaced from the first to the last, in rows of 4 from the top left.
///
/// With `n = min(16, count)` tiles, tile `i` shows frame `i * (count - 1) / (n - 1)`, rounded down. Every tile has
/// the frames' proportions, its longest side at most 240 pixels, never enlarged. A sheet of fewer than 4 tiles is as
/// wide as its tiles; the last row's free places are black.
///
/// # Errors
/// [`Error::Picture`] when the encoder fails.
pub fn spritesheet_jpeg(frames: &Frames) -> Result<Vec<u8>> {
    let tiles = frames.count().min(SHEET_TILES);
    let columns = tiles.min(SHEET_COLUMNS);
    let (width, height) = fit(frames.width(), frames.height(), TILE_SIDE);
    let mut sheet = RgbImage::new(columns * width, tiles.div_ceil(columns) * height);
    for tile in 0..tiles {
        let frame = u64::from(tile) * u64::from(frames.count() - 1) / u64::from((tiles - 1).max(1));
        let picture = thumbnail(frames, frame as u32, TILE_SIDE)?;
        let (x, y) = (tile % columns * width, tile / columns * height);
        imageops::replace(&mut sheet, &picture, x.into(), y.into());
    }
    jpeg(&sheet, sheet.width(), sheet.height())
}

/// One picture as a JPEG of its own size, from `(height, width, 3)` sRGB bytes; for small previews.
///
/// # Errors
/// [`Error::EmptyClip`] and [`Error::FrameBytes`] when `rgb` is not one picture of this size, [`Error::Picture`] when
/// the encoder fails or a side is longer than JPEG's 65,535 pixels.
pub fn jpeg(rgb: &[u8], width: u32, height: u32) -> Result<Vec<u8>> {
    check_shape(rgb, width, height, 1)?;
    let mut coded = Vec::new();
    JpegEncoder::new_with_quality(&mut coded, JPEG_QUALITY)
        .encode(rgb, width, height, ExtendedColorType::Rgb8)
        .map_err(|reason| Error::Picture { format: "jpeg", reason: reason.to_string() })?;
    Ok(coded)
}

/// One frame, its longest side at most `longest` pixels.
fn thumbnail(frames: &Frames, frame: u32, longest: u32) -> Result<RgbImage> {
    let (width, height) = (frames.width(), frames.height());
    let picture = frames
        .iter()
        .nth(frame as usize)
        .and_then(|rgb| ImageBuffer::<Rgb<u8>, _>::from_raw(width, height, rgb))
        .ok_or(Error::EmptyClip { width, height, count: frames.count() })?;
    let (width, height) = fit(width, height, longest);
    Ok(imageops::resize(&picture, width, height, FilterType::Triangle))
}

/// The size with the same proportions whose longest side is at most `longest`; no side vanishes.
fn fit(width: u32, height: u32, longest: u32) -> (u32, u32) {
    let side = width.max(height);
    if side <= longest {
        return (width, height);
    }
    let scale = |length: u32| {
        let rounded = (u64::from(length) * u64::from(longest) + u64::from(side / 2)) / u64::from(side);
        rounded.max(1) as u32
    };
    (scale(width), scale(height))
}
