#!/usr/bin/env python3
"""Chaos: the server is killed at random instants, and its disk, database and clock fail it; nothing may be lost.

In the first and longest part clients submit, cancel, delete, retry, move, download and follow videos while the server
gets `kill -9` again and again; in the end the queue is drained and an audit compares what the clients were told, the
database, the files, and an undisturbed server's files of the same parameters. The other parts are in
`chaos_faults.py`, one fault each.

The model is by default the tiny one of the goldens: a video takes some hundredths of a second, so that a run sees
hundreds of videos in every stage of their lives. Needs Python's standard library and ffprobe; some parts need root or
faketime and say so where they are left out.

usage: chaos.py BINARY [--kills N] [--seed S] [--only PART,...] [--model DIR|demo]
"""
import argparse
import pathlib
import random
import re
import shutil
import tempfile
import threading
import time
import traceback

import chaos_faults
from audit import Audit, settled_twice, unplayable
from chaos_clients import Follower, Ledger, Meddler, Submitter
from report import Report
from server import Server, step, until

GOLDEN_MODEL = pathlib.Path(__file__).resolve().parents[1] / "cogvideox/tests/golden/2b"
SUBMITTERS = 3
PLAYED = 12
# Of the kills, how many come while the server is still starting, and how many as soon as a video's file is about to
# be written, where there is most to go wrong; the others come when the server has lived for so long.
EARLY_KILLS = 0.15
AIMED_KILLS = 0.25
AIM_SECONDS = (0.0, 0.02)
LIFE_SECONDS = (0.0, 2.5)
# Of the server's lives, how many are too short for a checkpoint, so that some videos are lost three times in vain.
LIVES_WITHOUT_CHECKPOINTS = 0.4
CONFIG = {"worker.checkpoint_interval_seconds": 0, "retention.min_free_mib": 0, "queue.capacity": 64}


def recipes(rng):
    """What is asked for: mostly short, some long enough to be killed more than once; equal ones give equal files."""
    steps = [1, 1, 2, 3, 5, 10, 20, 100, 300, 700]
    return [{"prompt": f"chaos {number}", "num_inference_steps": count, "num_frames": rng.choice([9, 17]),
             "scheduler": rng.choice(["ddim", "dpm"]), "seed": rng.getrandbits(31)}
            for number, count in enumerate(steps)]


class Killer:
    """Starts the server and kills it, and notes when."""

    def __init__(self, server, follower, rng):
        self.server, self.follower, self.rng = server, follower, rng
        self.kills_ms = []
        self.early = self.aimed = 0
        self.faults = []

    def kill_once(self):
        begun = time.time()
        interval = 3600 if self.rng.random() < LIVES_WITHOUT_CHECKPOINTS else 0
        self.server.configure({"worker.checkpoint_interval_seconds": interval})
        if (lot := self.rng.random()) < EARLY_KILLS:
            self.early += 1
            self.kill_while_starting(self.rng.uniform(0, 0.15))
        else:
            self.start(begun)
            if lot < EARLY_KILLS + AIMED_KILLS:
                self.aim()
            else:
                time.sleep(self.rng.uniform(*LIFE_SECONDS))
        if (code := self.server.process.poll()) not in (None, -9):
            self.faults.append(f"the server ended by itself with {code}")
        self.server.kill()
        self.kills_ms.append(time.time() * 1000)

    def aim(self):
        self.follower.storing.clear()
        self.aimed += self.follower.storing.wait(3)
        time.sleep(self.rng.uniform(*AIM_SECONDS))

    def start(self, begun):
        self.server.start(ready=False)
        for path in (self.server.data_dir / "videos").glob("*.part"):
            try:
                if path.stat().st_mtime < begun:
                    self.faults.append(f"{path.name} was left by the server before")
            except FileNotFoundError:
                pass

    def kill_while_starting(self, seconds):
        timer = threading.Timer(seconds, lambda: self.server.process.kill())
        timer.start()
        try:
            self.server.start(ready=False)
        except AssertionError:
            pass  # killed before it listened, which `start` does not expect
        timer.join()


def idle(server):
    line = server.get("/v1/queue").body
    return line["queued"] + line["in_progress"] == 0


def kills(report, folder, options):
    rng = random.Random(options.seed)
    ledger = Ledger(recipes(rng))
    server = Server(options.binary, folder / "kills", {**CONFIG, "model.path": options.model})
    server.start()
    follower = Follower(server, ledger, rng.random())
    meddlers = [Submitter(server, ledger, rng.random()) for _ in range(SUBMITTERS)]
    meddlers.append(Meddler(server, ledger, rng.random()))
    for client in (follower, *meddlers):
        client.start()
    killer = Killer(server, follower, rng)
    began = time.monotonic()
    time.sleep(1)
    server.kill()
    killer.kills_ms.append(time.time() * 1000)
    for number in range(1, options.kills):
        killer.kill_once()
        if number % 20 == 0:
            step(f"{number} kills, {len(ledger.jobs)} videos, {len(follower.durable)} events")
    server.configure(CONFIG)
    server.start()
    for client in meddlers:
        client.stopping.set()
    for client in meddlers:
        client.join(120)
    until("an empty queue", lambda: idle(server), 600)
    # In order, and once more from the start: the sweeps of a start have nothing left to do after it.
    server.stop()
    server.start()
    until("the sweep of the checkpoints", lambda: not any((server.data_dir / "checkpoints").iterdir()), 40)
    audit = Audit(server.data_dir)
    newest = audit.events[-1]["seq"]
    until("the follower", lambda: follower.durable and follower.durable[-1][0] >= newest, 60)
    follower.stopping.set()
    tell_numbers(report, server, killer, ledger, follower, audit, time.monotonic() - began)
    audit_all(report, server, killer, ledger, follower, audit)
    compare_with_undisturbed(report, folder, options, ledger, audit)
    server.kill()


