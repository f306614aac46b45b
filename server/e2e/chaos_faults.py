"""The parts of a chaos run that each take one thing away from the server: room on the disk, the right to write, the
database, the clock, a checkpoint. Nothing may be lost, the server must keep answering or end with one clear line, and
all must be well once the thing is back.

Parts that mount something need root; they say so where they are left out.
"""
import contextlib
import os
import pathlib
import sqlite3
import subprocess
import time

from audit import Audit, unplayable
from server import Server, equal, step, until

CONFIG = {"worker.checkpoint_interval_seconds": 0, "retention.min_free_mib": 0, "queue.capacity": 64,
          # So that a video whose worker could not write its end is taken up again while the test looks.
          "queue.lease_seconds": 4}
DISK_MIB = 24
LONG_STEPS = 900


def server_for(folder, options, config=None):
    return Server(options.binary, folder, {**CONFIG, "model.path": options.model, **(config or {})})


def audited(report, name, server, expected):
    """The general checks, and that the videos are as expected: {id: the statuses that are right}."""
    until("an empty queue", lambda: settled(server), 120)
    audit = Audit(server.data_dir)
    faults = [f"{video_id} is {audit.rows[video_id]['status'] if video_id in audit.rows else 'gone'}, expected {right}"
              for video_id, right in expected.items()
              if video_id not in audit.rows or audit.rows[video_id]["status"] not in right]
    report.check(f"{name}: every video accounted for", len(expected), faults)
    for what, found in (("rows", audit.row_faults()), ("events", audit.event_faults()),
                        ("files", audit.file_faults()[1]), ("left over", audit.leftovers()),
                        ("playable", unplayable((server.data_dir / "videos").glob("*.mp4")))):
        report.check(f"{name}: {what}", len(audit.rows), found)
    return audit


def settled(server):
    line = server.get("/v1/queue").body
    return line["queued"] + line["in_progress"] == 0


def answers(server):
    """Whether it lives, and how fast it tells of a list."""
    began = time.monotonic()
    equal("livez", server.get("/livez").status, 200)
    server.get("/v1/videos?limit=100")
    return time.monotonic() - began


@contextlib.contextmanager
def mounted(*command, at):
    at.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *map(str, command), str(at)], check=True, capture_output=True, text=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def is_root(name):
    if os.geteuid() != 0:
        step(f"{name}: left out, it needs root to mount a file system")
    return os.geteuid() == 0


def fill(path):
    """Takes all the room that there is."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def disk_full(report, folder, options):
    """ENOSPC under everything: the database, the checkpoints and the files."""
    folder = folder / "full"
    if not is_root("disk-full"):
        return
    with mounted("-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", at=folder / "data"):
        with server_for(folder, options) as server:
            expected = {server.completed(server.create(num_inference_steps=2)["id"])["id"]: ("completed",)}
            server.post("/v1/queue/pause")
            waiting = [server.create(num_inference_steps=20, seed=number)["id"] for number in range(6)]
            server.post("/v1/queue/resume")
            server.until_step(server.create(num_inference_steps=LONG_STEPS, priority=9)["id"])
            running = server.get("/v1/videos?limit=1").body["data"][0]["id"]
            fill(server.data_dir / "filler")
            try_to_submit(report, "disk full", server)
            (server.data_dir / "filler").unlink()
            expected |= dict.fromkeys([*waiting, running], ("completed", "failed"))
            began = time.monotonic()
            after = server.create(num_inference_steps=2)["id"]
            server.completed(after)
            report.number("disk full: first video after there is room again", f"{time.monotonic() - began:.1f} s")
            expected[after] = ("completed",)
            audit = audited(report, "disk full", server, expected)
            codes = {row["error_code"] for row in audit.rows.values() if row["error_code"]}
            for status in ("completed", "failed"):
                found = [row["status"] for row in audit.rows.values()].count(status)
                report.number(f"disk full: videos {status} in the end", found)
            report.check("disk full: what failed says storage_failed", len(audit.rows), codes - {"storage_failed"})
            floor_reached(report, server)


def files_refused(report, folder, options):
    """There is room for rows, but not for files: a video whose file cannot be kept has failed, and says why."""
    if not is_root("files-refused"):
        return
    with server_for(folder / "files", options) as server:
        fine = server.completed(server.create(num_inference_steps=2)["id"])["id"]
        with mounted("-t", "tmpfs", "-o", "size=4k", "tmpfs", at=server.data_dir / "videos"):
            failed = [server.finished(server.create(num_inference_steps=2)["id"]) for _ in range(3)]
        codes = [(video["error"] or {}).get("code") for video in failed]
        report.check("no room for files: failed as storage_failed", 3,
                     [f"{video['id']}: {code}" for video, code in zip(failed, codes) if code != "storage_failed"])
        again = server.post(f"/v1/videos/{failed[0]['id']}/retry").body["id"]
        server.completed(again)
        expected = {fine: ("completed",), again: ("completed",)} | {video["id"]: ("failed",) for video in failed}
        audited(report, "no room for files", server, expected)


def try_to_submit(report, name, server):
    """Reads go on; what cannot be written is refused with an error of the server's own."""
    slowest, told, faults = 0, [], []
    for number in range(10):
        slowest = max(slowest, answers(server))
        answer = server.call("POST", "/v1/videos", {"prompt": "x", "num_inference_steps": 1}, expect=None)
        told.append(f"{answer.status} {'' if answer.status == 200 else answer.body['error']['code']}".strip())
        if answer.status not in (200, 503):
            faults.append(f"submission {number}: {answer.status} {answer.body}")
        time.sleep(0.3)
    report.check(f"{name}: the server answers", 10, faults)
    report.number(f"{name}: slowest read", f"{slowest * 1000:.0f} ms")
    report.number(f"{name}: submissions", ", ".join(f"{told.count(word)} x {word}" for word in sorted(set(told))))
    ready = server.call("GET", "/readyz", expect=None)
    report.number(f"{name}: /readyz", f"{ready.status} {ready.body['reasons']}")


