#!/usr/bin/env python3
"""docker/'s images and compose files, built and run by a real engine.

Builds the image for CPUs, and does with compose.cpu.yaml what docker/README.md tells: no start without a key, a key, a
start, a video; then what a year brings: kill -9 in mid-job, crashes, stops, `down` and `up`, an upgrade of a data folder
of the previous schema. Looks at what the container may do. Puts Prometheus and a TLS proxy beside it. Checks compose.yaml,
builds the image for GPUs (kernels for one kind of GPU), and looks whether all that it loads at run time is there; without
a GPU it is not run.

Where no image registry can be reached, containers_images.py makes stand-ins for the base images first. Takes half an hour
on two cores, most of it Rust; a second run with the same FOLDER takes what is built already. With --program the image for
CPUs is Dockerfile's last stage around that program, which takes seconds.

usage: containers.py [--folder FOLDER] [--only PART ..] [--program BINARY]
       as root, with docker.io, docker-compose and debootstrap
"""
import argparse
import json
import pathlib
import re
import sqlite3
import ssl
import subprocess
import sys
import time
import urllib.request

import media
from containers_built import DOCKER, ROOT, USER, built, image_says, wrapped
from containers_images import Engine, StandIns, run
from server import Client, equal, step, until

PROJECT = "cogvideox-containers"
PORT = 18000
# As in recovery.py: long enough to be met in the middle.
REQUEST = {"num_inference_steps": 150, "seed": 11, "guidance_scale": 5.5, "scheduler": "dpm"}
# What a test wants otherwise than the files have it: checkpoints at once, and ports that nothing else has.
OVERRIDE = """
services:
  server:
    environment:
      COGVIDEOX_WORKER__CHECKPOINT_INTERVAL_SECONDS: "0"
"""
ENVIRONMENT = {"CVX_PUBLISH": f"127.0.0.1:{PORT}", "CVX_PROMETHEUS": "127.0.0.1:18001", "CVX_HTTP": "127.0.0.1:18002",
               "CVX_HTTPS": "127.0.0.1:18003"}


class Compose:
    """docker-compose on some of docker/'s files, and the server that it runs."""

    def __init__(self, engine, *files):
        self.engine = engine
        self.override = engine.folder / "override.yaml"
        self.override.write_text(OVERRIDE)
        self.files = [part for file in (*(DOCKER / file for file in files), self.override) for part in ("-f", file)]
        self.environment = {**engine.environment, **ENVIRONMENT}
        self.client = Client(f"http://127.0.0.1:{PORT}")

    def __call__(self, *command, log=None):
        return run("docker-compose", "-p", PROJECT, *self.files, *command, env=self.environment, cwd="/", log=log)

    def answer(self, *command):
        """The exit status of a command that may fail, and what it says."""
        command = ["docker-compose", "-p", PROJECT, *self.files, *command]
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True, cwd="/")
        return result.returncode, result.stdout + result.stderr

    def container(self, service="server"):
        """Its id; none if there is none."""
        return self("ps", "-q", service).strip().splitlines()[-1:] or None

    def inspect(self, service="server"):
        found, = json.loads(self.engine.docker("inspect", *self.container(service)))
        return found

    def health(self):
        return self.inspect()["State"].get("Health", {}).get("Status")

    def until_healthy(self):
        """Waits until the engine says so; returns the seconds."""
        began = time.monotonic()
        until("health", lambda: self.health() == "healthy")
        return time.monotonic() - began

    def up(self):
        self("up", "-d", "server")
        return self.until_healthy()

    def volume(self, name="data"):
        """Where a volume lies on this machine."""
        found = self.engine.docker("volume", "inspect", "--format={{.Mountpoint}}", f"{PROJECT}_{name}")
        return pathlib.Path(found.strip())

    def logs(self, service="server"):
        return self("logs", "--no-color", service)


def cpu(engine, program):
    if program:
        wrapped(engine, program, "cogvideox-server:cpu")
    else:
        built(engine, "docker/Dockerfile", "cogvideox-server:cpu")
    image_says(engine, "cogvideox-server:cpu")
    compose = Compose(engine, "compose.cpu.yaml")
    compose("down", "-v")
    try:
        first_hour(compose)
        confined(compose)
        undisturbed = compose.client.completed(compose.client.create(**REQUEST)["id"])
        killed(compose, undisturbed)
        crashed(compose)
        stopped(compose, undisturbed)
        upgraded(compose)
        observed(compose)
        proxied(compose)
    except BaseException:
        print(compose.logs()[-4000:], file=sys.stderr)
        raise
    finally:
        beside(engine)("down", "-v")


