//! `inspect` as the operator runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn golden(form: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cogvideox/tests/golden").join(form)
}

fn inspect(path: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cogvideox-server"))
        .env_clear()
        .arg("inspect")
        .arg(path)
        .args(arguments)
        .output()
        .unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A copy of a golden's folder to be tampered with.
fn copy(form: &str, to: &Path) {
    for component in ["", "scheduler", "text_encoder", "tokenizer", "transformer", "vae"] {
        fs::create_dir_all(to.join(component)).unwrap();
        for entry in fs::read_dir(golden(form).join(component)).unwrap() {
            let from = entry.unwrap().path();
            if from.is_file() && !from.file_name().unwrap().to_str().unwrap().starts_with("golden") {
                fs::copy(&from, to.join(component).join(from.file_name().unwrap())).unwrap();
            }
        }
    }
}

#[test]
fn every_form_is_told_and_found_whole() {
    for form in ["2b", "5b", "5b-i2v", "1.5-5b", "1.5-5b-i2v"] {
        let output = inspect(&golden(form), &["--json"]);
        let found = json(&output);
        assert!(output.status.success(), "{found}");
        assert_eq!(found["form"], form);
        assert_eq!(found["faults"], serde_json::json!([]));
        assert_eq!(found["licence"] == "Apache-2.0", form == "2b");
        assert_eq!(found["memory"].as_array().unwrap().len(), 9);
        for component in found["components"].as_array().unwrap() {
            assert!(component["bytes_of_dtype"]["F32"].as_u64() > Some(0), "{component}");
        }
        let table = inspect(&golden(form), &[]);
        assert!(String::from_utf8(table.stdout).unwrap().contains(&format!("form      {form}\n")));
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    copy("5b", folder.path());
    fs::remove_file(folder.path().join("tokenizer/spiece.model")).unwrap();
    fs::remove_file(folder.path().join("transformer/diffusion_pytorch_model-00001-of-00002.safetensors"))
        .unwrap();
    let config = folder.path().join("vae/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"latent_channels\": 16", "\"latent_channels\": 8")).unwrap();
    let output = inspect(folder.path(), &["--json"]);
    assert!(!output.status.success());
    let found = json(&output);
    let faults: Vec<&str> = found["faults"].as_array().unwrap().iter().map(|f| f.as_str().unwrap()).collect();
    for part in [
        "spiece.model",
        "diffusion_pytorch_model-00001-of-00002.safetensors",
        "tensor transformer_blocks.0.attn1.to_q.weight is missing",
        "tensor decoder.conv_in.conv.weight has shape [12, 16, 3, 3, 3], expected [12, 8, 3, 3, 3]",
    ] {
        assert!(faults.iter().any(|fault| fault.contains(part)), "{part}: {faults:?}");
    }
    assert_eq!(found["form"], "5b");
}

#[test]
fn what_belongs_to_no_layer_or_is_stored_in_a_foreign_dtype_is_told() {
    let folder = tempfile::tempdir().unwrap();
    copy("2b", folder.path());
    let path = folder.path().join("vae/diffusion_pytorch_model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &candle_core::Device::Cpu).unwrap();
    let bias = tensors.remove("decoder.conv_out.conv.bias").unwrap();
    let bytes = bias.to_dtype(candle_core::DType::U8).unwrap();
    tensors.insert("decoder.conv_out.conv.bias".to_owned(), bytes);
    tensors.insert("loss.weight".to_owned(), bias);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let faults = json(&inspect(folder.path(), &["--json"]))["faults"].to_string();
    assert!(faults.contains("decoder.conv_out.conv.bias is stored as U8"), "{faults}");
    assert!(faults.contains("loss.weight belongs to no layer"), "{faults}");
}

#[test]
fn an_adapter_is_recognised_and_other_files_are_refused_in_one_line() {
    let found = inspect(&golden("lora/2b/motion.safetensors"), &[]);
    let text = String::from_utf8(found.stdout).unwrap();
    assert!(text.starts_with("LoRA adapter: 12 layers, rank 2\n"), "{text}");
    for path in [golden("2b/golden.json"), PathBuf::from("/nowhere")] {
        let output = inspect(&path, &[]);
        assert!(!output.status.success());
        assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1);
    }
}
