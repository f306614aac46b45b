//! SAT-shaped checkpoints of the goldens' weights (`tests/golden/sat`, by `reference/make_sat.py`) come back as the
//! goldens' folders.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use cogvideox::convert::Conversion;
use cogvideox::inspection::inspect;
use cogvideox::{CogVideoXPipeline, ModelForm};

use crate::golden::{Golden, assert_close};
use crate::pipeline::for_each_run;

fn sat(form: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/sat").join(form).join(name)
}

/// The two 1.0 models' VAEs stand for all: they have the same names and shapes.
fn conversion(golden: &Golden, form: &str, vae: &str) -> Conversion {
    Conversion {
        transformer: sat(form, "transformer.pt"),
        vae: sat(vae, "3d-vae.pt"),
        text_encoder: golden.dir.join("text_encoder"),
        tokenizer: golden.dir.join("tokenizer"),
        form: form.parse::<ModelForm>().unwrap(),
        transformer_config: Some(golden.dir.join("transformer/config.json")),
        vae_config: Some(golden.dir.join("vae/config.json")),
        dtype: None,
    }
}

fn tensors(component: &Path) -> HashMap<String, Tensor> {
    let files = fs::read_dir(component).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .flat_map(|path| candle_core::safetensors::load(path, &Device::Cpu).unwrap())
        .collect()
}

#[track_caller]
fn assert_same(found: &Path, expected: &Path) {
    let (found, expected) = (tensors(found), tensors(expected));
    assert_eq!(found.len(), expected.len());
    for (name, tensor) in &expected {
        assert_eq!(found[name].dtype(), tensor.dtype(), "{name}");
        assert_close(name, &found[name], tensor, 0.0);
    }
}

#[test]
fn every_tensor_comes_back_and_the_folder_gives_the_golden_video() {
    for form in ["2b", "5b"] {
        let golden = Golden::open(form);
        let out = tempfile::tempdir().unwrap();
        conversion(&golden, form, form).write(out.path(), &|_, _| ()).unwrap();
        for component in ["transformer", "vae"] {
            assert_same(&out.path().join(component), &golden.dir.join(component));
        }
        let found = inspect(out.path());
        assert!(found.faults.is_empty(), "{:?}", found.faults);
        assert_eq!(found.form.map(ModelForm::name), Some(form));
        for_each_run(
            form,
            |golden| CogVideoXPipeline::load(out.path(), golden.dtype, &Device::Cpu).unwrap(),
            |name| name == "dynamic",
            |key, found, expected| assert_close(key, found, expected, 1e-4),
            |_, _, _| (),
        );
    }
}

#[test]
fn the_image_models_transformers_come_back() {
    for form in ["5b-i2v", "1.5-5b-i2v"] {
        let golden = Golden::open(form);
        let out = tempfile::tempdir().unwrap();
        conversion(&golden, form, "5b").write(out.path(), &|_, _| ()).unwrap();
        assert_same(&out.path().join("transformer"), &golden.dir.join("transformer"));
    }
}

#[test]
fn a_transformer_is_stored_in_the_dtype_that_is_asked_for() {
    let golden = Golden::open("2b");
    let out = tempfile::tempdir().unwrap();
    Conversion { dtype: Some(DType::BF16), ..conversion(&golden, "2b", "2b") }
        .write(out.path(), &|_, _| ())
        .unwrap();
    let found = tensors(&out.path().join("transformer"));
    for (name, tensor) in tensors(&golden.dir.join("transformer")) {
        assert_eq!(found[&name].dtype(), DType::BF16);
        assert_close(&name, &found[&name], &tensor.to_dtype(DType::BF16).unwrap(), 0.0);
    }
}

#[track_caller]
fn refused(conversion: &Conversion) -> String {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let message = conversion.write(&out, &|_, _| ()).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(!out.exists(), "something was written before all was looked at");
    message
}

#[test]
fn what_does_not_fit_is_refused_by_its_name_before_anything_is_written() {
    let golden = Golden::open("5b");
    let fitting = || conversion(&golden, "5b", "5b");

    let message = refused(&Conversion { transformer: sat("1.5-5b-i2v", "transformer.pt"), ..fitting() });
    assert!(message.contains("transformer.pt: tensor model.diffusion_model."), "{message}");
    assert!(message.contains("a 5b"), "{message}");

    // The published form's sizes, which the golden has not.
    let message = refused(&Conversion { transformer_config: None, ..fitting() });
    let expected = "tensor model.diffusion_model.mixins.adaln_layer.adaLN_modulations.0.1.bias gives \
                    transformer_blocks.0.norm1.linear.bias the shape [288], expected [18432] for a 5b";
    assert!(message.contains(expected), "{message}");

    let message = refused(&Conversion { form: ModelForm::Cogvideox2b, ..fitting() });
    assert!(
        message.contains("transformer/config.json: expected the configuration of a 2b, found a 5b's"),
        "{message}"
    );

    let message = refused(&Conversion { transformer: sat("5b", "3d-vae.pt"), ..fitting() });
    assert!(message.contains("3d-vae.pt: no tensor in it gives"), "{message}");
    let message = refused(&Conversion { vae: sat("5b", "transformer.pt"), ..fitting() });
    assert!(message.contains("transformer.pt: tensor model.diffusion_model."), "{message}");

    let message = refused(&Conversion { text_encoder: golden.dir.join("vae"), ..fitting() });
    assert!(message.contains("vae/config.json"), "{message}");
    let message = refused(&Conversion { tokenizer: golden.dir.join("vae"), ..fitting() });
    assert!(message.contains("spiece.model"), "{message}");
    let message = refused(&Conversion { dtype: Some(DType::U8), ..fitting() });
    assert!(message.contains("expected f32, f16 or bf16, found u8"), "{message}");
}

#[test]
fn a_damaged_weight_is_found_by_its_checksum() {
    let golden = Golden::open("2b");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flipped.pt");
    let mut bytes = fs::read(sat("2b", "transformer.pt")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let message = refused(&Conversion { transformer: path, ..conversion(&golden, "2b", "2b") });
    assert!(message.contains("flipped.pt") && message.contains("is damaged"), "{message}");
}
