#!/usr/bin/env python3
"""Do traces reach an OpenTelemetry collector, say what happened, and hold nobody up?

Needs a binary built with the cargo feature `otel`, and only Python's standard library: the collector is a stub on a
loopback port that takes OTLP over HTTP and reads as much of its protobuf as is looked at here.

usage: cargo build --release --workspace --features cogvideox-server/otel && otel.py BINARY
"""
import pathlib
import re
import socket
import sys
import tempfile
import time
import typing

from server import Server, equal, step
from stubs import Receiver

SERVER_KIND = 2
ERROR_STATUS = 2
STAGES = ["text_encode", "denoise", "vae_decode", "encode_mp4", "store"]
CALLERS_TRACE, CALLERS_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
# The same requests, with a collector that takes them and with one that does not.
REQUESTS = 300
SLOWEST_S = 1.0


class Span(typing.NamedTuple):
    service: str
    trace: str
    id: str
    parent: str
    name: str
    kind: int
    begin_ns: int
    end_ns: int
    status: int
    fields: dict


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at


def message(data):
    """A protobuf message as {field number: [values]}; what is longer than a number stays bytes."""
    fields, at = {}, 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == 0:
            value, at = varint(data, at)
        else:
            size, at = varint(data, at) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], at)
            value, at = data[at:at + size], at + size
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def attributes(pairs):
    """KeyValue messages as a dict, of texts and whole numbers."""
    found = {}
    for pair in map(message, pairs):
        value = message(pair[2][0])
        found[pair[1][0].decode()] = value[1][0].decode() if 1 in value else value.get(3, [None])[0]
    return found


def spans_in(body):
    """The spans of an ExportTraceServiceRequest."""
    for of_resource in map(message, message(body)[1]):
        service = attributes(message(of_resource[1][0])[1])["service.name"]
        for of_scope in map(message, of_resource[2]):
            for span in map(message, of_scope[2]):
                begin, end = (int.from_bytes(span[number][0], "little") for number in (7, 8))
                status = message(span.get(15, [b""])[0]).get(3, [0])[0]
                yield Span(service, span[1][0].hex(), span[2][0].hex(), span.get(4, [b""])[0].hex(), span[5][0].decode(),
                           span.get(6, [0])[0], begin, end, status, attributes(span.get(9, [])))


def server_with(binary, folder, variables, config=None):
    server = Server(binary, folder, config)
    plain = {name: value for name, value in server.environment.items() if not name.startswith("OTEL_")}
    server.environment = {**plain, **variables}
    return server


def taken(collector):
    """What the collector was sent, and every span in it."""
    calls = [collector.next() for _ in range(collector.count())]
    return calls, [span for call in calls for span in spans_in(call.body)]


def only(spans, what, **wanted):
    found = [span for span in spans if wanted.items() <= {**span._asdict(), **span.fields}.items()]
    assert len(found) == 1, f"expected one {what}, found {len(found)} in {[span.name for span in spans]}"
    return found[0]


