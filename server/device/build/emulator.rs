//! The kernels as plain C++ against `kernels/emulator/emulator.h`, in one library that registers them by name.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use crate::{Result, files, read, texts, write};

const LIBRARY: &str = "emulated_kernels";

/// Compiles what is not up to date in `kept`, and links it whole: nothing refers to a kernel but its registration.
pub(crate) fn build(sources: &[PathBuf], kept: &Path) -> Result<()> {
    let mut cc = cc::Build::new();
    cc.cpp(true)
        .std("c++17")
        .opt_level(3)
        .define("EMULATOR", None)
        .include("kernels")
        // The order of a sum is part of what is tested.
        .flag("-ffp-contract=off")
        .flag("-fno-strict-aliasing")
        // Every thread asks where it is at each step.
        .flag("-ftls-model=initial-exec")
        .warnings(true)
        .extra_warnings(false)
        .out_dir(kept)
        .link_lib_modifier("+whole-archive")
        .file("kernels/emulator/emulator.cpp");
    // Compilers do not know `.cu` as C++.
    cc.flag("-xc++").files(sources).file("kernels/emulator/faults.cu");
    let (key_file, key) = (kept.join(LIBRARY).with_extension("key"), key(&cc, sources)?);
    let is_there = kept.join(format!("lib{LIBRARY}.a")).exists() && key_file.exists();
    if is_there && read(&key_file)? == key {
        // As `cc` says it of what it compiled.
        println!("cargo:rustc-link-lib=static:+whole-archive={LIBRARY}");
        println!("cargo:rustc-link-search=native={}", kept.display());
        println!("cargo:rustc-link-lib=stdc++");
        return Ok(());
    }
    cc.try_compile(LIBRARY).map_err(|error| error.to_string())?;
    write(&key_file, &key)
}

/// Of all that the library is made from.
fn key(cc: &cc::Build, sources: &[PathBuf]) -> Result<String> {
    let compiler = cc.try_get_compiler().map_err(|error| error.to_string())?;
    let version = compiler.to_command().arg("--version").output().map_err(|error| error.to_string())?.stdout;
    let own = files(Path::new("kernels/emulator"), &["h", "cpp", "cu"])?;
    let headers = files(Path::new("kernels"), &["h", "cuh"])?;
    let mut hasher = DefaultHasher::new();
    (compiler.path(), compiler.args(), version, texts(sources)?, texts(&own)?, texts(&headers)?)
        .hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}
