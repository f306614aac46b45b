//! `bench` as the operator runs it on a machine without a GPU.

use std::process::{Command, Output};

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cogvideox-server"))
        .env_clear()
        .arg("bench")
        .args(arguments)
        .output()
        .unwrap()
}

fn refusal(arguments: &[&str]) -> String {
    let output = bench(arguments);
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_memory_of_every_plan_is_counted_without_a_gpu() {
    let output = bench(&["--preset", "2b", "--random-weights", "--device", "plan", "--json"]);
    assert!(output.status.success());
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let plan: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(plan["peak_bytes"].as_u64() > Some(0), "{plan}");
    }
}

#[test]
fn a_comparison_that_compares_nothing_is_refused_in_one_line() {
    let quality = ["--quality", "--preset", "tiny", "--random-weights", "--device", "plan"];
    assert_eq!(refusal(&quality), "error: --quality: nothing is computed on the device plan\n");
    let dense = ["--quality", "--preset", "tiny", "--random-weights", "--dtype", "bf16"];
    assert_eq!(refusal(&dense), "error: --quality: expected --dtype fp8, int8 or int8-weight-only\n");
    let folder = ["--quality", "--model", "/nowhere", "--dtype", "fp8"];
    assert!(refusal(&folder).contains("/nowhere"), "{}", refusal(&folder));
}
