#!/usr/bin/env bash
# Builds the driver, the cuBLASLt and the cuDNN that stand in for NVIDIA's: one library under all names, in DIR.
#
#   eval "$(server/device/toolkit.sh all)"; server/device/stand_in/build.sh KERNELS DIR
#   LD_LIBRARY_PATH=DIR:$LD_LIBRARY_PATH PROGRAM ..
#
# KERNELS is where a build with the feature `emulator` left its library (COGVIDEOX_KERNELS_DIR). NVIDIA's own headers
# declare what is defined here. world.cpp says what the GPUs that are not there may be asked to be.
set -euo pipefail

kernels=${1:?the folder of libemulated_kernels.a} dir=${2:?the folder for the libraries}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
libraries=$CUDA_HOME/../../../libraries/nvidia
mkdir -p "$dir"
# -Bsymbolic: a program that has the emulator itself keeps its own.
${CXX:-c++} -std=c++17 -O2 -fPIC -shared -DEMULATOR -Wall -Wextra -Wno-unused-function \
  -isystem "$CUDA_HOME/include" -isystem "$libraries/cu13/include" -isystem "$libraries/cudnn/include" \
  -Wl,-soname,libcuda.so.1 -Wl,-Bsymbolic -Wl,-z,defs -o "$dir/libcuda.so.1" "$here"/*.cpp \
  -Wl,--whole-archive "$kernels/libemulated_kernels.a" -Wl,--no-whole-archive
for name in libcublasLt.so.13 libcudnn.so.9; do ln -sf libcuda.so.1 "$dir/$name"; done
