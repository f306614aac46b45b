//! Compiles the kernels in `kernels/`: for the emulator as C++, for a GPU by nvcc.
#![expect(clippy::print_stdout, reason = "cargo reads what a build script prints")]

#[cfg(feature = "emulator")]
mod emulator;
#[cfg(feature = "cuda")]
mod nvcc;

use std::path::{Path, PathBuf};

type Result<T> = std::result::Result<T, String>;

fn main() -> std::process::ExitCode {
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=build");
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

fn build() -> Result<()> {
    let sources = sources(Path::new("kernels"))?;
    #[cfg(feature = "emulator")]
    emulator::build(&sources)?;
    #[cfg(feature = "cuda")]
    nvcc::build(&sources)?;
    let _ = sources;
    Ok(())
}

/// Every `.cu` file, by name.
fn sources(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let mut sources: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    sources.sort();
    Ok(sources)
}
