#!/usr/bin/env python3
"""Soak: thousands of small videos, a tenth of them cancelled; memory and open files must come to rest.

Sampled after every hundred. The rule has three parts. Over the second half of the run the resident memory's slope
(Theil-Sen: the median of the slopes between all pairs of samples, which a single peak does not move) is at most
`SLOPE_KIB` a video: a gigabyte would take a quarter of a million videos. From the first hundred to the end it grows by
at most `GROWTH_MIB`, which five database connections' caches (2 MiB each, filled as the tables grow) and the
allocator's pools (one a thread) account for. No sample has more than `FILES` open files above that of the first.

usage: soak.py BINARY [--jobs 2000] [--seed S] [--model DIR|demo]
"""
import argparse
import pathlib
import random
import statistics
import tempfile
import time

from audit import Audit
from report import Report, memory_mib, open_files
from server import Server, step

GOLDEN_MODEL = pathlib.Path(__file__).resolve().parents[1] / "cogvideox/tests/golden/2b"
IN_FLIGHT = 8
SAMPLE_EVERY = 100
SLOPE_KIB = 4.0
SLOPE_SAMPLES = 10
GROWTH_MIB = 24.0
FILES = 4
CANCELLED = 0.1


class Soak:
    def __init__(self, server, report, options):
        self.server, self.report, self.options = server, report, options
        self.rng = random.Random(options.seed)
        self.in_flight = []
        self.ended = dict.fromkeys(("completed", "cancelled", "failed"), 0)
        self.samples = []  # (videos, resident MiB, open files)

    def run(self):
        began = time.monotonic()
        submitted = 0
        while submitted < self.options.jobs or self.in_flight:
            while submitted < self.options.jobs and len(self.in_flight) < IN_FLIGHT:
                self.submit()
                submitted += 1
            self.collect()
            done = sum(self.ended.values())
            if done >= SAMPLE_EVERY * (len(self.samples) + 1):
                self.sample(done)
        self.report.number("videos", f"{self.ended} in {time.monotonic() - began:.0f} s")

    def submit(self):
        steps, cancelled = 1, self.rng.random() < CANCELLED
        if cancelled:
            # Long enough to be caught in the act as often as in the queue.
            steps = 50
        video_id = self.server.create(num_frames=9, num_inference_steps=steps)["id"]
        cancel_at = time.monotonic() + self.rng.uniform(0, 0.5) if cancelled else None
        self.in_flight.append((video_id, cancel_at))

    def collect(self):
        """Notes what has ended, and cancels what is due."""
        waiting = []
        for video_id, cancel_at in self.in_flight:
            if cancel_at is not None and time.monotonic() >= cancel_at:
                self.server.post(f"/v1/videos/{video_id}/cancel")
                cancel_at = None
            video = self.server.video(video_id)
            if video["completed_at"] is None:
                waiting.append((video_id, cancel_at))
            else:
                self.ended[video["state"]] += 1
        self.in_flight = waiting
        time.sleep(0.01)

    def sample(self, done):
        resident, _ = memory_mib(self.server.process.pid)
        self.samples.append((done, resident, open_files(self.server.process.pid)))
        print(f"  {done} videos: {resident:.1f} MiB, {self.samples[-1][2]} open files", flush=True)

    def judge(self):
        half = self.samples[len(self.samples) // 2:]
        pairs = [(b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(half) for b in half[i + 1:]]
        slope_kib = statistics.median(pairs) * 1024
        growth = statistics.median(mib for _, mib, _ in self.samples[-3:]) - self.samples[0][1]
        files = [opened for _, _, opened in self.samples]
        for count, mib, opened in self.samples:
            self.report.number(f"after {count} videos", f"{mib:.1f} MiB, {opened} open files")
        self.report.number("resident memory at most", f"{memory_mib(self.server.process.pid)[1]:.1f} MiB")
        rules = [(f"slope over the second half, from {half[0][0]} on", slope_kib, SLOPE_KIB, "KiB a video"),
                 ("growth after the first hundred", growth, GROWTH_MIB, "MiB"),
                 ("open files above the first hundred's", max(files) - files[0], FILES, "files")]
        # Fewer samples only show the caches being filled.
        if len(self.samples) < SLOPE_SAMPLES:
            rules = rules[1:]
        faults = []
        for name, found, most, unit in rules:
            self.report.number(name, f"{found:+.2f} {unit}", f"<= {most}", found <= most)
            if found > most:
                faults.append(f"{name}: {found:+.2f} {unit}, at most {most} may be")
        self.report.check("memory and open files at rest", len(self.samples), faults)
        audit = Audit(self.server.data_dir)
        self.report.check("every video accounted for", self.options.jobs,
                          [] if len(audit.rows) == self.options.jobs else [f"there are {len(audit.rows)}"])
        audit.report(self.report)
        self.report.check("none failed", self.options.jobs, ["some did"] if self.ended["failed"] else [])


def main():
    parser = argparse.ArgumentParser(description="Makes thousands of small videos and watches memory and files.")
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=2000, help="at least 200, and 1000 for the slope")
    parser.add_argument("--seed", type=int, default=1, help="of what is cancelled")
    parser.add_argument("--model", default=str(GOLDEN_MODEL), help="a model folder, or demo")
    options = parser.parse_args()
    report = Report(f"soak, --jobs {options.jobs} --seed {options.seed}, model {options.model}")
    config = {"model.path": options.model, "retention.min_free_mib": 0}
    with tempfile.TemporaryDirectory() as folder, Server(options.binary, folder, config) as server:
        step(f"{options.jobs} videos")
        soak = Soak(server, report, options)
        soak.run()
        soak.judge()
    report.finish()


if __name__ == "__main__":
    main()
