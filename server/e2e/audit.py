"""Whether a data folder is consistent: the rows, the events, the files and the answers over HTTP all tell one story.

Reads the database without writing to it, while the server runs but has nothing to do. Every check returns how much it
looked at and a list of sentences, one for each thing that is wrong.
"""
import hashlib
import json
import pathlib
import sqlite3
import subprocess

ENDS = ("completed", "failed", "cancelled")
# What may follow what, in the events of one video: (state, kind) -> state.
GRAMMAR = {
    ("new", "queued"): "queued",
    ("queued", "moved"): "queued",
    ("queued", "started"): "running",
    ("queued", "cancelled"): "ended",
    ("running", "queued"): "queued",
    ("running", "cancelling"): "cancelling",
    ("running", "completed"): "ended",
    ("running", "failed"): "ended",
    ("cancelling", "cancelled"): "ended",
    ("cancelling", "failed"): "ended",
    ("ended", "expired"): "ended",
    ("ended", "deleted"): "gone",
}
# What a clock that is read twice may differ by.
SLACK_MS = 50


class Audit:
    """The rows and events of a data folder, as they are now."""

    def __init__(self, data_dir, max_attempts=3):
        self.data_dir = pathlib.Path(data_dir)
        self.max_attempts = max_attempts
        database = sqlite3.connect(f"file:{self.data_dir}/queue.sqlite?mode=ro", uri=True, timeout=10)
        database.row_factory = sqlite3.Row
        self.integrity = [row[0] for row in database.execute("PRAGMA integrity_check")]
        self.rows = {row["id"]: row for row in database.execute("SELECT * FROM videos")}
        self.events = list(database.execute("SELECT * FROM events ORDER BY seq"))
        self.by_video = {}
        for event in self.events:
            self.by_video.setdefault(event["video_id"], []).append(event)
        database.close()

    def report(self, report):
        """The checks that hold for every data folder whose queue is empty."""
        report.check("database: integrity_check", 1, [] if self.integrity == ["ok"] else self.integrity)
        report.check("rows: settled, and as their events say", len(self.rows), self.row_faults())
        report.check("events: in a possible order, one end each", len(self.events), self.event_faults())
        report.check("files: every one of a row, whole", *self.file_faults())
        report.check("no temporary file, no checkpoint", 1, self.leftovers())

    def row_faults(self):
        for video_id, row in self.rows.items():
            kinds = [event["kind"] for event in self.by_video.get(video_id, [])]
            if row["status"] not in ENDS:
                yield f"{video_id} is {row['status']}"
            elif [kind for kind in kinds if kind in ENDS] != [row["status"]]:
                yield f"{video_id} is {row['status']}, its events are {kinds}"
            if (starts := kinds.count("started")) != row["attempt"]:
                yield f"{video_id} has attempt {row['attempt']} and {starts} starts"
            if row["checkpoint_step"] is not None:
                yield f"{video_id} is {row['status']} and has a checkpoint at step {row['checkpoint_step']}"
            if row["completed_at_ms"] is None or (row["status"] == "completed" and row["progress"] != 100):
                yield f"{video_id} is {row['status']} at {row['progress']} %, ended {row['completed_at_ms']}"
        for video_id, events in self.by_video.items():
            if (events[-1]["kind"] == "deleted") == (video_id in self.rows):
                there = "there" if video_id in self.rows else "gone"
                yield f"{video_id} is {there}, its last event is {events[-1]['kind']}"

    def event_faults(self):
        for video_id, events in self.by_video.items():
            state, starts = "new", 0
            for event in events:
                after = GRAMMAR.get((state, event["kind"]))
                starts += event["kind"] == "started"
                if after is None:
                    yield f"{video_id}: {event['kind']} while {state}, all: {[e['kind'] for e in events]}"
                    break
                if event["attempt"] != starts:
                    yield f"{video_id}: event {event['seq']} is of attempt {event['attempt']}, expected {starts}"
                state = after

    def file_faults(self):
        known, faults = {}, []
        for video_id, row in self.rows.items():
            if row["output_key"] is None or row["expired_at_ms"] is not None:
                continue
            files = [(row["output_key"], row["output_bytes"], row["output_sha256"])]
            for name in ("thumbnail", "spritesheet"):
                if row[name] is not None:
                    picture = json.loads(row[name])
                    files.append((picture["key"], picture["bytes"], picture["sha256"]))
            known |= {key: video_id for key, _, _ in files}
            faults += filter(None, (self.file_fault(video_id, *file) for file in files))
        there = {path.name for path in (self.data_dir / "videos").iterdir() if not path.name.endswith(".part")}
        faults += [f"{name} belongs to no video" for name in sorted(there - known.keys())]
        return len(known), faults

    def file_fault(self, video_id, key, length, sha256):
        path = self.data_dir / "videos" / key
        if not path.exists():
            return f"{video_id}: {key} is missing"
        content = path.read_bytes()
        if (len(content), hashlib.sha256(content).hexdigest()) != (length, sha256):
            return f"{video_id}: {key} has {len(content)} bytes, expected {length}, or another hash"
        return None

    def leftovers(self):
        videos, checkpoints = self.data_dir / "videos", self.data_dir / "checkpoints"
        yield from (str(path) for path in videos.glob("*.part"))
        yield from (str(path) for path in checkpoints.iterdir())

    def lost_faults(self, kills_ms):
        """A worker is only lost in a kill, and a video only given up after so many losses in a row."""
        checked, faults = 0, []
        for video_id, events in self.by_video.items():
            started_ms, in_a_row = None, 0
            for event in events:
                if event["kind"] == "started":
                    started_ms = event["at_ms"]
                if event["detail"] != "worker_lost":
                    in_a_row = in_a_row if event["kind"] == "started" else 0
                    continue
                checked, in_a_row = checked + 1, in_a_row + 1
                if not any(started_ms - SLACK_MS <= kill <= event["at_ms"] + SLACK_MS for kill in kills_ms):
                    faults.append(f"{video_id} lost its worker at {event['at_ms']} without a kill")
                if event["kind"] == "failed" and in_a_row < self.max_attempts:
                    faults.append(f"{video_id} was given up after {in_a_row} losses")
            row = self.rows.get(video_id)
            if row and row["status"] == "failed" and row["error_code"] != "worker_lost":
                faults.append(f"{video_id} failed: {row['error_code']} {row['error_message']}")
        return checked, faults

    def told_faults(self, durable):
        """What a follower heard, against the table: everything, once, in order."""
        expected = [(event["seq"], f"video.{event['kind']}", event["video_id"]) for event in self.events]
        if durable == expected:
            return []
        heard = [seq for seq, _, _ in durable]
        missed = sorted({seq for seq, _, _ in expected} - set(heard))
        twice = sorted({seq for seq in heard if heard.count(seq) > 1})
        other = [f"heard {a}, the table has {b}" for a, b in zip(durable, expected) if a != b][:1]
        return [f"missed {missed[:10]} ({len(missed)}), twice {twice[:10]} ({len(twice)})", *other]


def settled_twice(log_path):
    """Videos of which the worker's log says more than once that they were completed."""
    seen, twice = set(), []
    with open(log_path) as log:
        for line in log:
            if '"outcome":"completed"' not in line:
                continue
            video_id = json.loads(line)["span"]["job.id"]
            if video_id in seen:
                twice.append(f"{video_id} was completed twice")
            seen.add(video_id)
    return len(seen), twice


def unplayable(paths):
    """Files that ffprobe cannot read to their last frame."""
    for path in paths:
        command = ["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0", "-show_entries",
                   "stream=nb_read_frames,nb_frames", "-of", "json", path]
        result = subprocess.run(command, capture_output=True, text=True)
        streams = json.loads(result.stdout or "{}").get("streams") or [{}]
        if result.returncode or result.stderr or streams[0].get("nb_read_frames") != streams[0].get("nb_frames"):
            yield f"{path}: {result.stderr.strip()} {streams}"
