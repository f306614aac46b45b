#!/usr/bin/env python3
"""Makes the measuring kit: a folder of at most 60 MB that measures this program on a machine without network.

    python3 server/kit/make.py BINARY FOLDER      # then, there: python3 FOLDER/run.py

BINARY is a release build with `--features cuda` (README.md, Building); it is stripped and compressed. The golden
pipelines and diffusers' wheel go along; PyTorch, transformers, CUDA's and cuDNN's libraries are expected there.
Needs `strip`, and pip with access to PyPI.
"""
import hashlib
import json
import lzma
import pathlib
import shutil
import subprocess
import sys
import tempfile

SERVER = pathlib.Path(__file__).resolve().parents[1]
MOST_BYTES = 60_000_000
# diffusers as the goldens were made with, and what it needs beyond the packages that come with transformers.
WHEELS = ["diffusers==0.36.0", "importlib_metadata==8.7.0", "zipp==3.23.0"]
SCRIPTS = ["kit/run.py", "kit/table.py", "kit/peer.py", "e2e/goldens.py"]


def pack_binary(binary, folder):
    with tempfile.TemporaryDirectory() as temporary:
        stripped = pathlib.Path(temporary) / "stripped"
        subprocess.run(["strip", "-o", stripped, binary], check=True)
        (folder / "cogvideox-server.xz").write_bytes(lzma.compress(stripped.read_bytes()))


def download_wheels(folder):
    """Of pure Python, so that they run wherever the kit goes."""
    with tempfile.TemporaryDirectory() as temporary:
        subprocess.run([sys.executable, "-m", "venv", temporary], check=True)
        subprocess.run([f"{temporary}/bin/pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
                        "--implementation=py", "--abi=none", "--platform=any", "--dest", folder, *WHEELS], check=True)


def main(binary, folder):
    folder = pathlib.Path(folder)
    if folder.exists() and not (folder / "manifest.json").is_file():
        sys.exit(f"{folder}: exists and is no kit")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for script in SCRIPTS:
        shutil.copy(SERVER / script, folder)
    golden = SERVER / "cogvideox/tests/golden"
    for form in golden.glob("*/golden.json"):
        shutil.copytree(form.parent, folder / "goldens" / form.parent.name)
    pack_binary(binary, folder)
    download_wheels(folder / "wheels")
    commit = subprocess.run(["git", "-C", SERVER, "describe", "--always", "--dirty"], capture_output=True, text=True)
    (folder / "commit.txt").write_text(commit.stdout or "unknown\n")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    # Last: a folder without it is no whole kit.
    manifest = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    size = sum(path.stat().st_size for path in files)
    if size > MOST_BYTES:
        sys.exit(f"{folder}: {size} bytes, expected at most {MOST_BYTES}")
    print(f"{folder}: {len(files)} files, {size / 1e6:.1f} MB; there: python3 {folder.name}/run.py")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
