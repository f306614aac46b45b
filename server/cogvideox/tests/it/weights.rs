//! Folders that are not what they should be: refused with the file and the tensor named, never a panic.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use cogvideox::CogVideoXPipeline;
use cogvideox::transformer::{CogVideoXTransformer3DModel, TransformerInput};

use crate::golden::{Golden, assert_close};

/// A copy of a golden's transformer to be tampered with.
fn copy(form: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(Golden::open(form).dir.join("transformer")).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, dir.path().join(from.file_name().unwrap())).unwrap();
    }
    dir
}

fn load(dir: &Path) -> cogvideox::Result<CogVideoXTransformer3DModel> {
    CogVideoXTransformer3DModel::load(dir, DType::F32, &Device::Cpu)
}

#[track_caller]
fn assert_refused(dir: &Path, parts: &[&str]) {
    let message = load(dir).err().expect("refused").to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    }
}

const SINGLE: &str = "diffusion_pytorch_model.safetensors";
const INDEX: &str = "diffusion_pytorch_model.safetensors.index.json";
const FIRST_SHARD: &str = "diffusion_pytorch_model-00001-of-00002.safetensors";

fn edit(dir: &Path, change: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let path = dir.join(SINGLE);
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, &path).unwrap();
}

fn edit_index(dir: &Path, change: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>)) {
    let path = dir.join(INDEX);
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(index["weight_map"].as_object_mut().unwrap());
    fs::write(&path, index.to_string()).unwrap();
}

#[test]
fn a_missing_surplus_or_misshaped_tensor_is_named() {
    let dir = copy("2b");
    edit(dir.path(), |tensors| drop(tensors.remove("proj_out.bias")));
    assert_refused(dir.path(), &[SINGLE, "proj_out.bias is missing", "expected shape [64]"]);

    let dir = copy("2b");
    let extra = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    edit(dir.path(), |tensors| drop(tensors.insert("lora.up".to_owned(), extra.clone())));
    assert_refused(dir.path(), &[SINGLE, "1 tensors do not belong", "lora.up"]);

    let dir = copy("2b");
    edit(dir.path(), |tensors| drop(tensors.insert("proj_out.bias".to_owned(), extra)));
    assert_refused(dir.path(), &[SINGLE, "proj_out.bias has shape [3], expected [64]"]);
}

#[test]
fn a_truncated_or_foreign_file_is_named() {
    let dir = copy("2b");
    let path = dir.path().join(SINGLE);
    let whole = fs::read(&path).unwrap();
    for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        assert_refused(dir.path(), &[SINGLE]);
    }
    fs::write(&path, b"PK\x03\x04 a zip file, such as a torch pickle").unwrap();
    assert_refused(dir.path(), &[SINGLE, "not a whole safetensors file"]);
    fs::remove_file(&path).unwrap();
    assert_refused(dir.path(), &["expected diffusion_pytorch_model.safetensors", "found neither"]);
}

#[test]
fn an_index_that_does_not_fit_its_shards_is_named() {
    let dir = copy("5b");
    fs::remove_file(dir.path().join(FIRST_SHARD)).unwrap();
    assert_refused(dir.path(), &[FIRST_SHARD]);

    let dir = copy("5b");
    edit_index(dir.path(), |map| drop(map.insert("not.there".to_owned(), FIRST_SHARD.into())));
    assert_refused(dir.path(), &[FIRST_SHARD, "not.there is missing"]);

    let dir = copy("5b");
    edit_index(dir.path(), |map| drop(map.insert("proj_out.bias".to_owned(), "../../secret".into())));
    assert_refused(dir.path(), &[INDEX, "expected a file name", "../../secret"]);

    let dir = copy("5b");
    fs::write(dir.path().join(INDEX), "{").unwrap();
    assert_refused(dir.path(), &[INDEX, "not an index"]);
}

#[test]
fn a_foreign_class_is_named() {
    let dir = copy("2b");
    let path = dir.path().join("config.json");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replace("CogVideoXTransformer3DModel", "FluxTransformer2DModel")).unwrap();
    assert_refused(
        dir.path(),
        &["config.json", "expected CogVideoXTransformer3DModel", "FluxTransformer2DModel"],
    );

    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model_index.json"), r#"{"_class_name": "FluxPipeline"}"#).unwrap();
    let error = CogVideoXPipeline::load(dir.path(), DType::F32, &Device::Cpu).err().unwrap().to_string();
    assert!(error.contains("model_index.json") && error.contains("FluxPipeline"), "{error}");
}

#[test]
fn a_sole_precision_variant_is_found_and_two_are_refused() {
    let dir = copy("2b");
    let variant = dir.path().join("diffusion_pytorch_model.fp16.safetensors");
    fs::rename(dir.path().join(SINGLE), &variant).unwrap();
    load(dir.path()).unwrap();
    fs::copy(&variant, dir.path().join("diffusion_pytorch_model.bf16.safetensors")).unwrap();
    assert_refused(dir.path(), &["expected one variant", "bf16", "fp16"]);
}

#[test]
fn weights_stored_in_half_precision_are_widened() {
    let golden = Golden::open("2b");
    let run = |dir: &Path| {
        let model = load(dir).unwrap();
        let latents = golden.get("latents.init");
        let (_, frames, _, height, width) = latents.dims5().unwrap();
        let input = TransformerInput {
            hidden_states: latents,
            encoder_hidden_states: golden.get("text.plain.embeds"),
            timestep: 499,
            ofs: 2.0,
            positions: &model.positions(frames, height, width).unwrap(),
            lora: &[],
        };
        model.forward(&input, &mut || Ok(())).unwrap()
    };
    for dtype in [DType::F16, DType::BF16] {
        let stored = copy("2b");
        let rounded = copy("2b");
        let convert = |tensors: &mut HashMap<String, Tensor>, to_f32: bool| {
            for tensor in tensors.values_mut() {
                *tensor = tensor.to_dtype(dtype).unwrap();
                if to_f32 {
                    *tensor = tensor.to_dtype(DType::F32).unwrap();
                }
            }
        };
        edit(stored.path(), |tensors| convert(tensors, false));
        edit(rounded.path(), |tensors| convert(tensors, true));
        assert_close(dtype.as_str(), &run(stored.path()), &run(rounded.path()), 0.0);
    }
}
