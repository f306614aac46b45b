//! The autoencoder against diffusers: decoding, encoding, chunks of time and tiles.

use candle_core::{DType, Device, Tensor};
use cogvideox::vae::{AutoencoderKlCogVideoX, Tiling};
use cogvideox::{Error, Result};

use crate::golden::{FORMS, Golden, assert_close, assert_relative};

fn load(golden: &Golden) -> AutoencoderKlCogVideoX {
    AutoencoderKlCogVideoX::load(&golden.dir.join("vae"), golden.dtype, &Device::Cpu).unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of a check")]
pub(crate) fn go_on(_: f32) -> Result<()> {
    Ok(())
}

/// The tile sizes that a golden was made with.
pub(crate) fn tiling(golden: &Golden, key: &str) -> Tiling {
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

#[test]
fn a_batch_is_its_elements_one_by_one() {
    let golden = Golden::open("5b");
    let vae = load(&golden);
    let (one, other) = (golden.get("vae.decode4.z"), &golden.get("vae.decode5.z").narrow(2, 1, 4).unwrap());
    let both = Tensor::cat(&[one, other], 0).unwrap();
    let decoded = vae.decode(&both, None, &mut go_on).unwrap();
    for (index, z) in [one, other].into_iter().enumerate() {
        let alone = vae.decode(z, None, &mut go_on).unwrap();
        assert_close("batch", &decoded.narrow(0, index, 1).unwrap(), &alone, 0.0);
    }
}

#[test]
fn progress_rises_to_one_with_a_question_for_every_convolution() {
    let golden = Golden::open("2b");
    let vae = load(&golden);
    let tiling = tiling(&golden, "vae.tile5.tiling");
    for (tiling, tiles) in [(None, 1), (Some(&tiling), 9)] {
        let mut fractions = Vec::new();
        let mut check = |fraction| {
            fractions.push(fraction);
            Ok(())
        };
        vae.decode(golden.get("vae.tile5.z"), tiling, &mut check).unwrap();
        assert!(fractions.is_sorted(), "{fractions:?}");
        assert_eq!(fractions.last(), Some(&1.0));
        // Two chunks of time, each with 2 + 4 * 2 resnets of two causal convolutions and two more outside of them.
        assert!(fractions.len() >= tiles * 2 * 22, "{} questions", fractions.len());
    }
}

#[test]
fn an_interruption_stops_at_once_and_leaves_nothing_behind() {
    let golden = Golden::open("2b");
    let vae = load(&golden);
    let x = golden.get("vae.encode17.x");
    let calls = |stop_at: usize| {
        let mut calls = 0;
        let mut check = |_| {
            calls += 1;
            if calls == stop_at { Err(Error::Interrupted) } else { Ok(()) }
        };
        let result = vae.encode(x, None, &mut check);
        (calls, result)
    };
    let (all, _) = calls(usize::MAX);
    for stop_at in [1, 2, all / 2, all] {
        let (made, result) = calls(stop_at);
        assert!(matches!(result, Err(Error::Interrupted)));
        assert_eq!(made, stop_at);
    }
    let (mean, _) = vae.encode(x, None, &mut go_on).unwrap();
    assert_close("after an interruption", &mean, golden.get("vae.encode17.mean"), 1e-5);
}

#[test]
fn tiles_that_would_give_a_video_of_the_wrong_size_are_refused() {
    let golden = Golden::open("2b");
    let vae = load(&golden);
    let z = golden.get("vae.tile1.z");
    let default = vae.default_tiling();
    let refused = |tiling: Tiling| {
        let error = vae.decode(z, Some(&tiling), &mut go_on).unwrap_err();
        assert!(matches!(error, Error::InvalidParams { field: "tiling", .. }), "{error}");
        error.to_string()
    };
    // 6 * (1 - 0.3) latents are 4, of 48 * (1 - 0.3) = 34 pixels.
    let message = refused(Tiling { tile_overlap_factor_height: 0.3, ..default });
    assert!(message.contains("height 48") && message.contains("wrong size"), "{message}");
    refused(Tiling { tile_sample_min_width: 44, ..default });
    for factor in [1.0, -0.1, f64::NAN] {
        refused(Tiling { tile_overlap_factor_width: factor, ..default });
    }
    refused(Tiling { tile_sample_min_height: 4, ..default });
    refused(Tiling { tile_sample_min_width: 0, ..default });

    // A picture that fits into one tile is not cut, whatever the settings.
    let large = Tiling { tile_sample_min_height: 64, tile_sample_min_width: 48, ..default };
    let whole = vae.decode(z, Some(&large), &mut go_on).unwrap();
    assert_close("one tile", &whole, golden.get("vae.tile1.untiled"), 1e-5);
}

#[test]
fn inputs_of_another_shape_or_dtype_are_refused() {
    let golden = Golden::open("2b");
    let vae = load(&golden);
    let zeros = |shape: &[usize], dtype| Tensor::zeros(shape, dtype, &Device::Cpu).unwrap();
    for (z, fragment) in [
        (zeros(&[16, 1, 2, 2], DType::F32), "expected (batch, channels, frames, height, width)"),
        (zeros(&[1, 15, 1, 2, 2], DType::F32), "found 15"),
        (zeros(&[1, 16, 1, 2, 2], DType::F16), "F16"),
        (zeros(&[1, 16, 0, 2, 2], DType::F32), "nothing comes out"),
    ] {
        let error = vae.decode(&z, None, &mut go_on).unwrap_err();
        assert!(error.to_string().contains(fragment), "{error}");
    }
    let error = vae.encode(&zeros(&[1, 3, 1, 7, 64], DType::F32), None, &mut go_on).unwrap_err();
    assert!(error.to_string().contains("nothing comes out"), "{error}");
}

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

/// Loads the 2b autoencoder with changes to its configuration.
fn load_changed(changes: &[(&str, serde_json::Value)]) -> Result<AutoencoderKlCogVideoX> {
    let source = Golden::open("2b").dir.join("vae");
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(source.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    std::fs::copy(source.join(WEIGHTS), folder.path().join(WEIGHTS)).unwrap();
    AutoencoderKlCogVideoX::load(folder.path(), DType::F32, &Device::Cpu)
}

#[test]
fn configurations_that_cannot_be_computed_are_refused_by_key() {
    use serde_json::json;
    for (key, value) in [
        ("_class_name", json!("AutoencoderKL")),
        ("act_fn", json!("gelu")),
        ("use_quant_conv", json!(true)),
        ("use_post_quant_conv", json!(true)),
        ("down_block_types", json!(["CogVideoXDownBlock3D"])),
        ("up_block_types", json!(["A", "A", "A", "A"])),
        ("block_out_channels", json!([])),
        ("block_out_channels", json!([4, 8, 8, 13])),
        ("norm_num_groups", json!(0)),
        ("norm_num_groups", json!("two")),
        ("layers_per_block", json!(0)),
        ("temporal_compression_ratio", json!(0)),
    ] {
        let error = load_changed(&[(key, value.clone())]).err().expect("refused");
        assert!(matches!(error, Error::Config { .. }), "{key} {value}: {error}");
        assert!(error.to_string().contains(key), "{key} {value}: {error}");
    }
}

#[test]
fn weights_of_another_model_are_refused_by_tensor() {
    use serde_json::json;
    let error = |changes: &[_]| load_changed(changes).err().expect("refused");
    let shape = error(&[("block_out_channels", json!([4, 8, 8, 16]))]);
    assert!(matches!(&shape, Error::TensorShape { .. }), "{shape}");
    let missing = error(&[("layers_per_block", json!(2))]);
    assert!(matches!(&missing, Error::MissingTensor { .. }), "{missing}");
    // Unknown keys and the keys that pipelines do not use are diffusers' to ignore.
    assert!(load_changed(&[("brand_new_key", json!([1])), ("force_upcast", json!(false))]).is_ok());
}

#[test]
fn tensors_that_no_layer_reads_are_refused() {
    let source = Golden::open("2b").dir.join("vae");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(source.join("config.json"), folder.path().join("config.json")).unwrap();
    let mut tensors = candle_core::safetensors::load(source.join(WEIGHTS), &Device::Cpu).unwrap();
    let extra = tensors["decoder.conv_out.conv.bias"].clone();
    tensors.insert("encoder.mid_block.attentions.0.to_q.bias".to_owned(), extra);
    candle_core::safetensors::save(&tensors, folder.path().join(WEIGHTS)).unwrap();
    let error = AutoencoderKlCogVideoX::load(folder.path(), DType::F32, &Device::Cpu).err().expect("refused");
    assert!(matches!(&error, Error::SurplusTensors { count: 1, .. }), "{error}");
    assert!(error.to_string().contains("attentions"), "{error}");
}
