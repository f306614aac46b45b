"""The project's own images: building them, and looking at what they say and are made of."""
import json
import pathlib
import re
import shutil
import subprocess
import sys

from containers_images import run
from server import equal, step

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
USER = 65532
CYCLONEDX = "cyclonedx-python-lib[json-validation]==11.12.0"


def built(engine, file, tag, **arguments):
    """Builds it twice: from what is there, and again with every layer kept."""
    log = engine.folder / f"build-{tag.replace(':', '-')}.log"
    step(f"building {tag} (see {log})")
    seconds = engine.build(file, tag, log, **arguments)
    again = engine.build(file, tag, log, **arguments)
    step(f"{tag}: built in {seconds:.0f} s, again in {again:.0f} s; {engine.size_mb(tag):.0f} MB")


def wrapped(engine, program, tag):
    """The image that Dockerfile's last stage makes, with a program that was built elsewhere."""
    step(f"{tag}: Dockerfile's last stage around {program}")
    folder = engine.folder / "wrapped"
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("data", "models"):
        (folder / "out" / name).mkdir(parents=True)
    shutil.copy(program, folder / "out/cogvideox-server")
    shutil.copy(ROOT / "LICENSE", folder)
    sbom = subprocess.run([sys.executable, DOCKER / "sbom.py"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    (folder / "out/sbom.cdx.json").write_bytes(sbom)
    text = (DOCKER / "Dockerfile").read_text()
    arguments = re.findall(r"^ARG .*=.*$", text.partition("FROM")[0], re.MULTILINE)
    stage = text[text.rindex("\nFROM"):].replace("--from=build ", "").replace(" /out/", " out/")
    (folder / "Dockerfile").write_text("\n".join(arguments) + stage)
    engine.build(folder / "Dockerfile", tag, engine.folder / "build-wrapped.log", context=folder)
    step(f"{tag}: {engine.size_mb(tag):.0f} MB")


def image_says(engine, tag):
    step(f"{tag}: who it runs as, how it is stopped and looked at, what it is made of")
    found, = json.loads(engine.docker("image", "inspect", tag))
    config = found["Config"]
    equal("user", config["User"], f"{USER}:{USER}")
    equal("stop signal", config["StopSignal"], "SIGTERM")
    equal("health check", config["Healthcheck"]["Test"], ["CMD", "cogvideox-server", "health"])
    labels = {name.removeprefix("org.opencontainers.image.") for name in config["Labels"]}
    missing = {"title", "description", "licenses", "version", "revision", "created", "base.name"} - labels
    assert not missing, f"labels: expected all, found none for {missing}"
    sbom = file_of(engine, tag, "/usr/share/doc/cogvideox-server/sbom.cdx.json")
    path = engine.folder / "sbom.json"
    path.write_bytes(sbom)
    python = engine.folder / "venv/bin/python"
    if not python.exists():
        run(sys.executable, "-m", "venv", engine.folder / "venv")
        run(python, "-m", "pip", "install", "-q", CYCLONEDX)
    check = ("import sys; from cyclonedx.schema import SchemaVersion; from cyclonedx.validation.json import JsonStrictValidator;"
             "fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read()); sys.exit(fault and str(fault))")
    run(python, "-c", check, path)
    components = json.loads(sbom)["components"]
    assert any(part["name"] == "axum" for part in components), "SBOM: expected axum in it"
    step(f"{tag}: the SBOM has {len(components)} components and holds against CycloneDX 1.6")
    return components


def file_of(engine, tag, path):
    """A file in an image, without running it."""
    container = engine.docker("create", tag).strip()
    target = engine.folder / "file"
    engine.docker("cp", "-L", f"{container}:{path}", target)
    engine.docker("rm", "-v", container)
    return target.read_bytes()