def tell_numbers(report, server, killer, ledger, follower, audit, seconds):
    statuses = [row["status"] for row in audit.rows.values()]
    report.number("kill -9", f"{len(killer.kills_ms)} in {seconds:.0f} s, {killer.early} while starting, "
                              f"{killer.aimed} while a file was written")
    report.number("videos accepted", len(ledger.jobs))
    for status in ("completed", "cancelled", "failed"):
        report.number(f"videos {status}", statuses.count(status))
    report.number("videos deleted", sum(job.deleted for job in ledger.jobs.values()))
    report.number("attempts lost", sum(event["detail"] == "worker_lost" for event in audit.events))
    report.number("most attempts of one video", max(row["attempt"] for row in audit.rows.values()))
    resumed = sum(row["status"] == "completed" and row["attempt"] > 1 and row["furthest_step"] > 0
                  for row in audit.rows.values())
    report.number("videos completed after a loss, with checkpoints", resumed)
    swept = re.findall(r"Swept \{ orphans: (\d+), leftovers: (\d+)", server.log_path.read_text())
    report.number("files without a video / temporary files swept at starts",
                  " / ".join(str(sum(map(int, counts))) for counts in zip(*swept)))
    for what, count in ledger.counts.items():
        report.number(what, count)
    report.number("event streams opened", follower.connections)
    report.number("durable events / progress events heard", f"{len(follower.durable)} / {follower.progress}")


def audit_all(report, server, killer, ledger, follower, audit):
    jobs = ledger.jobs.values()
    report.check("server: never ended by itself, no .part left", len(killer.kills_ms), killer.faults)
    report.check("clients: every answer as expected", len(jobs), ledger.faults)
    report.check("accepted videos: there unless deleted, ended as asked", len(jobs), ended_as_asked(ledger, audit))
    audit.report(report)
    report.check("lost workers: only in kills, given up after 3", *audit.lost_faults(killer.kills_ms))
    report.check("no video made twice", *settled_twice(server.log_path))
    report.check("event stream: everything once, in order", len(audit.events), audit.told_faults(follower.durable))
    report.check("HTTP says what the database says", len(audit.rows), http_faults(server, audit))
    outputs = [row["output_key"] for row in audit.rows.values() if row["output_key"]]
    sample = random.Random(0).sample(outputs, min(PLAYED, len(outputs)))
    report.check("files play", len(sample), unplayable([server.data_dir / "videos" / key for key in sample]))


def ended_as_asked(ledger, audit):
    """Every accepted video is there unless it was deleted, and none is there that nobody was told of."""
    for job in ledger.jobs.values():
        row = audit.rows.get(job.id)
        if (row is None) != job.deleted:
            yield f"{job.id} is {'gone' if row is None else 'there'}, deleted: {job.deleted}"
        if row is None:
            continue
        if row["status"] == "cancelled" and not job.cancel_asked:
            yield f"{job.id} was cancelled, and nobody asked"
        if job.promised is not None and row["status"] != job.promised:
            yield f"{job.id} is {row['status']}, its canceller was told {job.promised}"
    for video_id in audit.rows.keys() - ledger.jobs.keys():
        yield f"{video_id} is there, and no client was told of it"


def http_faults(server, audit):
    for video_id, row in audit.rows.items():
        video = server.get(f"/v1/videos/{video_id}").body
        found = (video["state"], video["attempt"], video["bytes"], video["sha256"], (video["error"] or {}).get("code"))
        code = "cancelled" if row["status"] == "cancelled" else row["error_code"]
        expected = (row["status"], row["attempt"], row["output_bytes"], row["output_sha256"], code)
        if found != expected:
            yield f"{video_id}: HTTP {found}, row {expected}"


def compare_with_undisturbed(report, folder, options, ledger, audit):
    """The files of all completed videos have the bytes that a server makes which nobody disturbs."""
    with Server(options.binary, folder / "undisturbed", {**CONFIG, "model.path": options.model}) as server:
        ids = [server.create(**recipe)["id"] for recipe in ledger.recipes]
        hashes = [server.completed(video_id)["sha256"] for video_id in ids]
    completed = [(job, audit.rows[job.id]) for job in ledger.jobs.values()
                 if job.id in audit.rows and audit.rows[job.id]["status"] == "completed"]
    faults = [f"{job.id} (recipe {job.recipe}, attempt {row['attempt']}, furthest checkpoint {row['furthest_step']})"
              for job, row in completed if row["output_sha256"] != hashes[job.recipe]]
    report.check("bytes of an undisturbed run", len(completed), faults)


PARTS = {"kills": kills, **chaos_faults.PARTS}


def main():
    parser = argparse.ArgumentParser(description="Kills and starves the server; nothing may be lost.")
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=8, help="how often the server is killed (200 for the long run)")
    parser.add_argument("--seed", type=int, default=None, help="of what the clients and the killer do")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--model", default=str(GOLDEN_MODEL), help="a model folder, or demo")
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().getrandbits(32)
    report = Report(f"chaos, --kills {options.kills} --seed {options.seed}")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="chaos-"))
    for name in options.only.split(","):
        step(f"{name} (--seed {options.seed})")
        try:
            PARTS[name](report, folder, options)
        except Exception as error:  # the other parts still have something to tell
            traceback.print_exc()
            report.check(name, 1, [f"broke off: {type(error).__name__}: {error}"])
    if report.faults:
        step(f"the folders and logs are kept in {folder}")
    else:
        shutil.rmtree(folder)
    report.finish()


if __name__ == "__main__":
    main()