def beside(engine):
    return Compose(engine, "compose.cpu.yaml", "compose.observability.yaml", "compose.proxy.yaml")


def first_hour(compose):
    step("up without a key: it says what to do")
    compose("up", "-d", "server")
    until("its word", lambda: "make a key first" in compose.logs())
    assert compose.health() != "healthy", "expected it not to be healthy"
    compose("down", "-v")

    step("a key, then up")
    code, said = compose.answer("run", "--rm", "server", "keys", "create", "me", "--scope", "admin")
    equal("exit status", code, 0)
    compose.client.key = re.search(r"cvx_\S+", said)[0]
    began = time.monotonic()
    compose.up()
    step(f"healthy {time.monotonic() - began:.0f} s after up")
    equal("health", compose("exec", "-T", "server", "cogvideox-server", "health").strip(), "ready")
    Client(compose.client.base).refused("GET", "/v1/videos", status=401)

    step("a prompt becomes an MP4")
    video = compose.client.create()
    with compose.client.events(video["id"]) as events:
        events.next("video.completed")
    media.check_magic("video", compose.client.content(video["id"]))
    path = compose.engine.folder / "video.mp4"
    path.write_bytes(compose.client.content(video["id"]))
    stream = media.probe(path)["streams"][0]
    step(f"{path.stat().st_size} bytes, {stream['width']}x{stream['height']}, {stream['nb_read_frames']} frames of {stream['codec_name']}")


def confined(compose):
    step("what the container may do: no root, no capability, nothing to write but its volumes")
    found = compose.inspect()
    host = found["HostConfig"]
    equal("read-only root", host["ReadonlyRootfs"], True)
    equal("restart policy", host["RestartPolicy"]["Name"], "unless-stopped")
    equal("log limits", host["LogConfig"], {"Type": "json-file", "Config": {"max-file": "5", "max-size": "10m"}})
    equal("stop timeout", found["Config"].get("StopTimeout"), 40)
    status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{found['State']['Pid']}/status").read_text().splitlines())
    equal("users", set(status["Uid"].split()), {str(USER)})
    equal("capabilities", (int(status["CapPrm"], 16), int(status["CapBnd"], 16)), (0, 0))
    equal("no new privileges", status["NoNewPrivs"], "1")
    code, said = compose.answer("exec", "-T", "server", "cogvideox-server", "backup", "/usr/local/backup")
    assert code and "Read-only file system" in said, f"backup into the root: expected it to be refused, found {said}"
    code, said = compose.answer("exec", "-T", "server", "cogvideox-server", "doctor")
    equal(f"doctor: {said}", code, 0)
    equal("owner of the data", compose.volume().stat().st_uid, USER)


def checkpointed(compose):
    video_id = compose.client.create(**REQUEST)["id"]
    return until("a checkpoint", lambda: ((video := compose.client.video(video_id))["checkpoint_step"] or 0) >= 3 and video)


def same_bytes(compose, video, undisturbed):
    done = compose.client.completed(video["id"])
    equal("sha256", done["sha256"], undisturbed["sha256"])
    return done


def killed(compose, undisturbed):
    step("docker-compose kill -s KILL in mid-job, and up: the same bytes as undisturbed")
    video = checkpointed(compose)
    compose("kill", "-s", "KILL", "server")
    equal("state", compose.inspect()["State"]["Status"], "exited")
    compose.up()
    done = same_bytes(compose, video, undisturbed)
    step(f"killed at step {video['step']}, done in attempt {done['attempt']}")


def crashed(compose):
    step("a crash: the engine starts it again by itself")
    before = compose.inspect()
    run("kill", "-KILL", before["State"]["Pid"])
    until("its return", lambda: compose.inspect()["RestartCount"] > before["RestartCount"])
    compose.until_healthy()
    compose.client.completed(compose.client.create()["id"])


