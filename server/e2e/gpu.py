#!/usr/bin/env python3
"""The program on GPUs that are not there: built for CUDA, over the driver that stands in for NVIDIA's.

    eval "$(server/device/toolkit.sh all)"
    export COGVIDEOX_KERNELS_DIR=$PWD/target/kernels
    cargo build --release -p cogvideox-server --features cuda,emulator
    server/device/stand_in/build.sh target/kernels target/stand-in
    python3 server/e2e/gpu.py target/release/cogvideox-server target/stand-in

By hand, some five minutes: CI builds the program for a CPU, and holds the driver's calls with the tests of `device`.
What it proves is order, memory and failures; of a GPU's arithmetic and speed it shows nothing.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

from goldens import FOLDER, Golden
from server import Server, equal, step, until

MODEL = FOLDER / "2b-fp16"
REQUEST = {"num_inference_steps": 4, "seed": 3}
# CUresult.
OUT_OF_MEMORY, ILLEGAL_ADDRESS = 2, 700


def main(binary, libraries):
    binary = pathlib.Path(binary).resolve()
    os.environ["LD_LIBRARY_PATH"] = str(pathlib.Path(libraries).resolve())
    for name, walk in (("goldens", goldens), ("pair", pair), ("memory", memory), ("fault", fault), ("workers", workers)):
        with tempfile.TemporaryDirectory(prefix=f"e2e-gpu-{name}-") as folder:
            walk(binary, pathlib.Path(folder))


def golden(binary, folder, form, device, dtype=None, **stand_in):
    """One golden pipeline against diffusers' own numbers."""
    found = Golden(FOLDER / form)
    dtype = dtype or found.dtype
    environment = {**os.environ, **{f"STAND_IN_{name.upper()}": value for name, value in stand_in.items()}}
    command = found.command(binary, folder, dtype) + ["--device", device]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    difference = found.difference(folder)
    step(f"{form} in {dtype} on {device}, {stand_in}: {difference}")
    fault = difference.fault(exact=dtype == "f32")
    assert not fault, f"{form}: {fault}"


def goldens(binary, folder):
    step("the goldens, with work as late as it is waited for, and what lies beside it as early as it may come")
    for form, order in (("2b", "late"), ("2b", "beside"), ("5b-i2v", "late"), ("1.5-5b", "beside"), ("5b-bf16", "random:1")):
        golden(binary, folder, form, "cuda", order=order)
    for dtype, capability in (("int8", "9.0"), ("int8", "8.6"), ("fp8", "8.9"), ("int8-weight-only", "12.0")):
        golden(binary, folder, "2b-fp16", "cuda", dtype, capability=capability)


def pair(binary, folder):
    step("two GPUs on one video")
    for form, order in (("2b", "late"), ("5b-i2v", "random:1")):
        golden(binary, folder, form, "cuda:0+cuda:1", gpus="2", order=order)


def server(binary, folder, devices="cuda", **stand_in):
    found = Server(binary, folder, {"worker.checkpoint_interval_seconds": 0}, ("--device", devices, "--model", MODEL))
    found.environment.update({f"STAND_IN_{name.upper()}": value for name, value in stand_in.items()})
    return found


def memory(binary, folder):
    step("memory that runs out: the video is made in the mode that takes least, with everything streamed")
    with server(binary, folder, fail=f"cuMemAllocAsync:{OUT_OF_MEMORY}:700:2") as found:
        done = found.completed(found.create(**REQUEST)["id"])
        equal("attempt", done["attempt"], 2)
        assert "transformer streamed" in found.log(), "expected another memory plan in the log"
        found.stop()


def fault(binary, folder):
    step("a GPU that faults: the process ends, the next one goes on, same bytes")
    with server(binary, folder / "sound") as found:
        sound = found.completed(found.create(**REQUEST)["id"])
        found.stop()
    with server(binary, folder / "faulting", fail=f"cuLaunchKernel:{ILLEGAL_ADDRESS}:300") as found:
        video = found.create(**REQUEST)
        equal("exit status", found.process.wait(120), 1)
        del found.environment["STAND_IN_FAIL"]
        found.start()
        equal("sha256", found.completed(video["id"])["sha256"], sound["sha256"])
        found.stop()


def workers(binary, folder):
    step("two GPUs, a worker each, one queue")
    with server(binary, folder, devices="cuda:0,cuda:1", gpus="2") as found:
        until("both", lambda: [device["status"] for device in found.get("/readyz").body["devices"]] == ["ready", "ready"])
        videos = [found.create(num_inference_steps=2, seed=seed) for seed in (1, 2)]
        for video in videos:
            found.completed(video["id"])
        for device in ("cuda:0", "cuda:1"):
            found.until_logged(rf'"video started".*{device}')
        found.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
