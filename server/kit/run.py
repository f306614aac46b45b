#!/usr/bin/env python3
"""Measures this program on the machine it was carried to, beside diffusers, in under nine minutes and without network.

    python3 run.py [--device cuda:0]

For a machine with an NVIDIA driver, CUDA 13's cuBLASLt, cuDNN, PyTorch, transformers and accelerate. It checks what
it carries, runs every kernel against its reference and every golden pipeline on the GPU, times the 2B and the 5B
model with random weights, and diffusers at the same shapes, and tells how far 8 bits lead the latents astray. Nothing stops it early: a stage that fails or takes too
long is told at the end. Results go to the folder $OUT, or ./results, as they come: results.json, log.txt, and
table.txt, which is also printed last. Without a GPU it says so, checks what it carries, counts memory plans, and runs
the goldens on the CPU.
"""
import argparse
import ctypes
import hashlib
import importlib.util
import json
import lzma
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import zipfile

from goldens import Golden, forms
from table import table

KIT = pathlib.Path(__file__).resolve().parent
# Everything is over by then; what one stage leaves unused, the later ones may have.
TOTAL_SECONDS = 525
# What is timed: preset, the dtype that its authors advise, steps.
PRESETS = [("5b", "bf16", 4), ("2b", "f16", 6)]
# And the transformer alone in other ways: preset, options.
VARIANTS = [
    ("5b", ["--dtype", "fp8"]), ("5b", ["--dtype", "int8"]), ("5b", ["--dtype", "bf16", "--memory-limit", "6GiB"]),
    ("5b", ["--dtype", "bf16", "--algorithms", "measured"]), ("5b", ["--dtype", "bf16", "--algorithms", "own"]),
    ("5b", ["--dtype", "int8", "--algorithms", "own"]),
]
# What 8 bits cost: preset, dtype.
QUALITIES = [("5b", "fp8"), ("2b", "fp8"), ("2b", "int8")]
QUALITY_STEPS = 4


def with_libraries():
    """The environment in which our program finds the libraries that PyTorch brought with it, which it finds by itself."""
    spec = importlib.util.find_spec("nvidia")
    found = [str(folder) for root in (spec.submodule_search_locations if spec else []) for folder in sorted(pathlib.Path(root).glob("*/lib"))]
    before = os.environ.get("LD_LIBRARY_PATH")
    return dict(os.environ, LD_LIBRARY_PATH=":".join(found + ([before] if before else [])))


OURS = with_libraries()