def stopped(compose, undisturbed):
    step("stop in mid-job: in order, within the grace period")
    video = checkpointed(compose)
    began = time.monotonic()
    compose("stop", "server")
    seconds = time.monotonic() - began
    equal("exit status", compose.inspect()["State"]["ExitCode"], 0)
    assert seconds < 40, f"expected it to stop within 40 s, found {seconds:.0f} s"
    step(f"stopped in {seconds:.1f} s")

    step("down and up: key, videos and the one at hand are still there")
    videos = {found["id"] for found in videos_of(compose)} if compose.up() else set()
    compose("down")
    equal("containers", compose.container(), None)
    compose.up()
    equal("videos", {found["id"] for found in videos_of(compose)}, videos)
    same_bytes(compose, video, undisturbed)
    media.check_magic("video", compose.client.content(undisturbed["id"]))


def videos_of(compose):
    return compose.client.get("/v1/videos?limit=100").body["data"]


def upgraded(compose):
    step("upgrade: a data folder of the previous schema")
    compose.client.post("/v1/queue/pause")
    waiting = compose.client.create(seed=5)
    done = next(found for found in videos_of(compose) if found["status"] == "completed")
    compose("down")
    table = compose.volume() / "queue.sqlite"
    version = set_back(table)
    said = compose("run", "--rm", "server", "migrate", "--dry-run")
    assert "would be applied" in said, f"migrate --dry-run: expected something to do, found {said}"
    compose.up()
    said = compose("exec", "-T", "server", "cogvideox-server", "migrate", "--dry-run")
    assert "up to date" in said, f"migrate --dry-run: expected nothing to do, found {said}"
    media.check_magic("video", compose.client.content(done["id"]))
    compose.client.post("/v1/queue/resume")
    compose.client.completed(waiting["id"])
    step(f"from schema {version}: the key, a finished video and a waiting one came along")


def set_back(table):
    """Makes a job table what the release before would have left, with the same rows; returns that schema's number.

    The migrations up to that one are what made it; they are applied here as they are, and the rows copied over.
    """
    migrations = sorted((ROOT / "migrations/sqlite").glob("*.sql"))
    former = migrations[:-1]
    version = int(former[-1].name.split("_")[0])
    old = table.with_name("old.sqlite")
    with sqlite3.connect(old, isolation_level=None) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("ATTACH ? AS now", (str(table),))
        for migration in former:
            database.executescript(migration.read_text())
        schema, = database.execute("SELECT sql FROM now.sqlite_master WHERE name = '_sqlx_migrations'").fetchone()
        database.execute(schema)
        tables = [name for name, in database.execute(
            "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")]
        for name in tables:
            columns = ", ".join(f'"{column[1]}"' for column in database.execute(f'PRAGMA main.table_info("{name}")'))
            rows = f"WHERE version <= {version}" if name == "_sqlx_migrations" else ""
            database.execute(f'DELETE FROM main."{name}"')
            database.execute(f'INSERT INTO main."{name}" ({columns}) SELECT {columns} FROM now."{name}" {rows}')
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    for file in table.parent.glob("queue.sqlite*"):
        file.unlink()
    for file in table.parent.glob("old.sqlite*"):
        file.rename(file.with_name(file.name.replace("old", "queue")))
    for file in table.parent.glob("queue.sqlite*"):
        run("chown", f"{USER}:{USER}", file)
    return version


def observed(compose):
    step("Prometheus beside it (Grafana is not to be had here)")
    beside(compose.engine)("up", "-d", "server", "prometheus")
    compose.until_healthy()
    query = "http://127.0.0.1:18001/api/v1/query?query=cogvideox_ready"

    def ready():
        try:
            with urllib.request.urlopen(query, timeout=5) as answer:
                found = json.load(answer)["data"]["result"]
        except OSError:
            return None
        return [row["value"][1] for row in found] == ["1"]
    until("cogvideox_ready in Prometheus", ready)


