//! Conditioning images: decoded, turned, resized and scaled as diffusers and Pillow do it.

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use cogvideox::Error;
use cogvideox::image::{RgbImage, load_rgb};

use crate::golden::{Golden, assert_close};

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images")
}

/// `(H, W, 3)` of bytes.
fn image(samples: &Tensor) -> RgbImage {
    let (height, width, _) = samples.dims3().unwrap();
    RgbImage::new(samples.flatten_all().unwrap().to_vec1().unwrap(), width, height).unwrap()
}

#[test]
fn golden_images_are_preprocessed_as_in_diffusers() {
    for form in ["5b-i2v", "1.5-5b-i2v"] {
        let golden = Golden::open(form);
        for name in ["image", "image_resize"] {
            let found = image(golden.get(&format!("{name}.u8"))).preprocess(48, 64).unwrap();
            let expected = golden.get(&format!("{name}.preprocessed"));
            assert_close(&format!("{form} {name}"), &found, expected, 0.0);
        }
    }
}

/// `reference/make_images.py`
#[test]
fn files_are_decoded_and_turned_as_by_load_image() {
    let golden = candle_core::safetensors::load(dir().join("images.safetensors"), &Device::Cpu).unwrap();
    let files: Vec<&String> = golden.keys().filter(|name| !name.starts_with("resize.")).collect();
    assert_eq!(files.len(), 17);
    for name in files {
        let expected = image(&golden[name]);
        let found = load_rgb(&dir().join(name)).unwrap();
        assert_eq!((found.width(), found.height()), (expected.width(), expected.height()), "{name}");
        // Lossy formats leave the last bits to the decoder.
        let bound = if name.contains("lossy") || name.contains(".jpg") { 4 } else { 0 };
        let worst = found.rgb().iter().zip(expected.rgb()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= bound, "{name}: differs by {worst}");
    }
}

#[test]
fn resizing_is_pillows_lanczos_to_the_bit() {
    let golden = candle_core::safetensors::load(dir().join("images.safetensors"), &Device::Cpu).unwrap();
    let plain = load_rgb(&dir().join("plain.png")).unwrap();
    let mut sizes = 0;
    for (name, expected) in golden.iter().filter(|(name, _)| name.starts_with("resize.")) {
        let expected = image(expected);
        assert!(plain.resize(expected.width(), expected.height()).unwrap() == expected, "{name}");
        sizes += 1;
    }
    assert_eq!(sizes, 7);
}

#[track_caller]
fn assert_refused(bytes: &[u8], expected: &str) {
    match RgbImage::decode(bytes) {
        Err(e @ Error::InvalidParams { field: "image", .. }) => {
            assert!(e.to_string().contains(expected), "{e}");
        }
        other => panic!("expected {expected:?}, found {other:?}"),
    }
}

#[test]
fn what_is_no_image_is_refused() {
    assert_refused(b"", "expected a PNG, JPEG or WebP file, found 0 other bytes");
    assert_refused(b"GIF89a\x01\0\x01\0\0\0\0;", "expected a PNG, JPEG or WebP file");
    assert_refused(b"<svg/>", "expected a PNG, JPEG or WebP file");
    for file in ["plain.png", "lossy.jpg", "lossless.webp"] {
        let bytes = std::fs::read(dir().join(file)).unwrap();
        assert_refused(&bytes[..bytes.len() / 4], "damaged");
    }
    // A header may promise any size: it is refused before anything is allocated for it.
    let mut huge = std::fs::read(dir().join("plain.png")).unwrap();
    huge[16..24].copy_from_slice(&[0, 1, 0, 0, 0, 1, 0, 0]);
    let checksum = crc32(&huge[12..29]).to_be_bytes();
    huge[29..33].copy_from_slice(&checksum);
    assert_refused(&huge, "expected at most 67108864 pixels, found 65536x65536");
    assert!(matches!(load_rgb(Path::new("/nonexistent.png")), Err(Error::Io { .. })));
    assert!(RgbImage::new(vec![0; 11], 2, 2).is_err());
    assert!(RgbImage::new(vec![0; 12], 2, 2).unwrap().resize(0, 4).is_err());
}

/// Of a PNG chunk.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0xedb8_8320 },
        )
    })
}