class Run:
    """What has been found so far, on disk after each stage."""

    def __init__(self, out):
        self.out, self.begin = out, time.monotonic()
        out.mkdir(parents=True, exist_ok=True)
        self.log = open(out / "log.txt", "w")
        self.results = {"stages": [], "goldens": [], "kernels": [], "bench": {}, "variants": [], "loading": {}, "quality": {}, "peer": {}}

    def left(self):
        return TOTAL_SECONDS - (time.monotonic() - self.begin)

    def stage(self, name, seconds, work):
        """Runs one part with so many seconds of its own; a failure is noted and the next part goes on."""
        begin = time.monotonic()
        print(f"== {name}", flush=True)
        self.log.write(f"\n== {name}\n")
        self.log.flush()
        try:
            self.limit = begin + min(seconds, self.left())
            verdict = work() or "ok"
        except Exception as error:  # the other stages do not depend on this one
            verdict = f"FAILED: {error or type(error).__name__}"
        print(f"   {verdict} ({time.monotonic() - begin:.0f} s)", flush=True)
        self.results["stages"].append({"name": name, "verdict": verdict, "seconds": round(time.monotonic() - begin, 1)})
        self.save()

    def save(self):
        temporary = self.out / "results.json.partial"
        temporary.write_text(json.dumps(self.results, indent=1))
        temporary.replace(self.out / "results.json")

    def command(self, command, environment=None):
        """The lines of a command's stdout as they come, until its end; after the stage's time it is killed."""
        self.log.write(f"$ {' '.join(str(part) for part in command)}\n")
        self.log.flush()
        with tempfile.TemporaryFile("w+") as stdout:
            child = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=stdout, stderr=self.log,
                                     env=environment or OURS, start_new_session=True)
            try:
                status = child.wait(max(1, self.limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                status = None
            finally:
                # Compilers that it started go with it.
                try:
                    os.killpg(child.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                child.wait()
            stdout.seek(0)
            lines = stdout.read().splitlines()
        self.log.write("".join(f"{line}\n" for line in lines))
        self.log.flush()
        return lines, status


def ended(status):
    """How a command ended, for people."""
    return {None: "took too long", 0: "exit status 0"}.get(status, f"exit status {status}, see log.txt")


def contents():
    """Every file of the manifest, and no other."""
    manifest = json.loads((KIT / "manifest.json").read_text())
    found = {str(path.relative_to(KIT)) for path in KIT.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    found = {name for name in found if not name.startswith("results/")} - {"manifest.json"}
    assert found == set(manifest), f"missing or unknown: {sorted(found ^ set(manifest))}"
    for name, digest in manifest.items():
        assert hashlib.sha256((KIT / name).read_bytes()).hexdigest() == digest, f"{name}: not the file that was packed"
    return f"ok, {len(manifest)} files as they were packed"


def unpack(folder):
    """The program and Python packages, where they can be run."""
    binary = folder / "cogvideox-server"
    binary.write_bytes(lzma.decompress((KIT / "cogvideox-server.xz").read_bytes()))
    binary.chmod(0o755)
    for wheel in sorted((KIT / "wheels").glob("*.whl")):
        zipfile.ZipFile(wheel).extractall(folder / "site")
    return binary


def gpus():
    """How many GPUs the driver knows; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def objects(lines):
    """The lines that are JSON."""
    return [json.loads(line) for line in lines if line.startswith("{")]


def kernels(run, binary, device, *options):
    lines, status = run.command([binary, "selftest", "--device", device, "--json", *options])
    found = objects(lines)
    cases = [line for line in found if "name" in line]
    run.results["kernels"] += cases
    libraries = [line["library"] for line in found if "library" in line]
    run.results["libraries"] = run.results.get("libraries") or libraries
    missing = [note for note in libraries if "own kernels" in note]
    assert not missing or "--own-kernels" in options, "; ".join(missing)
    wrong = [case["name"] for case in cases if not case["passed"]]
    assert cases and not wrong and status == 0, f"{len(wrong)} of {len(cases)} wrong {wrong[:5]}, {ended(status)}"
    return f"ok, {len(cases)} cases"


def golden_runs():
    """Each golden in its own dtype; in the other dtypes the one that draws no noise, which dtypes round differently."""
    for form in forms(KIT / "goldens"):
        golden = Golden(KIT / "goldens" / form)
        yield golden, golden.dtype
        if golden.dtype == "f32" and "noise_draws" not in golden.run:
            yield from ((golden, dtype) for dtype in ("f16", "bf16"))


def goldens(run, binary, device):
    faults = []
    for golden, dtype in golden_runs():
        name = f"{golden.model.name} in {dtype}"
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            _, status = run.command(golden.command(binary, folder, dtype) + ["--device", device])
            if status == 0:
                difference = golden.difference(folder)
                fault, found = difference.fault(exact=dtype == "f32"), str(difference)
            else:
                fault = found = ended(status)
        run.results["goldens"].append({"name": name, "found": found, "fault": fault})
        faults += [f"{name}: {fault}"] if fault else []
        print(f"   {name}: {found}", flush=True)
    assert not faults, "; ".join(faults)


def bench(run, binary, device, preset, dtype, steps):
    lines, status = run.command([binary, "bench", "--preset", preset, "--random-weights", "--dtype", dtype, "--steps", steps,
                                 "--device", device, "--json"])
    results = objects(lines)
    for found in results:
        run.results["bench"].setdefault(preset, {}).update(found)
    assert results and status == 0, f"{len(results)} lines of JSON, {ended(status)}"
    assert run.results["bench"][preset]["output_is_finite"], "measured, but what a step computed is not finite"


def variant(run, binary, device, preset, options):
    """A step in another way; the first line says how, the second what it took."""
    lines, status = run.command([binary, "bench", "--preset", preset, "--random-weights", "--steps", 3, "--stages", "transformer",
                                 "--device", device, "--json", *options])
    found = {}
    for line in objects(lines):
        found.update(line)
    run.results["variants"].append({"preset": preset, "options": options, **found})
    assert "seconds_per_step" in found and status == 0, ended(status)
    assert found["output_is_finite"], "measured, but what a step computed is not finite"
    return f"ok, {found['seconds_per_step']:.3f} s per step, {found['peak_bytes'] / 2**30:.1f} GiB"


def loading(run, binary, device):
    """From this machine's disk; the share is of the slower of disk and bus."""
    lines, status = run.command([binary, "bench", "--preset", "5b", "--random-weights", "--stages", "load", "--device", device, "--json"])
    for line in objects(lines):
        run.results["loading"].update({name: value for name, value in line.items() if name.endswith(("_second", "_slower", "_bus"))})
    found = run.results["loading"]
    assert found and status == 0, ended(status)
    return f"ok, {found['loading_gb_per_second']:.1f} GB/s, {100 * found['loading_share_of_the_slower']:.0f} % of the slower of disk and bus"


def quality(run, binary, device, preset, dtype):
    lines, status = run.command([binary, "bench", "--quality", "--preset", preset, "--random-weights", "--dtype", dtype,
                                 "--steps", QUALITY_STEPS, "--device", device, "--json"])
    errors = [found["relative_error"] for found in objects(lines) if "step" in found]
    run.results["quality"][f"{preset} {dtype}"] = errors
    assert len(errors) == QUALITY_STEPS and status == 0, f"{len(errors)} of {QUALITY_STEPS} steps, {ended(status)}"
    return "ok, relative error of the latents " + ", ".join(f"{error:.4f}" for error in errors)


def plans(run, binary):
    """What `bench` can do without a GPU."""
    lines, status = run.command([binary, "bench", "--preset", "2b", "--random-weights", "--device", "plan", "--json"])
    peaks = [found["peak_bytes"] for found in objects(lines)]
    assert peaks and min(peaks) > 0 and status == 0, f"{len(peaks)} plans, {ended(status)}"
    return f"ok, {len(peaks)} plans"


def unmeasured(run, binary):
    """`bench --quality` says what it lacks: CUDA, or the driver."""
    _, status = run.command([binary, "bench", "--quality", "--preset", "tiny", "--random-weights", "--dtype", "int8", "--device", "cuda"])
    assert status == 1, f"expected exit status 1, found {ended(status)}"


def peer(run, site, preset, steps):
    environment = dict(os.environ, PYTHONPATH=f"{site}:{os.environ.get('PYTHONPATH', '')}", PYTHONUNBUFFERED="1", HF_HUB_OFFLINE="1")
    lines, status = run.command([sys.executable, "-W", "ignore", KIT / "peer.py", preset, steps], environment)
    run.results["peer"][preset] = objects(lines)
    failed = [f"{line['field']} {line['variant']}" for line in run.results["peer"][preset] if "error" in line]
    assert not failed and status == 0, "; ".join(failed + [ended(status)])


def stages(run, options, folder):
    run.stage("contents", 30, contents)
    binary = unpack(folder)
    count = gpus()
    run.results["commit"] = (KIT / "commit.txt").read_text().strip()
    run.results["machine"] = {"gpus": count, "python": sys.version.split()[0], "cores": os.cpu_count()}
    if not count:
        print("no GPU here: nothing is measured; the goldens run on the CPU, to see that the program runs", flush=True)
        run.stage("bench: memory plans", 120, lambda: plans(run, binary))
        run.stage("bench --quality without a GPU", 10, lambda: unmeasured(run, binary))
        run.stage("goldens on the CPU", 200, lambda: goldens(run, binary, "cpu"))
        return
    run.stage("machine", 15, lambda: " ".join(run.command(
        ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit", "--format=csv"])[0]))
    run.stage("kernels against references", 45, lambda: kernels(run, binary, options.device))
    for preset, dtype, steps in PRESETS:
        run.stage(f"bench {preset}", 70, lambda: bench(run, binary, options.device, preset, dtype, steps))
    for preset, dtype, steps in PRESETS:
        run.stage(f"diffusers {preset}", 150, lambda: peer(run, folder / "site", preset, steps))
    run.stage("kernels at real sizes, sampled", 60, lambda: kernels(run, binary, options.device, "--real-sizes"))
    run.stage("own kernels against references", 45, lambda: kernels(run, binary, options.device, "--own-kernels"))
    run.stage("own kernels at real sizes, sampled", 60, lambda: kernels(run, binary, options.device, "--own-kernels", "--real-sizes"))
    run.stage("goldens", 60, lambda: goldens(run, binary, options.device))
    run.stage("loading", 60, lambda: loading(run, binary, options.device))
    for preset, how in VARIANTS:
        run.stage(f"{preset} {' '.join(how)}", 40, lambda: variant(run, binary, options.device, preset, how))
    for preset, dtype in QUALITIES:
        run.stage(f"quality of {preset} {dtype}", 40, lambda: quality(run, binary, options.device, preset, dtype))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="what the program runs on (default: cuda)")
    options = parser.parse_args()
    run = Run(pathlib.Path(os.environ.get("OUT") or "results").resolve())
    with tempfile.TemporaryDirectory() as folder:
        stages(run, options, pathlib.Path(folder))
    text = table(run.results)
    (run.out / "table.txt").write_text(text)
    print(text, end="", flush=True)
    sys.exit(any(stage["verdict"].startswith("FAILED") for stage in run.results["stages"]))


if __name__ == "__main__":
    main()