def floor_reached(report, server):
    """Below `retention.min_free_mib` nothing new is taken, before anything breaks."""
    server.stop()
    server.configure({"retention.min_free_mib": 10 * DISK_MIB})
    server.start(ready=False)
    until("the model", lambda: server.call("GET", "/readyz", expect=None).body["status"] != "starting")
    faults = []
    answer = server.call("POST", "/v1/videos", {"prompt": "x"}, expect=None)
    if (answer.status, answer.body["error"]["code"]) != (503, "insufficient_storage"):
        faults.append(f"expected 503 insufficient_storage, found {answer.status} {answer.body}")
    ready = server.call("GET", "/readyz", expect=None)
    report.number("disk floor: /readyz", f"{ready.status} {ready.body['reasons']}")
    until("the oldest files to go", lambda: not any((server.data_dir / "videos").iterdir()), 40)
    for video in server.get("/v1/videos?limit=100").body["data"]:
        if video["status"] == "completed" and video["state"] != "expired":
            faults.append(f"{video['id']} has no file and is {video['state']}")
    report.check("disk floor: refused with 503, old files expired", 1, faults)


def read_only(report, folder, options):
    """A file system that cannot be written, at the start and from one moment to the next."""
    folder = folder / "read-only"
    if not is_root("read-only"):
        return
    image = folder / "image"
    folder.mkdir()
    with open(image, "wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    server = server_for(folder, options)
    with mounted("-o", "loop,errors=remount-ro", image, at=folder / "data"):
        server.start()
        done = server.completed(server.create(num_inference_steps=2)["id"])["id"]
        long = server.create(num_inference_steps=LONG_STEPS, seed=1)["id"]
        server.until_step(long, 5)
        break_file_system(image)
        try_to_submit(report, "read-only in mid-run", server)
        report.check("read-only in mid-run: the finished file is served", 1,
                     [] if server.get(f"/v1/videos/{done}/content").status == 200 else ["it is not"])
        server.kill()
        start_on_read_only(report, "broken file system", server)
    subprocess.run(["fsck.ext4", "-p", image], capture_output=True)
    with mounted("-o", "loop", image, at=folder / "data"), server:
        audited(report, "after read-only", server, {done: ("completed",), long: ("completed",)})
        server.stop()
        subprocess.run(["mount", "-o", "remount,ro", folder / "data"], check=True)
        start_on_read_only(report, "existing data", server)
    fresh = server_for(folder / "fresh", options)
    with mounted("-t", "tmpfs", "-o", "ro", "tmpfs", at=fresh.data_dir):
        start_on_read_only(report, "empty data folder", fresh)


def break_file_system(image):
    """Has the kernel find an error, upon which it lets nothing be written any more."""
    loop = subprocess.run(["losetup", "-j", image], check=True, capture_output=True, text=True).stdout.split(":")[0]
    pathlib.Path(f"/sys/fs/ext4/{pathlib.Path(loop).name}/trigger_fs_error").write_text("1")


def start_on_read_only(report, name, server):
    """It must end, and say in one line why, naming what cannot be written."""
    result = subprocess.run([server.binary, "serve"], env=server.environment, capture_output=True, text=True, timeout=30)
    errors = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    faults = []
    if result.returncode == 0 or len(errors) != 1 or str(server.data_dir) not in errors[0]:
        faults.append(f"exit status {result.returncode}, expected one line that names the folder, found {errors}")
    report.check(f"read-only at the start ({name}): one clear line", 1, faults)
    report.number(f"read-only at the start ({name})", errors[-1] if errors else "nothing said")


def database_busy(report, folder, options):
    """Another process holds the database's write lock for longer than the server waits for it."""
    with server_for(folder / "busy", options) as server:
        running = server.create(num_inference_steps=LONG_STEPS)["id"]
        server.until_step(running)
        other = sqlite3.connect(server.data_dir / "queue.sqlite", timeout=10, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        began, slowest, faults, accepted = time.monotonic(), 0, [], []
        told = []
        while time.monotonic() - began < 10:
            slowest = max(slowest, answers(server))
            answer = server.call("POST", "/v1/videos", {"prompt": "x", "num_inference_steps": 1}, expect=None)
            told.append(answer.status)
            if answer.status == 200:
                accepted.append(answer.body["id"])
            elif answer.status != 503:
                faults.append(f"{answer.status} {answer.body}")
        other.execute("ROLLBACK")
        other.close()
        if slowest > 1:
            faults.append(f"a read took {slowest:.1f} s")
        report.number("database busy for 10 s: submissions", told)
        report.number("database busy for 10 s: slowest read", f"{slowest * 1000:.0f} ms")
        report.check("database busy for 10 s: the server answers", 1, faults)
        accepted.append(server.create(num_inference_steps=1)["id"])
        audit = audited(report, "database busy", server, dict.fromkeys([running, *accepted], ("completed",)))
        report.number("database busy: attempts of the video at hand", audit.rows[running]["attempt"])


def clock_back(report, folder, options):
    """The wall clock jumps back by an hour while videos wait and run."""
    library = next(iter(pathlib.Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
    if library is None:
        step("clock-back: left out, libfaketime is not installed")
        return
    shift = folder / "clock-shift"
    shift.write_text("+0")
    server = server_for(folder / "clock", options, {"queue.lease_seconds": 60})
    server.environment |= {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(shift), "FAKETIME_NO_CACHE": "1",
                           "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with server:
        done = server.completed(server.create(num_inference_steps=2)["id"])["id"]
        running = server.create(num_inference_steps=LONG_STEPS)["id"]
        server.until_step(running)
        shift.write_text("-1h")
        now = server.create(num_inference_steps=3, headers={"idempotency-key": "clock"})
        behind = server.video(done)["created_at"] - now["created_at"]
        report.check("clock jumps back: the server sees it", 1,
                     [] if 3500 < behind < 3700 else [f"it is {behind} s behind, expected 3600"])
        again = server.create(num_inference_steps=3, headers={"idempotency-key": "clock"})
        report.check("clock jumps back: a submission is still known", 1,
                     [] if again["id"] == now["id"] else [f"{now['id']} and {again['id']}"])
        before = server.completed(running)
        report.check("clock jumps back: the video at hand is not disturbed", 1,
                     [] if before["attempt"] == 1 else [f"attempt {before['attempt']}"])
        second = server.create(num_inference_steps=LONG_STEPS)["id"]
        server.until_step(second)
        shift.write_text("-2h")
        server.kill()
        server.start()
        audit = audited(report, "clock jumps back", server,
                        dict.fromkeys([done, running, now["id"], second], ("completed",)))
        report.number("clock jumps back, and kill -9: attempts", audit.rows[second]["attempt"])


def corrupt_checkpoint(report, folder, options):
    """What is not a checkpoint of this very video is refused, and the video starts over; one that is, is used."""
    with server_for(folder / "checkpoint", options) as server:
        recipe = {"num_inference_steps": LONG_STEPS, "seed": 11}
        expected = server.completed(server.create(**recipe)["id"])["sha256"]
        faults, first_steps = [], {}
        for name, damage in DAMAGES.items():
            video_id = server.create(**recipe)["id"]
            step_kept = until("a checkpoint", lambda: kept_at_least(server, video_id, LONG_STEPS // 5))
            # Held, so that the stream is there before the next attempt begins.
            server.post("/v1/queue/pause")
            server.kill()
            path, = (server.data_dir / "checkpoints").glob("*.ckpt")
            damage(path)
            server.start()
            with server.events(video_id) as stream:
                server.post("/v1/queue/resume")
                # Not those of the text encoder, which count no steps.
                steps = (event.data["step"] for event in stream if event.name == "video.progress")
                first_steps[name] = next(filter(None, steps))
            video = server.completed(video_id)
            if video["sha256"] != expected or video["attempt"] != 2:
                faults.append(f"{name}: attempt {video['attempt']}, other bytes: {video['sha256'] != expected}")
            if name == "intact" and first_steps[name] < step_kept:
                faults.append(f"intact: kept step {step_kept}, went on at {first_steps[name]}")
            if name != "intact" and first_steps[name] >= step_kept:
                faults.append(f"{name}: kept step {step_kept}, went on at {first_steps[name]}")
        report.check("checkpoints: damaged ones start over, with the right bytes", len(DAMAGES), faults)
        report.number("checkpoints: first step told after each damage", first_steps)


def kept_at_least(server, video_id, least):
    kept = server.video(video_id)["checkpoint_step"]
    return kept if kept and kept >= least else None


def flip_bit(path, share):
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 16
    path.write_bytes(content)


DAMAGES = {
    "intact": lambda path: None,
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "one byte short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "a bit in its head": lambda path: flip_bit(path, 0.02),
    "a bit in its middle": lambda path: flip_bit(path, 0.5),
    "its last byte": lambda path: flip_bit(path, 0.999999),
    "gone": lambda path: path.unlink(),
}

PARTS = {"disk-full": disk_full, "files-refused": files_refused, "read-only": read_only, "busy": database_busy,
         "clock": clock_back, "checkpoint": corrupt_checkpoint}
