#!/usr/bin/env python3
"""Every command of README.md, run as it stands there.

The README is read, not repeated: each line of a ```sh block is a command, in order, and each ```python block a program.
Blocks that do not fit a run by themselves are adapted by the rules below: a port that is free, a folder that holds a
model, the id of the video made last. What needs another machine is named in ELSEWHERE with the place that runs it. A
command that no rule knows is run; nothing is left out without being told.

Servers are started in the background, waited for until they are ready, and stopped when the next one is started.

The table of configuration keys must be what the program prints; `--update` writes it.

usage: readme.py BINARY [PYTHON_WITH_OPENAI | --update]
"""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

from server import step, until

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
GOLDEN = ROOT / "server/cogvideox/tests/golden"
# What the README calls http://127.0.0.1:8000.
ADDRESS = "127.0.0.1:8000"
# What builds the program and runs it: here it is built already, and another choice of packages would build it anew.
CARGO_RUN = r"cargo run --release -p cogvideox-server --(?= )"
# Commands that are run by another part of CI, or by nobody on a machine like this: (pattern, where).
ELSEWHERE = [
    (r"^cargo test --release --workspace$", "by .ci/run, from the README"),
    (r"^eval .*toolkit\.sh|--features cuda|kit/make\.py", "by .ci/run: CUDA build and measuring kit"),
    (r"docker|^cp docker/", "by server/e2e/containers.py, which needs an engine"),
    (r"--device cuda", "nowhere: needs a GPU"),
    (r"cogvideox-(server|2b|5b|1\.5)? ?download | download cogvideox|--model cogvideox-",
     "with a hub of their own by the program's tests: needs the network"),
]
# The README's folders, and what stands for them here.
MODELS = {"/models/CogVideoX-2b": "2b", "/models/CogVideoX-5b-I2V": "5b-i2v", "/models/CogVideoX-5b": "5b"}


def blocks(text):
    """Language and text of each fenced block."""
    return [(found[1], found[2]) for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def commands(block):
    """The commands of a shell block: a line each, unless it ends in a backslash or a quote is open."""
    command = ""
    for line in block.splitlines():
        command += line + "\n"
        if not line.endswith("\\") and command.count("'") % 2 == 0:
            if command.strip():
                yield command.strip()
            command = ""
    assert not command, f"README: a command has no end: {command}"


def elsewhere(command):
    return next((where for pattern, where in ELSEWHERE if re.search(pattern, command)), None)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Reader:
    """Follows the README in a folder that takes what the commands leave."""

    def __init__(self, folder, binary, openai_python):
        self.folder, self.binary, self.openai_python = folder, binary, openai_python
        self.address = f"127.0.0.1:{free_port()}"
        self.environment = {**os.environ, "COGVIDEOX_DATA_DIR": str(folder / "data"),
                            "COGVIDEOX_SERVER__PORT": self.address.rpartition(":")[2]}
        self.server = None
        self.video = None
        self.models = {}
        for name, golden in MODELS.items():
            self.models[name] = folder / pathlib.Path(name).name
            shutil.copytree(GOLDEN / golden, self.models[name])

    def adapted(self, command):
        """The command with this machine's folders, port and video in it."""
        command = re.sub(CARGO_RUN, str(self.binary), command.replace(ADDRESS, self.address))
        for name, folder in sorted(self.models.items(), key=lambda pair: -len(pair[0])):
            command = command.replace(name, str(folder))
        if self.video:
            command = re.sub(r"\bID\b", self.video, command)
        # Results go to the folder, not into the tree.
        return re.sub(r"(-o |>> ?|> ?)([\w.-]+\.(?:mp4|webp|json))", rf"\1{self.folder}/\2", command)

    def run(self, command):
        where = elsewhere(command)
        if where:
            return step(f"not here, but {where}: {first_line(command)}")
        step(first_line(command))
        command = self.adapted(command)
        if " serve" in command:
            return self.serve(command)
        result = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, env=self.environment, capture_output=True,
                                text=True, timeout=600)
        assert result.returncode == 0, f"{command}: exit status {result.returncode}\n{result.stdout}{result.stderr}"
        self.remember(result.stdout)
        self.until_idle()
        return None

    def remember(self, output):
        """The id that a command's answer tells, for those that follow."""
        try:
            answer = json.loads(output)
        except ValueError:
            return
        assert "error" not in answer or answer["error"] is None, f"an error where none was expected: {output}"
        if answer.get("object") == "video":
            self.video = answer["id"]

    def until_idle(self):
        """The README's reader waits for a video before using it."""
        if self.server:
            until("the videos' end", lambda: not any(self.queue()[state] for state in ("queued", "in_progress")), 600)

    def queue(self):
        with urllib.request.urlopen(f"http://{self.address}/v1/queue", timeout=30) as answer:
            return json.loads(answer.read())

    def serve(self, command):
        self.stop()
        log = open(self.folder / "server.log", "w")
        self.server = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=ROOT, env=self.environment, stdout=log, stderr=log)
        until(f"readiness of {command}", self.ready, 600)

    def ready(self):
        assert self.server.poll() is None, (self.folder / "server.log").read_text()
        try:
            with urllib.request.urlopen(f"http://{self.address}/readyz", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError):
            return False

    def stop(self):
        if self.server:
            self.server.send_signal(signal.SIGTERM)
            self.server.wait(60)
            self.server = None

    def python(self, program):
        if not self.openai_python:
            return step("not here, but in .ci/run: the Python program, which needs the openai package")
        step("the Python program")
        result = subprocess.run([self.openai_python, "-W", "ignore", "-c", self.adapted(program)], cwd=self.folder, env=self.environment,
                                capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, result.stderr
        assert (self.folder / "video.mp4").stat().st_size > 1000, "expected the program to leave video.mp4"
        return None


def first_line(command):
    line, *more = command.splitlines()
    return line + (" .." if more else "")


def with_config_table(text, binary):
    """The README with the table of keys that the program prints."""
    table = subprocess.run([binary, "check-config", "--table"], check=True, capture_output=True, text=True).stdout
    begin, end = "<!-- config table: cogvideox-server check-config --table -->\n", "<!-- end of config table -->\n"
    before, found, after = text.partition(begin)
    assert found and end in after, f"README: expected {begin.strip()} and {end.strip()}"
    return before + begin + "\n" + table + "\n" + end + after.partition(end)[2]


def main(binary, openai_python=None):
    text = README.read_text()
    wanted = with_config_table(text, binary)
    if openai_python == "--update":
        return README.write_text(wanted)
    assert text == wanted, f"README: the table of keys is not what the code says: server/e2e/readme.py {binary} --update"
    ran = 0
    with tempfile.TemporaryDirectory(prefix="readme-") as folder:
        reader = Reader(pathlib.Path(folder), pathlib.Path(binary).resolve(), openai_python)
        try:
            for language, block in blocks(text):
                if language == "sh":
                    for command in commands(block):
                        reader.run(command)
                        ran += elsewhere(command) is None
                elif language == "python":
                    reader.python(block)
        finally:
            reader.stop()
    step(f"{ran} commands of the README ran")
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
