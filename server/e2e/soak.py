#!/usr/bin/env python3
"""Soak: thousands of small videos, a tenth of them cancelled; memory and open files must come to rest.

Sampled after every hundred. The rule, for everything after the first hundreds have warmed the server up (`WARM_UP`):
the resident memory's slope (Theil-Sen: the median of the slopes between all pairs of samples, which a single peak does
not move) is at most `SLOPE_KIB` a video, its growth from the first three samples' median to the last three's at most
`GROWTH_MIB`, and no sample has more than `FILES` open files above the first.

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
WARM_UP = 1  # samples
SLOPE_KIB = 2.0
GROWTH_MIB = 8.0
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
        flat = self.samples[WARM_UP:]
        videos, resident, files = zip(*flat)
        pairs = [(b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(flat) for b in flat[i + 1:]]
        slope_kib = statistics.median(pairs) * 1024
        growth = statistics.median(resident[-3:]) - statistics.median(resident[:3])
        faults = []
        if slope_kib > SLOPE_KIB:
            faults.append(f"resident memory grows by {slope_kib:.2f} KiB a video, at most {SLOPE_KIB} may be")
        if growth > GROWTH_MIB:
            faults.append(f"resident memory grew by {growth:.1f} MiB, at most {GROWTH_MIB} may be")
        if max(files) > files[0] + FILES:
            faults.append(f"open files went from {files[0]} to {max(files)}, at most {FILES} more may be")
        for count, mib, opened in self.samples:
            self.report.number(f"after {count} videos", f"{mib:.1f} MiB, {opened} open files")
        _, most = memory_mib(self.server.process.pid)
        self.report.number("resident memory at most", f"{most:.1f} MiB")
        self.report.number(f"slope after the first {videos[0]}", f"{slope_kib:+.2f} KiB a video",
                           f"<= {SLOPE_KIB}", slope_kib <= SLOPE_KIB)
        self.report.number(f"growth after the first {videos[0]}", f"{growth:+.1f} MiB",
                           f"<= {GROWTH_MIB}", growth <= GROWTH_MIB)
        self.report.number("open files", f"{min(files)} to {max(files)}", f"<= {files[0]} + {FILES}",
                           max(files) <= files[0] + FILES)
        self.report.check("memory and open files at rest", len(self.samples), faults)
        audit = Audit(self.server.data_dir)
        self.report.check("every video accounted for", self.options.jobs,
                          [] if len(audit.rows) == self.options.jobs else [f"there are {len(audit.rows)}"])
        audit.report(self.report)
        self.report.check("none failed", self.options.jobs, ["some did"] if self.ended["failed"] else [])


def main():
    parser = argparse.ArgumentParser(description="Makes thousands of small videos and watches memory and files.")
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--jobs", type=int, default=2000, help="at least 500")
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
