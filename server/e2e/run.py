#!/usr/bin/env python3
"""End to end: the real binary, real HTTP, real files.

Starts `cogvideox-server serve` with the demo model in a temporary folder and walks the paths that a user walks:
create, follow the events, download, cancel, delete, be refused, survive `kill -9`, stop on SIGTERM. Then runs
`generate` and `tokenize` on the golden pipelines and compares with diffusers' own tensors.

Needs only Python's standard library and ffprobe.   usage: run.py BINARY
"""
import array
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "server/cogvideox/tests/golden"
BINARY = pathlib.Path(sys.argv[1]).resolve()


def step(text):
    print(f"e2e: {text}", flush=True)


class Server:
    """A running server on a port of the system's choice."""

    def __init__(self, data_dir):
        environment = {**os.environ, "COGVIDEOX_DATA_DIR": str(data_dir), "COGVIDEOX_SERVER__PORT": "0",
                       "COGVIDEOX_LOG__FORMAT": "json"}
        self.log = open(pathlib.Path(data_dir).parent / "server.log", "a+")
        begin = self.log.seek(0, os.SEEK_END)
        self.process = subprocess.Popen([BINARY, "serve"], env=environment, stderr=self.log)
        self.base = "http://" + self.wait_for(begin, r'"address":"([^"]+)"')
        self.until(lambda: self.get("/readyz", expect=None)[0] == 200)

    def wait_for(self, begin, pattern):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the server ended: {pathlib.Path(self.log.name).read_text()}"
            with open(self.log.name) as log:
                log.seek(begin)
                if found := re.search(pattern, log.read()):
                    return found.group(1)
            time.sleep(0.05)
        raise AssertionError(f"no {pattern} in the log")

    def until(self, condition, seconds=120):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "timed out"
            time.sleep(0.05)

    def call(self, method, path, body=None, headers=None, expect=200):
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {**({"content-type": "application/json"} if data else {}), **(headers or {})}
        request = urllib.request.Request(self.base + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                status, content, found = response.status, response.read(), response.headers
        except urllib.error.HTTPError as error:
            status, content, found = error.code, error.read(), error.headers
        assert found["x-request-id"], f"{method} {path}: no x-request-id"
        if expect is not None:
            assert status == expect, f"{method} {path}: {status} {content[:500]}"
        if "json" in (found["content-type"] or "") and content:
            content = json.loads(content)
        return status, content, found

    def get(self, path, **more):
        return self.call("GET", path, **more)

    def create(self, **fields):
        return self.call("POST", "/v1/videos", {"prompt": "a panda playing a guitar", **fields})[1]

    def events(self, video_id):
        """The whole stream as (event, data)."""
        with urllib.request.urlopen(f"{self.base}/v1/videos/{video_id}/events", timeout=120) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            event = None
            for line in response:
                field, _, value = line.decode().rstrip("\n").partition(": ")
                if field == "event":
                    event = value
                elif field == "data":
                    yield event, json.loads(value)

    def finished(self, video_id):
        def terminal():
            return self.get(f"/v1/videos/{video_id}")[1]["status"] not in ("queued", "in_progress")
        self.until(terminal)
        return self.get(f"/v1/videos/{video_id}")[1]


def multipart(fields):
    boundary = "e2e-boundary"
    parts = [f'--{boundary}\r\ncontent-disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    return "".join(parts + [f"--{boundary}--\r\n"]).encode(), {"content-type": f"multipart/form-data; boundary={boundary}"}


def probe(path):
    command = ["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0", "-show_streams", "-of", "json", path]
    result = subprocess.run(command, capture_output=True, check=True, text=True)
    assert not result.stderr, result.stderr
    return json.loads(result.stdout)["streams"][0]


def check_mp4(content, video, folder):
    path = folder / "video.mp4"
    path.write_bytes(content)
    stream = probe(path)
    expected = {"codec_name": "h264", "profile": "High", "pix_fmt": "yuv420p", "color_range": "tv", "color_space": "bt709",
                "width": video["width"], "height": video["height"], "r_frame_rate": f"{video['fps']}/1",
                "nb_read_frames": str(video["num_frames"])}
    found = {key: stream.get(key) for key in expected}
    assert found == expected, f"{found} is not {expected}"
    assert content.index(b"moov") < content.index(b"mdat"), "not faststart"


def http(folder):
    data_dir = folder / "data"
    server = Server(data_dir)

    step("create, follow the events to the end, download")
    video = server.create(num_inference_steps=10, seed=7)
    assert video["status"] in ("queued", "in_progress") and video["object"] == "video" and video["seed"] == 7
    events = list(server.events(video["id"]))
    assert events[0][0] == "video.snapshot", events[0]
    assert events[-1][0] == "video.completed", events[-1]
    steps = [data["step"] for name, data in events if name == "video.progress"]
    assert steps == sorted(steps) and steps[-1] == 10, steps
    done = server.get(f"/v1/videos/{video['id']}")[1]
    assert done["status"] == "completed" and done["progress"] == 100, done
    path = f"/v1/videos/{video['id']}/content"
    _, content, headers = server.get(path)
    check_mp4(content, done, folder)
    assert int(headers["content-length"]) == len(content) == done["bytes"]
    assert server.call("HEAD", path)[2]["content-length"] == headers["content-length"]
    _, part, _ = server.get(path, headers={"range": "bytes=0-1"}, expect=206)
    assert part == content[:2]
    server.get(path, headers={"if-none-match": headers["etag"]}, expect=304)
    undisturbed = done["sha256"]

    step("the same by a multipart form")
    body, headers = multipart({"prompt": "a cat", "num_inference_steps": "2", "seed": "1"})
    form = server.call("POST", "/v1/videos", body, headers)[1]
    assert server.finished(form["id"])["status"] == "completed"

    step("the list, and refusals")
    listed = server.get("/v1/videos?limit=1")[1]
    assert listed["data"][0]["id"] == form["id"] and listed["has_more"]
    refused = [({"prompt": ""}, "prompt"), ({"prompt": "x", "num_frames": 18}, "num_frames"),
               ({"prompt": "word " * 400}, "prompt"), ({"prompt": "x", "size": "100x100"}, "size"),
               ({"prompt": "x", "num_inference_steps": 61}, "num_inference_steps"), ({"prompt": "x", "colour": 1}, "colour")]
    for fields, param in refused:
        error = server.call("POST", "/v1/videos", fields, expect=400)[1]["error"]
        assert error["param"] == param and error["message"], (fields, error)
    assert server.call("POST", "/v1/videos", {"prompt": "x", "model": "none"}, expect=404)[1]["error"]["code"] == "model_not_found"
    truncated = server.create(prompt="word " * 400, truncate_prompt=True, num_inference_steps=1)
    assert truncated["prompt_truncated"] and truncated["prompt_tokens"] > 226, truncated
    server.get("/v1/nothing", expect=404)

    step("cancel a running one")
    running = server.create(num_inference_steps=1000)
    server.until(lambda: server.get(f"/v1/videos/{running['id']}")[1]["step"] > 0)
    server.call("POST", f"/v1/videos/{running['id']}/cancel")
    cancelled = server.finished(running["id"])
    assert cancelled["status"] == "failed" and cancelled["error"]["code"] == "cancelled", cancelled

    step("delete one that waits behind a running one, and that one too")
    running = server.create(num_inference_steps=1000)
    waiting = server.create(num_inference_steps=1000)
    for doomed in (waiting, running):
        assert server.call("DELETE", f"/v1/videos/{doomed['id']}")[1] == {"id": doomed["id"], "object": "video.deleted", "deleted": True}
        server.get(f"/v1/videos/{doomed['id']}", expect=404)

    step("kill -9 in the middle of a job, start again")
    killed = server.create(num_inference_steps=10, seed=7, priority=0)
    server.until(lambda: server.get(f"/v1/videos/{killed['id']}")[1]["step"] > 0)
    server.process.kill()
    server.process.wait()
    server = Server(data_dir)
    recovered = server.finished(killed["id"])
    assert recovered["status"] == "completed" and recovered["attempt"] == 2, recovered
    assert recovered["sha256"] == undisturbed, "not the bytes of the undisturbed run"

    step("SIGTERM in the middle of a job: orderly exit, the job is finished after the next start")
    interrupted = server.create(num_inference_steps=1000)
    server.until(lambda: server.get(f"/v1/videos/{interrupted['id']}")[1]["step"] > 0)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    server = Server(data_dir)
    assert server.get(f"/v1/videos/{interrupted['id']}")[1]["status"] in ("queued", "in_progress")
    server.call("POST", f"/v1/videos/{interrupted['id']}/cancel")
    assert server.finished(interrupted["id"])["error"]["code"] == "cancelled"
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 0


def read_tensor(path, key):
    """A tensor of a safetensors file as (shape, values); f16 and bf16 are widened."""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        info = header[key]
        begin = file.tell() + info["data_offsets"][0]
        file.seek(begin)
        raw = file.read(info["data_offsets"][1] - info["data_offsets"][0])
    dtype = info["dtype"]
    if dtype == "BF16":
        raw = b"".join(b"\0\0" + raw[i:i + 2] for i in range(0, len(raw), 2))
    if dtype == "F16":
        return info["shape"], [v[0] for v in struct.iter_unpack("<e", raw)]
    return info["shape"], array.array({"F32": "f", "BF16": "f", "U8": "B", "I64": "q"}[dtype], raw)


def parity(folder):
    for form in sorted(path.name for path in GOLDEN.iterdir() if (path / "golden.json").is_file()):
        model = GOLDEN / form
        golden = json.loads((model / "golden.json").read_text())
        run = golden["runs"]["static"]
        dtype = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}[golden["dtype"]]
        dump = folder / "dump.safetensors"
        scheduler = "dpm" if "DPM" in run["scheduler"] else "ddim"
        command = [BINARY, "generate", "--model", model, "--prompt", golden["prompts"][run["prompt"]], "--height", run["height"],
                   "--width", run["width"], "--num-frames", run["num_frames"], "--num-inference-steps", run["num_inference_steps"],
                   "--guidance-scale", run["guidance_scale"], "--use-dynamic-cfg=false", "--scheduler", scheduler,
                   "--seed", golden["seed"] + 1, "--dtype", dtype, "--initial-latents", f"{model}/golden.safetensors:latents.init",
                   "--dump", dump, "-o", folder / "out.mp4"]
        if form.endswith("i2v"):
            command += ["--image", write_png(folder, *read_tensor(model / "golden.safetensors", "image.u8"))]
        subprocess.run([str(part) for part in command], check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        last = f"latents.{run['num_inference_steps'] - 1}"
        shape, found = read_tensor(dump, last)
        expected_shape, expected = read_tensor(model / "golden.safetensors", f"static.{last}")
        assert shape == expected_shape
        if dtype == "f32":
            worst = max(abs(a - b) for a, b in zip(found, expected))
            frames, golden_frames = read_tensor(dump, "frames_u8")[1], read_tensor(model / "golden.safetensors", "static.frames_u8")[1]
            differing = sum(a != b for a, b in zip(frames, golden_frames, strict=True))
            step(f"generate {form}: latents differ by {worst:.1e} at most, {differing} of {len(frames)} samples")
            assert worst <= 3e-4 and differing <= len(frames) / 1000
        else:
            relative = (sum((a - b) ** 2 for a, b in zip(found, expected)) / sum(b * b for b in expected)) ** 0.5
            step(f"generate {form}: latents differ by {100 * relative:.2f} % (relative L2)")
            assert relative <= 0.05
        assert probe(folder / "out.mp4")["nb_read_frames"] == str(run["frames"][0])


def write_png(folder, shape, pixels):
    import zlib
    height, width, _ = shape
    rows = b"".join(b"\0" + bytes(pixels[y * width * 3:(y + 1) * width * 3]) for y in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path = folder / "image.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def tokens():
    lines = [json.loads(line) for line in (GOLDEN / "t5-tokenizer/prompts.jsonl").read_text().splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        # `tokenize` reads a model folder: the published tokenizer in a golden pipeline.
        model = pathlib.Path(folder) / "model"
        shutil.copytree(GOLDEN / "2b", model)
        shutil.copytree(GOLDEN / "t5-tokenizer", model / "tokenizer", dirs_exist_ok=True)
        prompts = "".join(json.dumps(line["prompt"]) + "\n" for line in lines)
        result = subprocess.run([BINARY, "tokenize", "--model", model], input=prompts, capture_output=True, check=True, text=True)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(answers) == len(lines)
    for line, answer in zip(lines, answers):
        ids = line["ids"][:226] if len(line["ids"]) <= 226 else line["ids"][:225] + [1]
        assert answer["ids"][:len(ids)] == ids and not any(answer["ids"][len(ids):]), line["prompt"]
        assert answer["untruncated_len"] == line["untruncated_len"], line["prompt"]
    step(f"tokenize: {len(lines)} prompts, every id equal")


if __name__ == "__main__":
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        http(pathlib.Path(temporary))
        parity(pathlib.Path(temporary))
        tokens()
    step(f"all passed in {time.monotonic() - started:.0f} s")
