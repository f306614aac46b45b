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

/// The plans that are printed within a limit.
fn plans_within(limit: &[&str]) -> Vec<String> {
    let plan = ["--preset", "2b", "--random-weights", "--device", "plan"];
    let output = bench(&[&plan, limit].concat());
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn within_a_limit_the_first_plan_that_fits_is_told() {
    let all = plans_within(&[]);
    let first = plans_within(&["--memory-limit", "80GiB"]);
    let [ref tight] = plans_within(&["--memory-limit", "5GiB"])[..] else { panic!("expected one plan") };
    assert_eq!(first, all[..1]);
    assert!(all[1..].contains(tight), "{tight}");
    let none = refusal(&["--preset", "2b", "--random-weights", "--device", "plan", "--memory-limit", "1GiB"]);
    assert!(none.contains("the smallest plan needs"), "{none}");
    let stages = refusal(&["--preset", "2b", "--random-weights", "--device", "plan", "--stages", "vae"]);
    assert_eq!(stages, "error: --stages, --algorithms: nothing is computed on the device plan\n");
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
