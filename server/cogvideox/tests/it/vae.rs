//! The autoencoder against diffusers: decoding, encoding, chunks of time and tiles.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use cogvideox::vae::{AutoencoderKlCogVideoX, Tiling};
use cogvideox::{Error, Result};

use crate::golden::{FORMS, Golden, assert_close, assert_relative};

fn load(golden: &Golden) -> AutoencoderKlCogVideoX {
    AutoencoderKlCogVideoX::load(&golden.dir.join("vae"), golden.dtype, &Device::Cpu).unwrap()
}

fn go_on(_: f32) -> Result<()> {
    Ok(())
}

/// The tile sizes that a golden was made with.
fn tiling(golden: &Golden, key: &str) -> Tiling {
    let json = &golden.json[key];
    let size = |key: &str| json[key].as_u64().unwrap() as usize;
    let factor = |key: &str| json[key].as_f64().unwrap();
    Tiling {
        tile_sample_min_height: size("tile_sample_min_height"),
        tile_sample_min_width: size("tile_sample_min_width"),
        tile_overlap_factor_height: factor("tile_overlap_factor_height"),
        tile_overlap_factor_width: factor("tile_overlap_factor_width"),
    }
}

/// Calls `compare` with every golden output of the autoencoder and ours.
fn for_each_output(golden: &Golden, compare: impl Fn(&str, &Tensor, &Tensor)) {
    let vae = load(golden);
    let decode = |z: &str, tiling: Option<&Tiling>| vae.decode(golden.get(z), tiling, &mut go_on).unwrap();
    for frames in [1, 2, 4, 5] {
        let out = format!("vae.decode{frames}.out");
        compare(&out, &decode(&format!("vae.decode{frames}.z"), None), golden.get(&out));
    }
    compare("vae.dbg.out", &decode("vae.dbg.z", None), golden.get("vae.dbg.out"));
    for frames in [1, 8, 9, 17] {
        let x = golden.get(&format!("vae.encode{frames}.x"));
        let (mean, logvar) = vae.encode(x, None, &mut go_on).unwrap();
        for (key, found) in [("mean", mean), ("logvar", logvar)] {
            let key = format!("vae.encode{frames}.{key}");
            compare(&key, &found, golden.get(&key));
        }
    }
    let default = tiling(golden, "vae.tile1.tiling");
    assert_eq!(default, vae.default_tiling());
    compare("vae.tile1.untiled", &decode("vae.tile1.z", None), golden.get("vae.tile1.untiled"));
    compare("vae.tile1.tiled", &decode("vae.tile1.z", Some(&default)), golden.get("vae.tile1.tiled"));
    let small = tiling(golden, "vae.tile5.tiling");
    compare("vae.tile5.tiled", &decode("vae.tile5.z", Some(&small)), golden.get("vae.tile5.tiled"));
    let x = golden.get("vae.encode_tiled.x");
    let (mean, _) = vae.encode(x, Some(&default), &mut go_on).unwrap();
    compare("vae.encode_tiled.mean", &mean, golden.get("vae.encode_tiled.mean"));
}

#[test]
fn f32_outputs_are_diffusers_outputs_in_every_form() {
    for form in FORMS {
        let golden = Golden::open(form);
        for_each_output(&golden, |key, found, expected| {
            assert_close(&format!("{form} {key}"), found, expected, 1e-5);
        });
    }
}

#[test]
fn half_outputs_are_diffusers_half_outputs() {
    for form in ["2b-fp16", "5b-bf16"] {
        let golden = Golden::open(form);
        for_each_output(&golden, |key, found, expected| {
            assert_eq!(found.dtype(), golden.dtype);
            assert_relative(&format!("{form} {key}"), found, expected, 0.02);
        });
    }
}
