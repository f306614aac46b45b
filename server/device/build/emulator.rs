//! The kernels as plain C++ against `kernels/emulator/emulator.h`, in one library that registers them by name.

use std::path::PathBuf;

use crate::Result;

/// Compiles and links them whole: nothing refers to a kernel but its registration.
pub(crate) fn build(sources: &[PathBuf]) -> Result<()> {
    let mut cc = cc::Build::new();
    cc.cpp(true)
        .std("c++17")
        .opt_level(2)
        .define("EMULATOR", None)
        .include("kernels")
        // The order of a sum is part of what is tested.
        .flag("-ffp-contract=off")
        .flag("-fno-strict-aliasing")
        .warnings(true)
        .extra_warnings(false)
        .link_lib_modifier("+whole-archive")
        .file("kernels/emulator/emulator.cpp");
    // Compilers do not know `.cu` as C++.
    cc.flag("-xc++").files(sources).file("kernels/emulator/faults.cu");
    cc.try_compile("emulated_kernels").map_err(|error| error.to_string())
}
