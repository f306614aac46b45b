"""The golden pipelines, which diffusers ran once, and how far the program's own run of one is from it.

Needs nothing but Python: the measuring kit (server/kit) carries it to machines that have no more.
"""
import array
import dataclasses
import json
import pathlib
import struct
import zlib

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "cogvideox/tests/golden"
DTYPES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}


def forms(folder=FOLDER):
    """The names of the pipelines."""
    return sorted(path.name for path in folder.iterdir() if (path / "golden.json").is_file())


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


@dataclasses.dataclass
class Difference:
    """Of the latents after the last step, and of the frames."""
    worst: float
    relative: float
    differing: int
    samples: int

    def fault(self, exact):
        """What is too far off, in words, or None. `exact`: both sides computed in f32."""
        if exact and not (self.worst <= 3e-4 and self.differing <= self.samples / 1000):
            return f"{self}: expected at most 3e-4, and one in 1000"
        if not exact and not self.relative <= 0.05:
            return f"{self}: expected at most 5 %"
        return None

    def __str__(self):
        return (f"latents differ by {self.worst:.1e} at most, {100 * self.relative:.2f} % (relative L2), "
                f"{self.differing} of {self.samples} samples")


class Golden:
    """The run of a pipeline with static guidance."""

    def __init__(self, model):
        self.model = model
        self.golden = json.loads((model / "golden.json").read_text())
        self.run = self.golden["runs"]["static"]
        self.dtype = DTYPES[self.golden["dtype"]]
        self.last = f"latents.{self.run['num_inference_steps'] - 1}"

    def command(self, binary, folder, dtype=None):
        """The program's arguments for the same run; it leaves dump.safetensors and out.mp4 in the folder."""
        run = self.run
        scheduler = "dpm" if "DPM" in run["scheduler"] else "ddim"
        command = [binary, "generate", "--model", self.model, "--prompt", self.golden["prompts"][run["prompt"]],
                   "--height", run["height"], "--width", run["width"], "--num-frames", run["num_frames"],
                   "--num-inference-steps", run["num_inference_steps"], "--guidance-scale", run["guidance_scale"],
                   "--use-dynamic-cfg=false", "--scheduler", scheduler, "--seed", self.golden["seed"] + 1,
                   "--dtype", dtype or self.dtype, "--initial-latents", f"{self.model}/golden.safetensors:latents.init",
                   "--dump", folder / "dump.safetensors", "-o", folder / "out.mp4"]
        if self.model.name.endswith("i2v"):
            command += ["--image", write_png(folder, *read_tensor(self.model / "golden.safetensors", "image.u8"))]
        return [str(part) for part in command]

    def difference(self, folder):
        """Of what `command` left in the folder."""
        dump, golden = folder / "dump.safetensors", self.model / "golden.safetensors"
        shape, found = read_tensor(dump, self.last)
        expected_shape, expected = read_tensor(golden, f"static.{self.last}")
        assert shape == expected_shape, f"{self.last}: expected {expected_shape}, found {shape}"
        frames, expected_frames = read_tensor(dump, "frames_u8")[1], read_tensor(golden, "static.frames_u8")[1]
        return Difference(
            worst=max(abs(a - b) for a, b in zip(found, expected)),
            relative=(sum((a - b) ** 2 for a, b in zip(found, expected)) / sum(b * b for b in expected)) ** 0.5,
            differing=sum(a != b for a, b in zip(frames, expected_frames, strict=True)),
            samples=len(frames))


def write_png(folder, shape, pixels):
    height, width, _ = shape
    rows = b"".join(b"\0" + bytes(pixels[y * width * 3:(y + 1) * width * 3]) for y in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path = folder / "image.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
                     + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    return path
