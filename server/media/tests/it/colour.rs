//! The tags tell the truth: a flat colour survives the round trip through the matrix that the tags name.

use media::{EncodeOptions, Frames, Quality, encode_mp4};

use crate::player::Video;

#[test]
fn flat_colours_come_back_through_the_bt709_inverse() {
    // With the BT.601 matrix, pure red, green and blue would be off by 20 and more.
    for colour in [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [255, 255, 0],
        [0, 255, 255],
        [255, 0, 255],
        [255, 255, 255],
        [0, 0, 0],
        [128, 128, 128],
        [201, 96, 33],
        [17, 90, 160],
    ] {
        let frames = Frames::new(colour.repeat(64 * 48), 64, 48, 1).unwrap();
        let file =
            encode_mp4(&frames, &EncodeOptions { fps: 8, quality: Quality::High, metadata: None }).unwrap();
        let shown = Video::open(file).decode()[0].to_rgb();
        for pixel in shown.chunks_exact(3) {
            let off =
                pixel.iter().zip(colour).map(|(&shown, sent)| (i32::from(shown) - i32::from(sent)).abs());
            assert!(off.max().unwrap() <= 3, "sent {colour:?}, shown {pixel:?}");
        }
    }
}

#[test]
fn colour_stays_where_it_was() {
    // A colour ramp without luma steps: chroma sampled half a pixel aside would shift it by half its slope.
    let (width, height) = (256_u32, 64_u32);
    let row = (0..width).flat_map(|x| [x as u8, 128, 255 - x as u8]);
    let rgb: Vec<u8> = (0..height).flat_map(|_| row.clone()).collect();
    let frames = Frames::new(rgb.clone(), width, height, 1).unwrap();
    let file =
        encode_mp4(&frames, &EncodeOptions { fps: 8, quality: Quality::High, metadata: None }).unwrap();
    let shown = Video::open(file).decode()[0].to_rgb();
    let mean_shift = |channel: usize| {
        // Away from the borders, where both sides repeat the last column.
        let inside =
            rgb.chunks_exact(3).zip(shown.chunks_exact(3)).filter(|(sent, _)| (8..248).contains(&sent[0]));
        let (sum, count) = inside.fold((0.0, 0.0), |(sum, count), (sent, shown)| {
            (sum + f64::from(shown[channel]) - f64::from(sent[channel]), count + 1.0)
        });
        sum / count
    };
    assert!(mean_shift(0).abs() < 0.25, "red {:.3}", mean_shift(0));
    assert!(mean_shift(2).abs() < 0.25, "blue {:.3}", mean_shift(2));
}
