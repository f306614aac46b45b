//! `quantize` as the operator runs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cogvideox/tests/golden").join(name)
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cogvideox-server")).env_clear().args(arguments).output().unwrap()
}

fn quantize(model: &Path, out: &Path, dtype: &str) -> Output {
    run(&["quantize", model.to_str().unwrap(), "--dtype", dtype, "-o", out.to_str().unwrap()])
}

fn refusal(output: &Output) -> String {
    let message = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!output.status.success(), "{message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
    message
}

#[test]
fn a_quantised_folder_is_whole_and_makes_videos() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("small");
    let output = quantize(&golden("2b"), &out, "int8");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}\n", out.display()));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let progress = String::from_utf8(output.stderr).unwrap();
    for stage in ["find scales 100 %", "write transformer 0 %", "write transformer 100 %"] {
        assert!(progress.lines().any(|line| line.starts_with(stage)), "{progress}");
    }
    let table = run(&["inspect", out.to_str().unwrap()]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("F32, I8\n"), "{table}");

    let video = dir.path().join("panda.mp4");
    let arguments = ["generate", "--model", out.to_str().unwrap(), "--prompt", "a panda"];
    let output =
        run(&[&arguments[..], &["--num-inference-steps", "2", "-o", video.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::metadata(&video).unwrap().len() > 1000);
}

#[test]
fn what_cannot_be_quantised_is_told_in_one_line_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("small");
    let message = refusal(&quantize(&golden("2b"), &out, "bf16"));
    assert!(message.contains("--dtype: expected int8 or fp8, found bf16"), "{message}");
    let message = refusal(&quantize(&golden("sat"), &out, "fp8"));
    assert!(message.contains("model_index.json"), "{message}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    fs::create_dir(&out).unwrap();
    let message = refusal(&quantize(&golden("2b"), &out, "fp8"));
    assert!(message.contains("is there already"), "{message}");
}
