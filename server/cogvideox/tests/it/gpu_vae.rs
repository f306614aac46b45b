//! The autoencoder on a device, an emulated one, against diffusers: chunks of time, tiles, bytes.

use candle_core::Tensor;
use cogvideox::Error;
use cogvideox::gpu::GpuVae;
use device::{Capability, Device, Settings};

use crate::golden::{Golden, assert_close, assert_relative};
use crate::vae::{go_on, tiling};

fn load(golden: &Golden) -> GpuVae {
    let device = Device::emulator(Capability { major: 9, minor: 0 }, false, Settings::default());
    GpuVae::open(&golden.dir.join("vae"), golden.dtype, &device).unwrap()
}

/// Calls `compare` with golden outputs and ours: one chunk, an even number of frames, several chunks, tiles.
fn for_each_output(form: &str, compare: impl Fn(&str, &Tensor, &Tensor)) {
    let golden = Golden::open(form);
    let vae = load(&golden);
    for frames in [1, 2, 5] {
        let z = golden.get(&format!("vae.decode{frames}.z"));
        let key = format!("vae.decode{frames}.out");
        compare(&key, &vae.decode(z, None, &mut go_on).unwrap(), golden.get(&key));
    }
    let small = tiling(&golden, "vae.tile5.tiling");
    let tiled = vae.decode(golden.get("vae.tile5.z"), Some(&small), &mut go_on).unwrap();
    compare("vae.tile5.tiled", &tiled, golden.get("vae.tile5.tiled"));
    for frames in [1, 8, 17] {
        let x = golden.get(&format!("vae.encode{frames}.x"));
        let (mean, logvar) = vae.encode(x, None, &mut go_on).unwrap();
        for (key, found) in [("mean", mean), ("logvar", logvar)] {
            let key = format!("vae.encode{frames}.{key}");
            compare(&key, &found, golden.get(&key));
        }
    }
    let default = tiling(&golden, "vae.tile1.tiling");
    let (mean, _) = vae.encode(golden.get("vae.encode_tiled.x"), Some(&default), &mut go_on).unwrap();
    compare("vae.encode_tiled.mean", &mean, golden.get("vae.encode_tiled.mean"));
}

#[test]
fn f32_outputs_are_diffusers_outputs() {
    for form in ["2b", "1.5-5b-i2v"] {
        for_each_output(form, |key, found, expected| {
            assert_close(&format!("{form} {key}"), found, expected, 1e-5);
        });
    }
}

#[test]
fn half_outputs_are_diffusers_half_outputs() {
    for form in ["2b-fp16", "5b-bf16"] {
        for_each_output(form, |key, found, expected| {
            assert_eq!(found.dtype(), expected.dtype());
            assert_relative(&format!("{form} {key}"), found, expected, 0.02);
        });
    }
}

#[test]
fn frames_are_the_decoded_pictures_in_bytes_whole_and_in_tiles() {
    let golden = Golden::open("2b");
    let vae = load(&golden);
    let small = tiling(&golden, "vae.tile5.tiling");
    for tiling in [None, Some(&small)] {
        let z = golden.get("vae.tile5.z");
        let frames = vae.decode_frames(z, tiling, &mut go_on).unwrap();
        assert_eq!([frames.num_frames, frames.height, frames.width], [17, 24, 24]);
        let pictures = vae.decode(z, tiling, &mut go_on).unwrap().squeeze(0).unwrap();
        let values: Vec<f32> =
            pictures.permute((1, 2, 3, 0)).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let bytes = values.iter().map(|x| ((x * 0.5 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8);
        assert!(bytes.eq(frames.rgb.iter().copied()));
    }
}

#[test]
fn a_batch_is_its_elements_one_by_one() {
    let golden = Golden::open("5b");
    let vae = load(&golden);
    let z = golden.get("vae.dbg.z");
    let other = (z * 0.5).unwrap();
    let decoded = vae.decode(&Tensor::cat(&[z, &other], 0).unwrap(), None, &mut go_on).unwrap();
    for (index, z) in [z, &other].into_iter().enumerate() {
        let alone = vae.decode(z, None, &mut go_on).unwrap();
        assert_close("batch", &decoded.narrow(0, index, 1).unwrap(), &alone, 0.0);
    }
}

#[test]
fn progress_rises_to_one_and_an_interruption_stops_at_once() {
    let golden = Golden::open("2b");
    let vae = load(&golden);
    let z = golden.get("vae.decode4.z");
    let mut fractions = Vec::new();
    let mut check = |fraction| {
        fractions.push(fraction);
        Ok(())
    };
    vae.decode_frames(z, None, &mut check).unwrap();
    assert!(fractions.is_sorted(), "{fractions:?}");
    assert_eq!(fractions.last(), Some(&1.0));
    // Two chunks of time, each with 2 + 4 * 2 resnets of two causal convolutions and two more outside of them.
    assert!(fractions.len() >= 2 * 22, "{} questions", fractions.len());

    let mut calls = 0;
    let result = vae.decode_frames(z, None, &mut |_| {
        calls += 1;
        if calls == 30 { Err(Error::Interrupted) } else { Ok(()) }
    });
    assert!(matches!(result, Err(Error::Interrupted)));
    assert_eq!(calls, 30);
}
