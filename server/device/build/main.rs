//! Compiles the kernels in `kernels/`: for the emulator as C++, for a GPU by nvcc.
#![expect(clippy::print_stdout, reason = "cargo reads what a build script prints")]

#[cfg(feature = "emulator")]
mod emulator;
#[cfg(feature = "cuda")]
mod nvcc;

use std::path::{Path, PathBuf};

type Result<T> = std::result::Result<T, String>;

/// A folder for what is compiled, which builds of different features may share: else each of them compiles the kernels.
const KEPT: &str = "COGVIDEOX_KERNELS_DIR";

fn main() -> std::process::ExitCode {
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-env-changed={KEPT}");
    match build() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(message) => {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg_attr(
    not(any(feature = "cuda", feature = "emulator")),
    expect(unused_variables, reason = "nothing is compiled")
)]
fn build() -> Result<()> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR: expected cargo to set it")?);
    let kept = std::env::var_os(KEPT).map_or_else(|| out.clone(), PathBuf::from);
    std::fs::create_dir_all(&kept).map_err(|error| format!("{}: {error}", kept.display()))?;
    let sources = files(Path::new("kernels"), &["cu"])?;
    #[cfg(feature = "emulator")]
    emulator::build(&sources, &kept)?;
    #[cfg(feature = "cuda")]
    nvcc::build(&sources, &kept, &out)?;
    Ok(())
}

/// The files of these kinds, by name.
fn files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|found| extensions.iter().any(|wanted| found == *wanted)))
        .collect();
    files.sort();
    Ok(files)
}

/// Every file with its name, in one text.
#[cfg(any(feature = "cuda", feature = "emulator"))]
fn texts(files: &[PathBuf]) -> Result<String> {
    files.iter().map(|file| Ok(format!("{}\n{}\n", file.display(), read(file)?))).collect()
}

#[cfg(any(feature = "cuda", feature = "emulator"))]
fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(any(feature = "cuda", feature = "emulator"))]
fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}
