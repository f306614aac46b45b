//! A library that says it is cuDNN: `fake.c`.

use std::path::PathBuf;
use std::process::Command;

/// Compiled into a folder of its own, with these macros.
pub(super) fn compile(macros: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/cudnn/fake.c");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
        .args([&folder.path().join("libcudnn.so.9"), &source])
        .args(macros.iter().map(|name| format!("-D{name}")))
        .status()
        .expect("a C compiler");
    assert!(status.success());
    folder
}
