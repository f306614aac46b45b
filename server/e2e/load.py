#!/usr/bin/env python3
"""Load: ten thousand waiting videos, two thousand readers of one, and what each costs.

Submits over HTTP while the queue is held, and compares the latencies of an empty queue with those of a full one; lets
an idle worker claim; has thousands of readers follow one video and counts what each was told; and reads the server's
memory from the kernel at each stage. What the generator itself and the disk cost is measured with it, so that the
numbers can be judged.

The model is by default the tiny one of the goldens, of three megabytes: the memory is the server's own.

usage: load.py BINARY [--queued 10000] [--readers 2000] [--model DIR|demo] [--dir DIR]
"""
import argparse
import asyncio
import json
import os
import pathlib
import random
import resource
import tempfile
import time

from audit import Audit
from http_load import Connection, Reader, closed_loop, request
from report import Report, memory_mib, open_files, percentile
from server import Server, step

GOLDEN_MODEL = pathlib.Path(__file__).resolve().parents[1] / "cogvideox/tests/golden/2b"
CONNECTIONS = 8
OPENING_AT_ONCE = 50
CLAIMS = 30
READER_STEPS = 150
GOALS_MS = {"submit": 10, "get": 5}
MEMORY_GOAL_MIB = 150


def submission(**fields):
    return request("POST", "/v1/videos", {"prompt": "load", "num_frames": 9, "num_inference_steps": 1, **fields})