def proxied(compose):
    step("TLS by Caddy: events pass as they come, metrics do not")
    beside(compose.engine)("up", "-d", "server", "proxy")
    compose.until_healthy()
    authority = compose.volume("proxy-data") / "caddy/pki/authorities/local/root.crt"
    until("Caddy's certificate", authority.exists)
    context = ssl.create_default_context(cafile=authority)
    urllib.request.install_opener(urllib.request.build_opener(urllib.request.HTTPSHandler(context=context)))
    client = Client("https://localhost:18003", compose.client.key)

    def answers():
        try:
            return client.open("GET", "/v1/videos").status == 200
        except OSError:
            return False
    until("the proxy", answers)
    equal("/metrics", client.open("GET", "/metrics").status, 404)
    video = client.create(**REQUEST)
    with client.events(video["id"]) as events:
        first = events.next("video.progress")
        equal("the video at its first event", client.video(video["id"])["status"], "in_progress")
        events.next("video.completed")
    step(f"an event at step {first.data['step']} of {REQUEST['num_inference_steps']} came while the video was being made")
    media.check_magic("video", client.content(video["id"]))


def gpu(engine, _program):
    step("compose.yaml: docker-compose config")
    compose = Compose(engine, "compose.yaml")
    said = compose("config")
    assert "driver: nvidia" in said and "capabilities:" in said, f"config: expected a GPU reserved, found {said}"
    tag = "cogvideox-server:cuda"
    built(engine, "docker/Dockerfile.cuda", tag, COGVIDEOX_CUDA_ARCHS="90a")
    wheels = [part for part in image_says(engine, tag) if part["purl"].startswith("pkg:pypi/")]
    assert len(wheels) == 3, f"SBOM: expected NVIDIA's three wheels, found {wheels}"

    step(f"{tag}: what it loads at run time finds what it needs")
    for library in ("libcublasLt.so.13", "libcudnn.so.9", "libcudnn_graph.so.9", "libcudnn_engines_precompiled.so.9",
                    "libcudnn_engines_runtime_compiled.so.9", "libcudnn_heuristic.so.9", "libnvrtc.so.13"):
        said = engine.docker("run", "--rm", "--env=LD_TRACE_LOADED_OBJECTS=1", "--entrypoint=/lib64/ld-linux-x86-64.so.2", tag,
                             f"/usr/local/cuda/lib64/{library}")
        assert "libc.so.6 => /" in said, f"{library}: expected what it is linked with, found {said}"
        # The driver's own comes with NVIDIA's runtime.
        missing = set(re.findall(r"(\S+) => not found", said)) - {"libcuda.so.1"}
        assert not missing, f"{library}: expected all that it needs, found none of {missing}"
    step(f"{tag}: without a GPU it says so")
    result = subprocess.run(["docker", "run", "--rm", "--read-only", tag, "generate", "--prompt", "a panda", "-o", "/tmp/x.mp4"],
                            env=engine.environment, capture_output=True, text=True)
    assert result.returncode == 1 and "cuda" in result.stderr.lower(), f"expected a word about CUDA, found {result}"
    step(result.stderr.strip().splitlines()[-1])
    plan = engine.docker("run", "--rm", "--read-only", tag, "bench", "--preset", "5b", "--random-weights", "--device", "plan")
    assert "MiB" in plan, f"bench --device plan: expected memory, found {plan}"


PARTS = {"cpu": cpu, "gpu": gpu}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--folder", default="/var/tmp/cogvideox-containers")
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    arguments.add_argument("--program", help="a cogvideox-server to put into the image for CPUs, instead of compiling it there")
    arguments.add_argument("--real-images", action="store_true", help="pull the base images instead of making stand-ins")
    arguments = arguments.parse_args()
    began = time.monotonic()
    with Engine(arguments.folder) as engine:
        step(f"the engine's storage driver is {engine.driver()}")
        if not arguments.real_images:
            for image in images():
                StandIns(engine).make(image)
                step(f"{image}: a stand-in of {engine.size_mb(image):.0f} MB")
        for part in arguments.only:
            PARTS[part](engine, arguments.program)
    step(f"all passed in {(time.monotonic() - began) / 60:.0f} minutes")


def images():
    """The base images that docker/'s files name, but Grafana's, of which there is no stand-in."""
    dockerfile = (DOCKER / "Dockerfile").read_text()
    found = [f"rust:{re.search(r'RUST_VERSION=(.*)', dockerfile)[1]}-bookworm", re.search(r"RUNTIME=(.*)", dockerfile)[1]]
    for name in ("compose.observability.yaml", "compose.proxy.yaml"):
        found += re.findall(r"image: ((?!grafana/)\S+)", (DOCKER / name).read_text())
    return found


if __name__ == "__main__":
    main()
