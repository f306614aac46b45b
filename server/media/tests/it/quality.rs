//! What is seen: the decoded picture against the frames that went in.

use media::{EncodeOptions, Quality, encode_mp4};

use crate::{
    clip::Scene,
    player::{Video, psnr_db},
};

const NATURAL: Scene = Scene { width: 720, height: 480, count: 49, noise: 1.5 };

/// The lowest RGB PSNR of any frame. RGB, at full resolution, is the strictest reading of "against the frames": it
/// includes what 4:2:0 and limited range cost, in every channel.
fn worst_frame_db(scene: Scene, quality: Quality) -> f64 {
    let frames = scene.frames();
    let video = Video::open(encode_mp4(&frames, &EncodeOptions { fps: 8, quality, metadata: None }).unwrap());
    let pictures = video.decode();
    assert_eq!(pictures.len(), frames.count() as usize);
    frames
        .iter()
        .zip(&pictures)
        .map(|(original, picture)| psnr_db(original, &picture.to_rgb()))
        .fold(f64::INFINITY, f64::min)
}

#[test]
fn every_frame_of_a_natural_clip_keeps_40_db() {
    let db = worst_frame_db(NATURAL, Quality::Standard);
    assert!(db >= 40.0, "worst frame {db:.2} dB");
}

#[test]
fn a_noisy_clip_keeps_40_db() {
    let db = worst_frame_db(Scene { noise: 6.0, count: 9, ..NATURAL }, Quality::Standard);
    assert!(db >= 40.0, "worst frame {db:.2} dB");
}

#[test]
fn quality_orders_size_and_fidelity() {
    let scene = Scene { width: 240, height: 160, count: 9, noise: 1.5 };
    let frames = scene.frames();
    let sizes = Quality::ALL.map(|quality| {
        encode_mp4(&frames, &EncodeOptions { fps: 8, quality, metadata: None }).unwrap().len()
    });
    let fidelity = Quality::ALL.map(|quality| worst_frame_db(scene, quality));
    assert!(sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");
    assert!(fidelity.is_sorted_by(|a, b| a < b), "{fidelity:?}");
}
