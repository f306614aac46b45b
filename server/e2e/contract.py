#!/usr/bin/env python3
"""Holds the server to its own description: schemathesis makes requests of all sorts out of what openapi.yaml says,
right and wrong ones, and compares each answer with what is promised there. A fixed number of examples from a fixed seed.

usage: contract.py BINARY SCHEMATHESIS
"""
import pathlib
import subprocess
import sys
import tempfile
import time

from server import Server, step

# For each operation; a minute's worth on two cores.
EXAMPLES = 80
# Should a request hang all the same.
LIMIT_SECONDS = 600
CONFIG = {
    # The key is asked far more often than a client would.
    "limits.requests_per_minute_per_key": 0,
    # `Prefer: wait` and DELETE of a running video would spend the time with waiting.
    "limits.max_wait_seconds": 1, "limits.delete_wait_seconds": 1,
    # See `main`.
    "limits.max_streams_per_key": 1,
}
# That a request is accepted where its form is right: not to be had, since the document cannot say what only the model
# that is loaded decides (its one size, its frame counts, the step counts that its schedule cannot run, how many tokens
# a prompt comes to), nor which fields exclude each other.
EXCLUDED_CHECKS = "positive_data_acceptance"


def main(binary, schemathesis):
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="e2e-contract-") as folder:
        server = Server(binary, folder, CONFIG)
        server.key = server.create_key("contract", "admin")
        with server:
            server.completed(server.create(num_inference_steps=1)["id"])
            # An event stream lasts, and a fuzzer waits for its end. The key's only one is taken here, so that the
            # others are refused at once: parameters and refusals are checked, the streams themselves in streams.py.
            with server.stream("/v1/events", timeout=LIMIT_SECONDS):
                fuzz(server, schemathesis, folder)
            server.get("/readyz")
            server.stop()
    step(f"the contract holds, {time.monotonic() - began:.0f} s")


def fuzz(server, schemathesis, folder):
    document = pathlib.Path(folder) / "openapi.yaml"
    document.write_text(server.run("openapi"))
    command = [schemathesis, "run", document, "--url", server.base, "--header", f"Authorization: Bearer {server.key}",
               "--checks", "all", "--exclude-checks", EXCLUDED_CHECKS, "--phases", "examples,coverage,fuzzing,stateful",
               "--seed", "1", "--max-examples", EXAMPLES, "--request-timeout", "20", "--continue-on-failure",
               "--generation-database", "none", "--no-color", "--warnings", "off"]
    result = subprocess.run([str(part) for part in command], cwd=folder, timeout=LIMIT_SECONDS)
    assert result.returncode == 0, f"expected answers as openapi.yaml promises, found others (exit status {result.returncode})"


if __name__ == "__main__":
    main(*(pathlib.Path(argument).resolve() for argument in sys.argv[1:]))
