#!/usr/bin/env bash
# Lays out a CUDA 13.0 toolkit from PyPI's wheels, for a machine without one, with or without a GPU.
#
#   eval "$(server/device/toolkit.sh [compiler|all] [DIR])"     # a second call costs nothing
#
# compiler (the default; a 105 MB download): nvcc, which `--features cuda` needs at build time, and nothing else.
# all (1 GB more): also cuBLASLt, cuDNN and NVRTC, as the tests need them that plan cuDNN's graphs for described
# devices, and a stand-in for the driver's libcuda where the machine has none.
# DIR defaults to ~/.cache/cogvideox-cuda-13.0. Needs python3 with venv, and a C compiler.
set -euo pipefail

compiler=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96
  nvidia-cuda-cccl==13.0.85)
libraries=(nvidia-cublas==13.0.2.14 nvidia-cuda-nvrtc==13.0.88 nvidia-cudnn-cu13==9.28.1.4)

size=${1:-compiler}
dir=${2:-${XDG_CACHE_HOME:-$HOME/.cache}/cogvideox-cuda-13.0}
case $size in compiler | all) ;; *) echo "toolkit.sh: expected compiler or all, found $size" >&2; exit 2 ;; esac
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

# part NAME WHEEL..: the wheels' files in $dir/NAME. The folder gets its name when it is complete, so an interrupted
# run leaves only a .partial behind, which the next one removes; other versions than these are replaced.
part() {
  local part=$dir/$1 partial=$dir/$1.partial
  shift
  if [ "$(cat "$part/versions" 2>/dev/null)" = "$*" ]; then return; fi
  rm -rf "$partial" "$part"
  python3 -m venv "$partial/venv"
  "$partial/venv/bin/pip" install -q --disable-pip-version-check --no-cache-dir --no-deps --no-compile --target "$partial/site" "$@"
  rm -rf "$partial/venv"
  # nvidia/cu13 is a toolkit as nvcc expects it; cuDNN lies beside it.
  mv "$partial/site/nvidia" "$partial/nvidia"
  rm -rf "$partial/site"
  echo "$*" >"$partial/versions"
  mv "$partial" "$part"
}

# The driver's library comes with the driver and is in no wheel. cuDNN's run-time compiled engines link to it and have
# it load what they compiled, also when they only plan. This one says that there is no device, hands out something for
# a kernel, and says yes to the rest.
stub() {
  # This script is what it is made of.
  if [ "$dir/stub/libcuda.so.1" -nt "${BASH_SOURCE[0]}" ]; then return; fi
  rm -rf "$dir/stub" "$dir/stub.partial"
  mkdir "$dir/stub.partial"
  grep -ohE '\bcu[A-Z][A-Za-z0-9_]+ *\(' "$dir/compiler/nvidia/cu13/include/cuda.h" | tr -d ' (' | sort -u |
    awk '/^cu(Init|DeviceGet|DeviceGetCount)$/ { print "int " $0 "(void) { return 100; }"; next }
         /^cu(Library(LoadData|GetKernel|GetModule)|KernelGetFunction|Module(LoadData|LoadDataEx|GetFunction))$/ {
           print "int " $0 "(void **handle) { *handle = handle; return 0; }"; next }
         { print "int " $0 "(void) { return 0; }" }' |
    ${CC:-cc} -shared -fPIC -Wl,-soname,libcuda.so.1 -x c - -o "$dir/stub.partial/libcuda.so.1"
  mv "$dir/stub.partial" "$dir/stub"
}

{
  # One at a time: a second call waits for the first, and then finds everything there.
  exec 9>"$dir/.lock"
  flock 9
  part compiler "${compiler[@]}"
  if [ "$size" = all ]; then
    part libraries "${libraries[@]}"
    stub
  fi
} >&2

home=$dir/compiler/nvidia/cu13
printf 'export CUDA_HOME=%q\n' "$home"
printf 'export PATH=%q:$PATH\n' "$home/bin"
if [ "$size" = all ]; then
  libraries=$dir/libraries/nvidia/cu13/lib:$dir/libraries/nvidia/cudnn/lib
  # Behind all others, and only for want of a real one.
  if PATH=$PATH:/usr/sbin:/sbin ldconfig -p 2>/dev/null | grep 'libcuda\.so\.1' >/dev/null; then stub=; else stub=:$dir/stub; fi
  printf 'export LD_LIBRARY_PATH=%q${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}%q\n' "$libraries" "$stub"
fi
