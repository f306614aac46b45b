#!/usr/bin/env python3
"""End to end: the real binary, real HTTP, real files, seen through this server's own interface.

Each walk starts `cogvideox-server serve` with the demo model in a temporary folder of its own and does what users and
operators do. The other scripts here see the same server through other eyes: the OpenAI clients, a fuzzer, a browser, a
saboteur.

Needs only Python's standard library and ffprobe.   usage: run.py BINARY [WALK ..]
"""
import pathlib
import sys
import tempfile
import time

import access
import adapters
import basics
import files
import line
import models
import outside
import parity
import pictures
import recovery
import streams
import workers
from server import step

WALKS = {walk.__name__: walk for walk in (basics, files, line, streams, recovery, workers, models, adapters, pictures, access, outside, parity)}


def main(binary, *names):
    binary = pathlib.Path(binary).resolve()
    started = time.monotonic()
    for name in names or WALKS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"e2e-{name}-") as folder:
            WALKS[name].walk(binary, pathlib.Path(folder))
        step(f"{name} passed in {time.monotonic() - began:.0f} s")
    step(f"all passed in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
