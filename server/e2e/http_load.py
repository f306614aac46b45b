"""A load generator that costs little: HTTP/1.1 over raw sockets that are kept open, requests rendered beforehand.

Knows as much of HTTP as this server needs: answers with a length, and chunked event streams.
"""
import asyncio
import json
import time


def request(method, path, body=None, headers=""):
    """The bytes of a request; `headers` are whole lines."""
    data = b"" if body is None else json.dumps(body).encode()
    kind = "" if body is None else "content-type: application/json\r\n"
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n{kind}content-length: {len(data)}\r\n{headers}\r\n"
    return head.encode() + data


class Connection:
    """One connection that is kept open, with one request at a time."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, address):
        host, port = address.rsplit(":", 1)
        return cls(*await asyncio.open_connection(host, int(port)))

    async def ask(self, wanted):
        """Sends a request; its status and body."""
        self.writer.write(wanted)
        status, headers = await self.head()
        return status, await self.reader.readexactly(int(headers.get(b"content-length", 0)))

    async def head(self):
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
        return int(first.split(b" ", 2)[1]), headers

    async def events(self):
        """The lines of a chunked body, as they come."""
        rest = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            chunk = await self.reader.readexactly(size + 2)
            *lines, rest = (rest + chunk[:-2]).split(b"\n")
            for line in lines:
                yield line

    def close(self):
        self.writer.close()


async def closed_loop(address, connections, requests, expect=200):
    """Sends the requests over so many connections, each its next one after the answer; milliseconds of each, the
    bodies, and the seconds of all."""
    waiting = iter(requests)
    latencies_ms, bodies = [], []

    async def work():
        connection = await Connection.open(address)
        for wanted in waiting:
            began = time.perf_counter()
            status, body = await connection.ask(wanted)
            latencies_ms.append((time.perf_counter() - began) * 1000)
            assert status == expect, f"{wanted[:80]!r}: expected {expect}, found {status} {body[:300]!r}"
            bodies.append(body)
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(connections)))
    return latencies_ms, bodies, time.perf_counter() - began


class Reader:
    """One reader of a video's events, from its connection to the stream's end."""

    def __init__(self, path, last_event_id=None):
        headers = "accept: text/event-stream\r\n"
        if last_event_id is not None:
            headers += f"last-event-id: {last_event_id}\r\n"
        self.request = request("GET", path, headers=headers)
        self.durable = []  # (seq, name)
        self.progress = 0
        self.snapshots = 0
        self.ended_at = None
        self.connection = None

    async def open(self, address):
        """Connects and reads the answer's head; what follows is read by `follow`."""
        self.connection = await Connection.open(address)
        self.connection.writer.write(self.request)
        status, _ = await self.connection.head()
        assert status == 200, f"expected an event stream, found {status}"

    async def follow(self, heard=None):
        """Reads to the end; `heard` is told the name and the data of each event, and may end it by answering True."""
        last_id = name = None
        async for line in self.connection.events():
            field, _, value = line.partition(b": ")
            if field == b"id":
                last_id = value.decode()
            elif field == b"event":
                name = value.decode()
                self.note(last_id, name)
            elif field == b"data" and heard and heard(name, value):
                break
        self.ended_at = time.perf_counter()
        self.connection.close()

    def note(self, last_id, name):
        if name == "video.snapshot":
            self.snapshots += 1
        elif "." in last_id:
            self.progress += 1
        else:
            self.durable.append((int(last_id), name))
