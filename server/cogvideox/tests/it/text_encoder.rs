//! Prompt embeddings of every form, and what a wrong folder says.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use cogvideox::Error;
use cogvideox::text_encoder::T5EncoderModel;

use crate::golden::{FORMS, Golden, assert_close, assert_relative};

/// The prompts whose embeddings are golden; "empty" and "plain" are mostly padding, "long" has none.
const PROMPTS: [&str; 4] = ["plain", "empty", "unicode", "long"];

fn embed(model: &T5EncoderModel, golden: &Golden, prompt: &str) -> Tensor {
    let ids: Vec<u32> =
        golden.get(&format!("text.{prompt}.ids")).to_dtype(DType::U32).unwrap().to_vec1().unwrap();
    model.forward(&ids, &mut || Ok(())).unwrap()
}

fn load(golden: &Golden) -> T5EncoderModel {
    T5EncoderModel::load(&golden.dir.join("text_encoder"), golden.dtype, &Device::Cpu).unwrap()
}

#[test]
fn f32_embeddings_are_transformers_embeddings() {
    for form in FORMS {
        let golden = Golden::open(form);
        let model = load(&golden);
        for prompt in PROMPTS {
            let expected = golden.get(&format!("text.{prompt}.embeds"));
            assert_close(&format!("{form} {prompt}"), &embed(&model, &golden, prompt), expected, 3e-5);
        }
    }
}

#[test]
fn half_embeddings_are_transformers_half_embeddings() {
    for (form, bound) in [("2b-fp16", 1e-3), ("5b-bf16", 8e-3)] {
        let golden = Golden::open(form);
        let model = load(&golden);
        for prompt in PROMPTS {
            let found = embed(&model, &golden, prompt);
            assert_eq!(found.dtype(), golden.dtype, "{form}");
            let expected = golden.get(&format!("text.{prompt}.embeds"));
            assert_relative(&format!("{form} {prompt}"), &found, expected, bound);
        }
    }
}

#[test]
fn the_callback_ends_the_forward_between_blocks() {
    let golden = Golden::open("2b");
    let model = load(&golden);
    let mut calls = 0;
    let stopped = model.forward(&[1, 0, 0], &mut || {
        calls += 1;
        if calls == 2 { Err(Error::Interrupted) } else { Ok(()) }
    });
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    assert_eq!(calls, 2, "one call for each of the two blocks");
}

/// A copy of the 2b form's text encoder to be tampered with.
fn copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let from = Golden::open("2b").dir.join("text_encoder");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(from.join(file), dir.path().join(file)).unwrap();
    }
    dir
}

fn edit_config(dir: &Path, key: &str, value: Option<serde_json::Value>) {
    let path = dir.join("config.json");
    let mut config: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    match value {
        Some(value) => config.insert(key.to_owned(), value),
        None => config.remove(key),
    };
    fs::write(&path, serde_json::to_vec(&config).unwrap()).unwrap();
}

fn load_error(dir: &Path) -> String {
    match T5EncoderModel::load(dir, DType::F32, &Device::Cpu) {
        Ok(_) => panic!("loaded"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn the_embedding_table_may_stand_under_its_other_name_or_under_both() {
    let golden = Golden::open("2b");
    let expected = golden.get("text.plain.embeds");
    let dir = copy();
    let path = dir.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let table = tensors["shared.weight"].clone();

    tensors.insert("encoder.embed_tokens.weight".to_owned(), table);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let both = T5EncoderModel::load(dir.path(), DType::F32, &Device::Cpu).unwrap();
    assert_close("both", &embed(&both, &golden, "plain"), expected, 3e-5);

    tensors.remove("shared.weight");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let other = T5EncoderModel::load(dir.path(), DType::F32, &Device::Cpu).unwrap();
    assert_close("other", &embed(&other, &golden, "plain"), expected, 3e-5);
}

/// `reference/make_text_overflow.py`
#[test]
fn f16_overflow_is_clamped_as_in_transformers() {
    let golden = Golden::open("2b");
    let path = golden.dir.with_file_name("text_overflow.safetensors");
    let expected = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let dir = copy();
    let path = dir.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let projection = tensors.get_mut("encoder.block.0.layer.0.SelfAttention.o.weight").unwrap();
    *projection = projection.affine(65536.0, 0.0).unwrap();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let model = T5EncoderModel::load(dir.path(), DType::F16, &Device::Cpu).unwrap();
    assert_relative("overflow", &embed(&model, &golden, "plain"), &expected["embeds"], 2e-3);
}

#[test]
fn missing_keys_take_the_defaults_of_t5_config() {
    let golden = Golden::open("2b");
    let dir = copy();
    for key in [
        "relative_attention_num_buckets",
        "relative_attention_max_distance",
        "layer_norm_epsilon",
        "dense_act_fn",
        "is_gated_act",
        "model_type",
    ] {
        edit_config(dir.path(), key, None);
    }
    let model = T5EncoderModel::load(dir.path(), DType::F32, &Device::Cpu).unwrap();
    assert_close("defaults", &embed(&model, &golden, "plain"), golden.get("text.plain.embeds"), 3e-5);
}

#[test]
fn another_architecture_is_refused_by_key_and_value() {
    for (key, value, expected) in [
        ("model_type", "umt5".into(), "config.json: model_type: expected t5, found umt5"),
        (
            "feed_forward_proj",
            "relu".into(),
            "config.json: feed_forward_proj: expected gated-gelu, found relu",
        ),
        ("dense_act_fn", "gelu".into(), "config.json: dense_act_fn: expected gelu_new, found gelu"),
        ("is_gated_act", false.into(), "config.json: is_gated_act: expected true, found false"),
        ("num_heads", 0.into(), "config.json: num_heads: expected 1 to 16777216, found 0"),
        ("d_kv", u64::MAX.into(), "config.json: d_kv: expected 1 to 16777216, found 18446744073709551615"),
        ("d_ff", "many".into(), "config.json: d_ff: invalid type: string \"many\", expected usize"),
        ("_class_name", "CLIPTextModel".into(), "_class_name: expected T5EncoderModel, found CLIPTextModel"),
    ] {
        let dir = copy();
        edit_config(dir.path(), key, Some(value));
        let message = load_error(dir.path());
        assert!(message.contains(expected), "{key}: {message}");
    }
}

#[test]
fn weights_that_do_not_fit_the_configuration_are_refused_by_name_and_shape() {
    let dir = copy();
    edit_config(dir.path(), "num_layers", Some(3.into()));
    let message = load_error(dir.path());
    assert!(message.contains("encoder.block.2.layer.0.layer_norm.weight is missing"), "{message}");

    edit_config(dir.path(), "num_layers", Some(1.into()));
    let message = load_error(dir.path());
    assert!(message.contains("do not belong to this model"), "{message}");
    assert!(message.contains("encoder.block.1.layer.0.SelfAttention.k.weight"), "{message}");

    edit_config(dir.path(), "num_layers", Some(2.into()));
    edit_config(dir.path(), "d_ff", Some(128.into()));
    let message = load_error(dir.path());
    assert!(message.contains("wi_0.weight has shape [64, 32], expected [128, 32]"), "{message}");
}