def story(binary, folder):
    step("a request and a video as spans, which are sent by an orderly stop at the latest")
    with Receiver(lambda received: (200, b"")) as collector:
        # So long a delay that all of it comes with the stop.
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        with server_with(binary, folder, variables, {"log.filter": "warn,cogvideox_server=info"}) as server:
            parent = {"traceparent": f"00-{CALLERS_TRACE}-{CALLERS_SPAN}-01", "x-request-id": "req-of-the-caller"}
            video = server.create(parent, prompt="a secret panda", num_inference_steps=4)
            server.completed(video["id"])
            server.refused("GET", "/v1/videos/video_none", status=404)
            equal("calls of the collector before the stop", collector.count(), 0)
            server.stop()
        calls, spans = taken(collector)
    equal("paths", {call.path for call in calls}, {"/v1/traces"})
    equal("services", {span.service for span in spans}, {"cogvideox-server"})
    assert all(b"secret panda" not in call.body for call in calls), "a prompt was sent to the collector"

    created = only(spans, "request that creates", name="POST /v1/videos")
    equal("trace, parent and kind of the request", (created.trace, created.parent, created.kind),
          (CALLERS_TRACE, CALLERS_SPAN, SERVER_KIND))
    equal("fields of the request", {name: created.fields[name] for name in (
        "http.request.method", "http.route", "url.path", "http.response.status_code", "request.id")}, {
        "http.request.method": "POST", "http.route": "/v1/videos", "url.path": "/v1/videos",
        "http.response.status_code": 200, "request.id": "req-of-the-caller"})
    lost = only(spans, "request for nothing", **{"http.response.status_code": 404})
    equal("name, parent and status of a 404", (lost.name, lost.parent, lost.status), ("GET /v1/videos/{video_id}", "", 0))

    attempt = only(spans, "attempt", name="video")
    equal("the attempt", {name: attempt.fields.get(name) for name in (
        "job.id", "job.attempt", "job.device", "job.outcome")}, {
        "job.id": video["id"], "job.attempt": 1, "job.device": "cpu", "job.outcome": "completed"})
    equal("parent of the attempt", attempt.parent, "")
    stages = sorted((span for span in spans if span.parent == attempt.id), key=lambda span: span.begin_ns)
    equal("stages", [span.name for span in stages], STAGES)
    equal("traces of the stages", {span.trace for span in stages}, {attempt.trace})
    for earlier, later in zip(stages, stages[1:]):
        assert earlier.end_ns <= later.begin_ns, f"{earlier.name} ends after {later.name} begins"
    equal("spans of a worker's whole life", [span for span in spans if span.name == "worker"], [])
    assert attempt.begin_ns <= stages[0].begin_ns and stages[-1].end_ns <= attempt.end_ns, "a stage outlasts its attempt"


def environment(binary, folder):
    step("OpenTelemetry's variables: name, sampler, switch; an attempt that is handed back, and the next")
    with Receiver(lambda received: (200, b"")) as collector:
        named = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "studio"}
        server = server_with(binary, folder, named)
        with server:
            video = server.create(num_inference_steps=50)
            server.until_step(video["id"])
            server.stop()
        with server:
            server.completed(video["id"])
            server.stop()
        _, spans = taken(collector)
        equal("services", {span.service for span in spans}, {"studio"})
        attempts = [span for span in spans if span.name == "video"]
        equal("outcomes", [span.fields["job.outcome"] for span in attempts], ["requeued", "completed"])
        for off in ({"OTEL_TRACES_SAMPLER": "always_off"}, {"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"},
                    {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}):
            server.environment = {**server.environment, **named, **off}
            with server:
                server.completed(server.create(num_inference_steps=1)["id"])
                server.stop()
            equal(f"calls of the collector with {off}", collector.count(), 0)
            server.environment = {name: value for name, value in server.environment.items() if name not in off}


def slowest(binary, folder, endpoint):
    """The slowest of many requests in seconds, and the seconds that the stop took."""
    # Small and hasty, so that it is full at once and always sending.
    variables = {"OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
                 "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    with server_with(binary, folder, variables) as server:
        video = server.create(num_inference_steps=10)
        took = []
        for _ in range(REQUESTS):
            began = time.monotonic()
            server.get("/v1/queue")
            took.append(time.monotonic() - began)
        server.completed(video["id"])
        stopped = server.stop()
        assert "secret" not in server.log(), "a password was logged"
        assert re.search(r'"message":"traces are exported"', server.log()), "expected a line that traces are exported"
    return max(took), stopped


def unreachable(binary, folder):
    step("collectors that are not there, and that take and never answer")
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        for name, listener in (("closed", closed), ("silent", silent)):
            endpoint = f"http://user:secret@127.0.0.1:{listener.getsockname()[1]}"
            longest, stop = slowest(binary, folder / name, endpoint)
            step(f"{name}: slowest of {REQUESTS} requests {longest * 1000:.0f} ms, stop {stop:.1f} s")
            assert longest < SLOWEST_S, f"expected requests below {SLOWEST_S} s with a {name} collector, found {longest:.2f} s"
            assert stop < 10, f"expected a stop within 10 s with a {name} collector, found {stop:.1f} s"


def main(binary):
    with tempfile.TemporaryDirectory(prefix="e2e-otel-") as folder:
        for walk in (story, environment, unreachable):
            walk(pathlib.Path(binary).resolve(), pathlib.Path(folder) / walk.__name__)
    step("traces passed")


if __name__ == "__main__":
    main(*sys.argv[1:])
