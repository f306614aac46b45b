#!/usr/bin/env python3
"""End to end: the real binary, real HTTP, real files.

Starts `cogvideox-server serve` with the demo model in a temporary folder and walks the paths that a user walks:
create, follow the events, download, cancel, delete, be refused, survive `kill -9`, stop on SIGTERM. Then runs
`generate` and `tokenize` on the golden pipelines and compares with diffusers' own tensors.

Needs only Python's standard library and ffprobe.   usage: run.py BINARY
"""
import array
import json
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

from server import Server, step

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "server/cogvideox/tests/golden"
BINARY = pathlib.Path(sys.argv[1]).resolve()


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
    with Server(BINARY, folder) as server:
        walk(server, folder)


def walk(server, folder):
    step("create, follow the events to the end, download")
    video = server.create(num_inference_steps=10, seed=7)
    assert video["status"] in ("queued", "in_progress") and video["object"] == "video" and video["seed"] == 7
    with server.events(video["id"]) as stream:
        events = list(stream)
    assert events[0].name == "video.snapshot", events[0]
    assert events[-1].name == "video.completed", events[-1]
    steps = [event.data["step"] for event in events if event.name == "video.progress"]
    assert steps == sorted(steps) and steps[-1] == 10, steps
    done = server.completed(video["id"])
    assert done["progress"] == 100, done
    path = f"/v1/videos/{video['id']}/content"
    _, content, headers = server.get(path)
    check_mp4(content, done, folder)
    assert int(headers["content-length"]) == len(content) == done["bytes"]
    assert server.call("HEAD", path).headers["content-length"] == headers["content-length"]
    part = server.get(path, headers={"range": "bytes=0-1"}, expect=206).body
    assert part == content[:2]
    server.get(path, headers={"if-none-match": headers["etag"]}, expect=304)
    undisturbed = done["sha256"]

    step("the same by a multipart form")
    body, headers = multipart({"prompt": "a cat", "num_inference_steps": "2", "seed": "1"})
    form = server.call("POST", "/v1/videos", body, headers).body
    server.completed(form["id"])

    step("the list, and refusals")
    listed = server.get("/v1/videos?limit=1").body
    assert listed["data"][0]["id"] == form["id"] and listed["has_more"]
    refused = [({"prompt": ""}, "prompt"), ({"prompt": "x", "num_frames": 18}, "num_frames"),
               ({"prompt": "word " * 400}, "prompt"), ({"prompt": "x", "size": "100x100"}, "size"),
               ({"prompt": "x", "num_inference_steps": 61}, "num_inference_steps"), ({"prompt": "x", "colour": 1}, "colour")]
    for fields, param in refused:
        server.refused("POST", "/v1/videos", fields, status=400, param=param)
    server.refused("POST", "/v1/videos", {"prompt": "x", "model": "none"}, status=404, code="model_not_found")
    truncated = server.create(prompt="word " * 400, truncate_prompt=True, num_inference_steps=1)
    assert truncated["prompt_truncated"] and truncated["prompt_tokens"] > 226, truncated
    server.get("/v1/nothing", expect=404)

    step("cancel a running one")
    running = server.create(num_inference_steps=1000)
    server.until_step(running["id"])
    server.post(f"/v1/videos/{running['id']}/cancel")
    cancelled = server.finished(running["id"])
    assert cancelled["status"] == "failed" and cancelled["error"]["code"] == "cancelled", cancelled

    step("delete one that waits behind a running one, and that one too")
    running = server.create(num_inference_steps=1000)
    waiting = server.create(num_inference_steps=1000)
    for doomed in (waiting, running):
        deleted = server.call("DELETE", f"/v1/videos/{doomed['id']}").body
        assert deleted == {"id": doomed["id"], "object": "video.deleted", "deleted": True}, deleted
        server.get(f"/v1/videos/{doomed['id']}", expect=404)

    step("kill -9 in the middle of a job, start again")
    killed = server.create(num_inference_steps=10, seed=7, priority=0)
    server.until_step(killed["id"])
    server.kill()
    server.start()
    recovered = server.completed(killed["id"])
    assert recovered["attempt"] == 2, recovered
    assert recovered["sha256"] == undisturbed, "not the bytes of the undisturbed run"

    step("SIGTERM in the middle of a job: orderly exit, the job is finished after the next start")
    interrupted = server.create(num_inference_steps=1000)
    server.until_step(interrupted["id"])
    server.stop()
    server.start()
    assert server.video(interrupted["id"])["status"] in ("queued", "in_progress")
    server.post(f"/v1/videos/{interrupted['id']}/cancel")
    assert server.finished(interrupted["id"])["error"]["code"] == "cancelled"
    server.stop(with_signal=signal.SIGINT)


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
