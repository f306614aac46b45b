#!/usr/bin/env python3
"""Runs a command beside a fresh server with the demo model and an API key, and ends with the command's exit status.

The command finds the server in COGVIDEOX_BASE_URL and COGVIDEOX_API_KEY, and as OpenAI's clients do: in OPENAI_BASE_URL
(with /v1) and OPENAI_API_KEY. The key is an admin's. Configuration keys may be set before the command.
usage: with_server.py BINARY [KEY=VALUE ..] -- COMMAND ..
"""
import os
import pathlib
import subprocess
import sys
import tempfile

from server import Server


def main(binary, *arguments):
    end = arguments.index("--")
    config = dict(setting.split("=", 1) for setting in arguments[:end])
    with tempfile.TemporaryDirectory(prefix="e2e-server-") as folder:
        server = Server(binary, pathlib.Path(folder), config)
        key = server.create_key("e2e", "admin")
        with server:
            where = {"COGVIDEOX_BASE_URL": server.base, "COGVIDEOX_API_KEY": key,
                     "OPENAI_BASE_URL": server.base + "/v1", "OPENAI_API_KEY": key}
            return subprocess.run(arguments[end + 1:], env={**os.environ, **where}).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
