#!/usr/bin/env bash
# skeleton.sh DIR: the workspace with every crate empty. What cargo builds from it are the dependencies, so that an
# image's layer with them outlives changes of the code.
set -euo pipefail
mkdir -p "$1"
cp --parents Cargo.toml Cargo.lock server/*/Cargo.toml "$1"
for crate in server/*/Cargo.toml; do
  mkdir -p "$1/${crate%/*}/src"
  echo '//! Empty.' >"$1/${crate%/*}/src/lib.rs"
done
# Programs: binaries, build scripts, and benches that a manifest names.
for program in server/*/src/main.rs server/*/build.rs server/*/build/main.rs server/*/benches/*.rs; do
  mkdir -p "$1/${program%/*}"
  printf '//! Empty.\nfn main() {}\n' >"$1/$program"
done
