//! The still pictures, read by decoders that share no code with the writing side.

use image::{ImageFormat, RgbImage, load_from_memory_with_format};
use media::{Error, Frames, jpeg, poster_webp, spritesheet_jpeg};

use crate::clip::Scene;

fn webp(coded: &[u8]) -> RgbImage {
    load_from_memory_with_format(coded, ImageFormat::WebP).unwrap().into_rgb8()
}

fn jpg(coded: &[u8]) -> RgbImage {
    load_from_memory_with_format(coded, ImageFormat::Jpeg).unwrap().into_rgb8()
}

/// Frame `t` is all of brightness `5 * t`.
fn stairs(width: u32, height: u32, count: u8) -> Frames {
    let frame_bytes = (width * height * 3) as usize;
    let rgb = (0..count).flat_map(|t| std::iter::repeat_n(5 * t, frame_bytes)).collect();
    Frames::new(rgb, width, height, count.into()).unwrap()
}

fn assert_shows(picture: &RgbImage, (x, y): (u32, u32), brightness: i32) {
    let shown = picture.get_pixel(x, y).0;
    assert!(
        shown.iter().all(|&c| (i32::from(c) - brightness).abs() <= 3),
        "({x}, {y}): {shown:?}, not {brightness}"
    );
}

#[test]
fn the_poster_is_the_middle_frame() {
    for (count, middle) in [(1, 0), (2, 0), (3, 1), (49, 24)] {
        let poster = webp(&poster_webp(&stairs(64, 48, count)).unwrap());
        assert_shows(&poster, (32, 24), 5 * middle);
    }
}

#[test]
fn a_poster_keeps_the_proportions_and_is_never_enlarged() {
    for ((width, height), expected) in [
        ((16, 16), (16, 16)),
        ((512, 300), (512, 300)),
        ((720, 480), (512, 341)),
        ((480, 720), (341, 512)),
        ((4000, 2), (512, 1)),
        ((1, 1), (1, 1)),
    ] {
        assert_eq!(webp(&poster_webp(&stairs(width, height, 1)).unwrap()).dimensions(), expected);
    }
}

#[test]
fn a_poster_looks_like_its_frame_and_is_small() {
    let frames = Scene { width: 720, height: 480, count: 1, noise: 1.5 }.frames();
    let coded = poster_webp(&frames).unwrap();
    assert!(coded.len() < 60_000, "{} bytes", coded.len());
    // A frame that needs no resizing is judged pixel by pixel.
    let frames = Scene { width: 512, height: 320, count: 1, noise: 1.5 }.frames();
    let db = crate::player::psnr_db(&webp(&poster_webp(&frames).unwrap()), frames.rgb());
    assert!(db > 28.0, "{db:.1} dB");
}

#[test]
fn a_sheet_shows_frames_from_the_first_to_the_last() {
    let sheet = jpg(&spritesheet_jpeg(&stairs(720, 480, 49)).unwrap());
    assert_eq!(sheet.dimensions(), (960, 640));
    for tile in 0..16 {
        let frame = tile * 48 / 15;
        assert_shows(&sheet, (tile % 4 * 240 + 120, tile / 4 * 160 + 80), 5 * frame as i32);
    }
}

#[test]
fn a_sheet_of_few_or_small_frames_has_only_the_places_it_needs() {
    for ((width, height, count), expected) in [
        ((16, 16, 1), (16, 16)),
        ((16, 16, 3), (48, 16)),
        ((16, 16, 5), (64, 32)),
        ((48, 64, 17), (192, 256)),
        ((480, 720, 2), (320, 240)),
        ((1, 3000, 9), (4, 720)),
    ] {
        let sheet = jpg(&spritesheet_jpeg(&stairs(width, height, count)).unwrap());
        assert_eq!(sheet.dimensions(), expected, "{count} frames of {width}x{height}");
    }
    let sheet = jpg(&spritesheet_jpeg(&stairs(16, 16, 6)).unwrap());
    assert_shows(&sheet, (24, 24), 25);
    assert_shows(&sheet, (56, 24), 0);
}

#[test]
fn a_preview_is_a_jpeg_of_its_own_size() {
    let frames = Scene { width: 90, height: 60, count: 1, noise: 0.0 }.frames();
    let preview = jpg(&jpeg(frames.rgb(), 90, 60).unwrap());
    assert_eq!(preview.dimensions(), (90, 60));
    let db = crate::player::psnr_db(&preview, frames.rgb());
    assert!(db > 28.0, "{db:.1} dB");
    assert_eq!(jpg(&jpeg(&[200, 10, 30], 1, 1).unwrap()).dimensions(), (1, 1));
}

#[test]
fn what_is_no_picture_is_refused() {
    assert!(matches!(jpeg(&[], 0, 4), Err(Error::EmptyClip { width: 0, .. })));
    assert!(matches!(jpeg(&[0; 11], 2, 2), Err(Error::FrameBytes { expected: 12, found: 11, .. })));
    let error = jpeg(&vec![0; 65_536 * 3], 65_536, 1).unwrap_err();
    assert!(error.to_string().starts_with("jpeg encoder: "), "{error}");
}
