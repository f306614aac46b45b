//! `convert` as the operator runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cogvideox/tests/golden").join(name)
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cogvideox-server")).env_clear().args(arguments).output().unwrap()
}

/// The golden 5B, with `others` after its options.
fn convert(out: &Path, others: &[&str]) -> Output {
    let at = |name: &str| golden(name).to_str().unwrap().to_owned();
    let (transformer, vae) = (at("sat/5b/transformer.pt"), at("sat/5b/3d-vae.pt"));
    let (text_encoder, tokenizer) = (at("5b/text_encoder"), at("5b/tokenizer"));
    let (transformer_config, vae_config) = (at("5b/transformer/config.json"), at("5b/vae/config.json"));
    let mut arguments =
        vec!["convert", "--transformer", &transformer, "--vae", &vae, "--text-encoder", &text_encoder];
    arguments.extend(["--tokenizer", &tokenizer, "--transformer-config", &transformer_config]);
    arguments.extend(["--vae-config", &vae_config, "--output", out.to_str().unwrap()]);
    arguments.extend(others);
    run(&arguments)
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

#[track_caller]
fn assert_refused(output: &Output, part: &str) {
    let message = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!output.status.success(), "{message}");
    let told = |line: &&str| !line.starts_with("check ") && !line.starts_with("write ");
    let faults: Vec<&str> = message.lines().filter(told).collect();
    assert_eq!(faults.len(), 1, "{message}");
    assert!(faults[0].contains(part), "expected {part:?} in {message:?}");
}

#[test]
fn a_converted_folder_is_whole_and_is_there_or_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let output = convert(&out, &["--form", "5b", "--dtype", "bf16"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\n", out.display()));
    assert_eq!(entries(dir.path()), 1);

    let inspected = run(&["inspect", "--json", out.to_str().unwrap()]);
    let found: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert!(inspected.status.success(), "{found}");
    assert_eq!(found["form"], "5b");
    let transformer =
        found["components"].as_array().unwrap().iter().find(|c| c["name"] == "transformer").unwrap();
    assert_eq!(transformer["bytes_of_dtype"].as_object().unwrap().keys().collect::<Vec<_>>(), ["BF16"]);

    let written = fs::metadata(out.join("model_index.json")).unwrap().modified().unwrap();
    assert_refused(&convert(&out, &["--form", "5b"]), "is there already");
    assert_eq!(fs::metadata(out.join("model_index.json")).unwrap().modified().unwrap(), written);
}

#[test]
fn what_cannot_be_converted_is_told_in_one_line_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    assert_refused(&convert(&out, &["--form", "2b"]), "expected the configuration of a 2b, found a 5b's");
    assert_refused(
        &convert(&out, &["--form", "5b", "--dtype", "int8"]),
        "expected f32, f16 or bf16, found int8",
    );
    let unknown = convert(&out, &["--form", "7b"]);
    let message = String::from_utf8(unknown.stderr).unwrap();
    assert!(
        message.contains("expected one of 2b, 5b, 5b-i2v, 1.5-5b, 1.5-5b-i2v, found \"7b\""),
        "{message}"
    );
    assert_eq!(entries(dir.path()), 0);
    fs::write(dir.path().join("file"), "").unwrap();
    let late = convert(&dir.path().join("file/model"), &["--form", "5b"]);
    assert_refused(&late, "cannot be made");
    // That is told before anything is read.
    assert!(late.stderr.starts_with(b"error: "), "{}", String::from_utf8_lossy(&late.stderr));
    assert_eq!(entries(dir.path()), 1);
}

#[test]
fn inspect_tells_a_checkpoint_of_sat_from_others_and_what_to_do_with_it() {
    for (file, option) in [("sat/5b/transformer.pt", "--transformer"), ("sat/5b/3d-vae.pt", "--vae")] {
        let path = golden(file);
        let output = run(&["inspect", path.to_str().unwrap()]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("SAT checkpoint: "), "{text}");
        assert!(text.contains(&format!("convert {option} {}", path.display())), "{text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let cut = dir.path().join("cut.pt");
    fs::write(&cut, &fs::read(golden("sat/5b/3d-vae.pt")).unwrap()[..1000]).unwrap();
    assert_refused(&run(&["inspect", cut.to_str().unwrap()]), "cut.pt: expected a zip as torch.save writes");
}
