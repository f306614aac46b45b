"""The program's numbers against diffusers' own: `generate` on the golden pipelines, tensor by tensor, and `tokenize`."""
import array
import json
import pathlib
import shutil
import struct
import subprocess
import zlib

import media
from server import equal, step

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "cogvideox/tests/golden"


def walk(binary, folder):
    generate(binary, folder)
    tokenize(binary, folder)


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


def generate(binary, folder):
    for form in sorted(path.name for path in GOLDEN.iterdir() if (path / "golden.json").is_file()):
        model = GOLDEN / form
        golden = json.loads((model / "golden.json").read_text())
        run = golden["runs"]["static"]
        dtype = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}[golden["dtype"]]
        dump = folder / "dump.safetensors"
        scheduler = "dpm" if "DPM" in run["scheduler"] else "ddim"
        command = [binary, "generate", "--model", model, "--prompt", golden["prompts"][run["prompt"]], "--height", run["height"],
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
        equal(f"{form}: shape of {last}", shape, expected_shape)
        if dtype == "f32":
            worst = max(abs(a - b) for a, b in zip(found, expected))
            frames, golden_frames = read_tensor(dump, "frames_u8")[1], read_tensor(model / "golden.safetensors", "static.frames_u8")[1]
            differing = sum(a != b for a, b in zip(frames, golden_frames, strict=True))
            step(f"generate {form}: latents differ by {worst:.1e} at most, {differing} of {len(frames)} samples")
            assert worst <= 3e-4 and differing <= len(frames) / 1000, f"{form}: expected at most 3e-4, and one in 1000"
        else:
            relative = (sum((a - b) ** 2 for a, b in zip(found, expected)) / sum(b * b for b in expected)) ** 0.5
            step(f"generate {form}: latents differ by {100 * relative:.2f} % (relative L2)")
            assert relative <= 0.05, f"{form}: expected at most 5 %"
        equal(f"{form}: frames", media.probe(folder / "out.mp4")["streams"][0]["nb_read_frames"], str(run["frames"][0]))


def write_png(folder, shape, pixels):
    height, width, _ = shape
    rows = b"".join(b"\0" + bytes(pixels[y * width * 3:(y + 1) * width * 3]) for y in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path = folder / "image.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path


def tokenize(binary, folder):
    lines = [json.loads(line) for line in (GOLDEN / "t5-tokenizer/prompts.jsonl").read_text().splitlines()]
    # `tokenize` reads a model folder: the published tokenizer in a golden pipeline.
    model = folder / "model"
    shutil.copytree(GOLDEN / "2b", model)
    shutil.copytree(GOLDEN / "t5-tokenizer", model / "tokenizer", dirs_exist_ok=True)
    prompts = "".join(json.dumps(line["prompt"]) + "\n" for line in lines)
    command = [binary, "tokenize", "--model", model]
    result = subprocess.run(command, input=prompts, capture_output=True, check=True, text=True)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    equal("lines", len(answers), len(lines))
    for line, answer in zip(lines, answers):
        ids = line["ids"][:226] if len(line["ids"]) <= 226 else line["ids"][:225] + [1]
        assert answer["ids"][:len(ids)] == ids and not any(answer["ids"][len(ids):]), (
            f"{line['prompt']!r}: expected {ids}, found {answer['ids']}")
        equal(f"tokens of {line['prompt']!r}", answer["untruncated_len"], line["untruncated_len"])
    step(f"tokenize: {len(lines)} prompts, every id equal")
