//! SAT-shaped checkpoints of the goldens' weights (`tests/golden/sat`, by `reference/make_sat.py`) come back as the
//! goldens' folders.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use cogvideox::convert::{Checkpoint, Conversion, recognise};
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
        conversion(&golden, form, form).write(out.path()).unwrap();
        for component in ["transformer", "vae"] {
            assert_same(&out.path().join(component), &golden.dir.join(component));
        }
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
        conversion(&golden, form, "5b").write(out.path()).unwrap();
        assert_same(&out.path().join("transformer"), &golden.dir.join("transformer"));
    }
}

#[test]
fn a_transformer_is_stored_in_the_dtype_that_is_asked_for() {
    let golden = Golden::open("2b");
    let out = tempfile::tempdir().unwrap();
    Conversion { dtype: Some(DType::BF16), ..conversion(&golden, "2b", "2b") }.write(out.path()).unwrap();
    let found = tensors(&out.path().join("transformer"));
    for (name, tensor) in tensors(&golden.dir.join("transformer")) {
        assert_eq!(found[&name].dtype(), DType::BF16);
        assert_close(&name, &found[&name], &tensor.to_dtype(DType::BF16).unwrap(), 0.0);
    }
}

#[test]
fn a_checkpoint_of_another_form_is_refused_by_the_tensor() {
    let golden = Golden::open("5b");
    let refused = |conversion: &Conversion| {
        let out = tempfile::tempdir().unwrap();
        conversion.write(out.path()).unwrap_err().to_string()
    };
    let other = Conversion { transformer: sat("1.5-5b-i2v", "transformer.pt"), ..conversion(&golden, "5b", "5b") };
    let message = refused(&other);
    assert!(message.contains("transformer.pt: tensor model.diffusion_model."), "{message}");
    let swapped = Conversion { transformer: sat("5b", "3d-vae.pt"), ..conversion(&golden, "5b", "5b") };
    assert!(refused(&swapped).contains("nothing in it gives the tensor"), "{}", refused(&swapped));
}

#[test]
fn checkpoints_are_recognised_and_damaged_ones_refused() {
    assert_eq!(recognise(&sat("5b", "transformer.pt")).unwrap(), Checkpoint::SatTransformer);
    assert_eq!(recognise(&sat("5b", "3d-vae.pt")).unwrap(), Checkpoint::SatVae);
    let whole = fs::read(sat("2b", "transformer.pt")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.pt");
    for length in [0, 10, whole.len() / 2, whole.len() - 30] {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(recognise(&path).unwrap_err().to_string().contains("damaged.pt"));
    }
    // Every byte of the pickle in turn, which follows the first header.
    for at in (0..4096).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        fs::write(&path, bytes).unwrap();
        // Whatever it says, it says it in an orderly way.
        let _ = recognise(&path);
    }
}