class Load:
    """A server under load, and the report of it."""

    def __init__(self, server, report, options):
        self.server, self.report, self.options = server, report, options
        self.address = server.base.removeprefix("http://")
        self.rng = random.Random(0)
        self.ids = []

    def memory(self, when, goal=False):
        now, most = memory_mib(self.server.process.pid)
        goals = (f"< {MEMORY_GOAL_MIB} MiB", most < MEMORY_GOAL_MIB) if goal else (None, None)
        files = open_files(self.server.process.pid)
        self.report.number(f"memory {when}", f"{now:.0f} MiB, at most {most:.0f}, {files} open files", *goals)

    def latency(self, name, latencies_ms, goal_ms=None):
        p50, p99 = percentile(latencies_ms, 50), percentile(latencies_ms, 99)
        goal = (f"p99 <= {goal_ms} ms", p99 <= goal_ms) if goal_ms else (None, None)
        self.report.number(name, f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, most {max(latencies_ms):.1f} ms", *goal)

    async def own_costs(self):
        for connections in (1, CONNECTIONS):
            latencies_ms, _, seconds = await closed_loop(self.address, connections, [request("GET", "/livez")] * 4000)
            self.latency(f"GET /livez, {connections} connections ({4000 / seconds:.0f}/s)", latencies_ms)

    def disk(self):
        """What it takes to sync four kilobytes, as a commit does at least once."""
        latencies_ms = []
        with open(self.server.folder / "sync", "wb", buffering=0) as file:
            for _ in range(300):
                began = time.perf_counter()
                file.write(bytes(4096))
                os.fdatasync(file)
                latencies_ms.append((time.perf_counter() - began) * 1000)
        self.latency("the disk's own fdatasync", latencies_ms)

    async def submit(self, count, connections):
        latencies_ms, bodies, seconds = await closed_loop(self.address, connections, [submission()] * count)
        self.ids += [json.loads(body)["id"] for body in bodies]
        return latencies_ms, count / seconds

    async def latencies(self, when, goals=False):
        """Of each sort of request, by one client and by several at once."""
        goal = GOALS_MS if goals else {}
        for connections in (1, CONNECTIONS):
            many = f"{connections} connection{'s' * (connections > 1)}"
            # The goals are for one client at a time: several at once mostly wait for each other's turn at the disk.
            first = connections == 1
            latencies_ms, rate = await self.submit(500, connections)
            self.latency(f"submit, {when}, {many} ({rate:.0f}/s)", latencies_ms, first and goal.get("submit"))
            gets = [request("GET", f"/v1/videos/{self.rng.choice(self.ids)}") for _ in range(2000)]
            latencies_ms, _, seconds = await closed_loop(self.address, connections, gets)
            self.latency(f"get, {when}, {many} ({2000 / seconds:.0f}/s)", latencies_ms, first and goal.get("get"))
            lists = [request("GET", f"/v1/videos?limit=100&after={self.rng.choice(self.ids)}") for _ in range(300)]
            latencies_ms, _, seconds = await closed_loop(self.address, connections, lists)
            self.latency(f"list of 100, {when}, {many} ({300 / seconds:.0f}/s)", latencies_ms)

    async def claims(self):
        """From the request to the event that says the worker has begun, one video after the other."""
        connection = await Connection.open(self.address)
        latencies_ms = []
        for _ in range(CLAIMS):
            latencies_ms.append(await self.until_started(connection, submission()))
            while (await self.line(connection))["in_progress"]:
                await asyncio.sleep(0.01)
        self.latency("claim by an idle worker, from submit to `started`", latencies_ms)

    async def until_started(self, connection, wanted):
        reader = Reader("/v1/events")
        await reader.open(self.address)
        told = []

        def heard(name, _):
            told.append(time.perf_counter())
            return name == "video.started"
        follow = asyncio.create_task(reader.follow(heard))
        began = time.perf_counter()
        status, body = await connection.ask(wanted)
        assert status == 200, body
        await asyncio.wait_for(follow, 30)
        return (told[-1] - began) * 1000

    async def line(self, connection):
        return json.loads((await connection.ask(request("GET", "/v1/queue")))[1])

    async def hold(self):
        """Holds the queue, and waits until nothing is in the making."""
        connection = await Connection.open(self.address)
        await connection.ask(request("POST", "/v1/queue/pause"))
        while (await self.line(connection))["in_progress"]:
            await asyncio.sleep(0.02)
        connection.close()

    async def claim_from_full(self):
        connection = await Connection.open(self.address)
        taken_ms = await self.until_started(connection, request("POST", "/v1/queue/resume"))
        self.report.number(f"claim with {self.options.queued} waiting, from resume to `started`", f"{taken_ms:.1f} ms")
        await self.hold()

    async def readers(self):
        """Half of them are there for the first time, half come back with an id from before the video."""
        connection = await Connection.open(self.address)
        wanted = submission(num_inference_steps=READER_STEPS, priority=100)
        video_id = json.loads((await connection.ask(wanted))[1])["id"]
        path = f"/v1/videos/{video_id}/events"
        readers = [Reader(path, "0" if number % 2 else None) for number in range(self.options.readers)]
        began = time.perf_counter()
        gate = asyncio.Semaphore(OPENING_AT_ONCE)

        async def open_one(reader):
            async with gate:
                await reader.open(self.address)
        await asyncio.gather(*(open_one(reader) for reader in readers))
        self.report.number("readers opened", f"{len(readers)} in {time.perf_counter() - began:.1f} s")
        self.memory(f"with {len(readers)} readers of one video")
        follows = [asyncio.create_task(reader.follow()) for reader in readers]
        # The connection from before may have been idle for longer than the server keeps it.
        connection = await Connection.open(self.address)
        await connection.ask(request("POST", "/v1/queue/resume"))
        await asyncio.wait_for(asyncio.gather(*follows), 180)
        await self.hold()
        self.memory("after the readers")
        self.check_readers(readers, video_id)

    def check_readers(self, readers, video_id):
        table = [(event["seq"], f"video.{event['kind']}") for event in Audit(self.server.data_dir).by_video[video_id]]
        faults = []
        for number, reader in enumerate(readers):
            # Who comes for the first time has the beginning in the snapshot.
            expected = table if number % 2 else table[1:]
            if reader.durable != expected:
                faults.append(f"reader {number}: {reader.durable}, expected {expected}")
        self.report.check("readers: every durable event once, in order, with the end", len(readers), faults)
        progress = [reader.progress for reader in readers]
        self.report.number("readers: progress events each", f"{min(progress)} to {max(progress)} of {READER_STEPS} steps")
        ended = sorted(reader.ended_at for reader in readers)
        self.report.number("readers: from the first to the last that heard the end", f"{(ended[-1] - ended[0]) * 1000:.0f} ms")

    async def run(self):
        queued = self.options.queued
        self.memory("idle, nothing done yet")
        self.disk()
        await self.own_costs()
        await self.claims()
        await self.hold()
        self.memory(f"after {CLAIMS} videos")
        await self.latencies("empty queue")
        _, rate = await self.submit(queued - len(self.ids), CONNECTIONS)
        self.report.number(f"submissions to {queued} waiting, {CONNECTIONS} connections", f"{rate:.0f}/s")
        self.memory(f"with {queued} waiting")
        await self.latencies(f"{queued} waiting", goals=True)
        await self.claim_from_full()
        await self.readers()
        self.memory("in the end", goal=True)


def raise_open_files():
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main():
    parser = argparse.ArgumentParser(description="Measures the server with a full queue and with many readers.")
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--queued", type=int, default=10_000, help="videos that wait; at least 1000")
    parser.add_argument("--readers", type=int, default=2000, help="readers of one video's events")
    parser.add_argument("--model", default=str(GOLDEN_MODEL), help="a model folder, or demo")
    parser.add_argument("--dir", help="where the data lies; /dev/shm leaves the disk out of the latencies")
    options = parser.parse_args()
    raise_open_files()
    report = Report(f"load, --queued {options.queued} --readers {options.readers}, model {options.model}, "
                    f"on {options.dir or tempfile.gettempdir()}")
    config = {"model.path": options.model, "retention.min_free_mib": 0, "queue.capacity": 2 * options.queued + 2000,
              # A thousand lines a second would be the load generator's doing, not the server's.
              "log.filter": "warn,cogvideox_server=info"}
    with tempfile.TemporaryDirectory(dir=options.dir) as folder, Server(options.binary, folder, config) as server:
        step(f"{options.queued} waiting, {options.readers} readers")
        asyncio.run(Load(server, report, options).run())
        report.number("orderly stop with everything waiting", f"{server.stop():.1f} s")
    report.finish()


if __name__ == "__main__":
    main()
