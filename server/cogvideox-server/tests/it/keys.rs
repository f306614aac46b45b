//! `keys` as the operator runs it.

use std::path::Path;
use std::process::{Command, Output};

fn keys(data_dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cogvideox-server"))
        .env_clear()
        .env("COGVIDEOX_DATA_DIR", data_dir)
        .arg("keys")
        .args(arguments)
        .output()
        .unwrap()
}

fn stdout(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_key_is_printed_once_and_listed_without_its_secret() {
    let folder = tempfile::tempdir().unwrap();
    let text = stdout(keys(folder.path(), &["create", "studio", "--max-queued", "5"]));
    let (id, secret) = text.trim().strip_prefix("cvx_").unwrap().split_once('_').unwrap();
    assert_eq!(text.lines().count(), 1);

    let list = stdout(keys(folder.path(), &["list"]));
    let line = list.lines().find(|line| line.starts_with("studio")).unwrap();
    assert!(line.contains(id) && line.contains("submit,read") && line.contains("active"), "{line}");
    assert!(line.ends_with("5, -, -"), "{line}");
    assert!(!list.contains(secret));
    let database = std::fs::read(folder.path().join("queue.sqlite")).unwrap();
    assert!(!database.windows(secret.len()).any(|window| window == secret.as_bytes()), "stored in the clear");
}

#[test]
fn a_key_is_revoked_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    stdout(keys(folder.path(), &["create", "studio", "--scope", "admin"]));
    assert!(stdout(keys(folder.path(), &["revoke", "studio"])).starts_with("revoked studio"));
    assert!(stdout(keys(folder.path(), &["list"])).contains("revoked"));
}

#[test]
fn a_name_that_is_taken_or_unknown_is_one_line_and_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    stdout(keys(folder.path(), &["create", "studio"]));
    for (arguments, word) in [(["create", "studio"], "already"), (["revoke", "nobody"], "no API key")] {
        let output = keys(folder.path(), &arguments);
        assert!(!output.status.success());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains(word), "{error}");
    }
}
