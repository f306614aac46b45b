"""Server-sent events: what a reader is told, that nothing durable is lost or told twice, and who may listen.

Durable events have whole numbers as ids (`7`); progress, stages and previews have those of the last durable one with
the step behind it (`7.12`).
"""
import base64
import time

import media
from server import Client, Server, equal, step

ENDS = ("video.completed", "video.failed", "video.cancelled")


def walk(binary, folder):
    with Server(binary, folder / "open") as server:
        follow(server)
        come_back_too_late(server)
        survive_a_restart(server)
        preview(server)
    with Server(binary, folder / "dark", {"worker.previews": False}) as server:
        no_previews(server)
    with Server(binary, folder / "keys", {"limits.requests_per_minute_per_key": 0}) as server:
        listen_with_keys(server)


def durable(events):
    """The durable ones: (id, name), snapshots left out."""
    return [(int(event.id), event.name) for event in events
            if event.id and "." not in event.id and event.name != "video.snapshot"]


def follow(server):
    step("a stream: headers, ids, order")
    server.post("/v1/queue/pause")
    video = server.create(num_inference_steps=40)
    with server.events(video["id"]) as stream:
        for name, value in (("cache-control", "no-store"), ("x-accel-buffering", "no")):
            equal(name, stream.response.headers[name], value)
        snapshot = next(iter(stream))
        equal("first event and its state", (snapshot.name, snapshot.data["state"]), ("video.snapshot", "queued"))
        equal("retry", stream.retry_ms, 3000)
        server.post("/v1/queue/resume")
        events = list(stream)
    equal("durable events", [name for _, name in durable(events)], ["video.started", "video.completed"])
    ids = [tuple(int(part) for part in event.id.split(".")) for event in events]
    assert ids == sorted(ids) and ids[0] > (int(snapshot.id),), f"expected rising ids after {snapshot.id}, found {ids}"
    stages = [event.data["stage"] for event in events if event.name == "video.stage"]
    equal("stages", stages, ["text_encode", "denoise", "vae_decode", "encode_mp4", "store"])
    progress = [event.data for event in events if event.name == "video.progress"]
    percents = [data["percent"] for data in progress]
    assert percents == sorted(percents) and percents[-1] <= 99, f"expected rising percents below 100, found {percents}"
    steps = {data["step"] for data in progress}
    # Not each of them: a reader that is slow, as on a busy machine, is told the newest.
    assert max(steps) == 40 and len(steps) >= 5, f"expected most steps of 40 and the last, found {steps}"
    assert any(data["step_seconds"] and data["eta_seconds"] for data in progress), f"expected measured steps, found {progress}"
    assert not any(event.name == "video.preview" for event in events), "expected no previews unasked, found some"


def come_back_too_late(server):
    step("a reader that comes back after the end")
    video = server.completed(server.create(num_inference_steps=1)["id"])
    with server.events(video["id"], "?last_event_id=0") as stream:
        history = durable(list(stream))
    equal("all of it", [name for _, name in history], ["video.queued", "video.started", "video.completed"])
    for last_event_id, expected in ((history[0][0], history[1:]), (f"{history[1][0]}.1", history[2:])):
        with server.events(video["id"], last_event_id=str(last_event_id)) as stream:
            equal(f"what follows {last_event_id}", durable(list(stream)), expected)
    with server.events(video["id"]) as stream:
        events = list(stream)
    equal("a first visit", [event.name for event in events], ["video.snapshot", "video.completed"])
    for last_event_id in (history[-1][0], f"{history[-1][0]}.3"):
        with server.events(video["id"], last_event_id=str(last_event_id)) as stream:
            equal(f"status after {last_event_id}", stream.status, 204)
    for nonsense in ("x", "-1", "999999999", ""):
        with server.events(video["id"], last_event_id=nonsense) as stream:
            equal(f"status after {nonsense!r}", (stream.status, list(stream)[0].name), (200, "video.snapshot"))


def survive_a_restart(server):
    step("kill -9 under a reader: it comes back and has every durable event once")
    server.configure({"worker.checkpoint_interval_seconds": 0})
    server.stop()
    server.start()
    video = server.create(num_inference_steps=120)
    before = []
    with server.events(video["id"]) as stream:
        for event in stream:
            before.append(event)
            if event.name == "video.progress" and event.data["step"] == 20:
                server.kill()
        last_event_id = stream.last_event_id
    assert "." in last_event_id, f"expected the id of a progress event, found {last_event_id}"
    server.start()
    with server.events(video["id"], last_event_id=last_event_id) as stream:
        after = list(stream)
    equal("the end", after[-1].name, "video.completed")
    with server.events(video["id"], "?last_event_id=0") as stream:
        history = durable(list(stream))
    equal("starts", [name for _, name in history].count("video.started"), 2)
    snapshot = int(before[0].id)
    equal("durable events", durable(before) + durable(after), [event for event in history if event[0] > snapshot])
    snapshot = after[0].data
    for name in ("step", "percent"):
        resumed, *later = [event.data[name] for event in after if event.name == "video.progress"]
        told = [event.data[name] for event in before if event.name == "video.progress"]
        # What came after the last checkpoint is done again.
        assert resumed >= 0.5 * told[-1], f"expected to go on from about {told[-1]}, found {name} {resumed}"
        for values in (told, [resumed, *later]):
            assert values == sorted(values), f"expected a {name} that never falls, found {values}"
    assert snapshot["step"] >= snapshot["checkpoint_step"] > 0, f"expected no step below the checkpoint's, found {snapshot}"


def preview(server):
    step("previews for those who ask")
    # A first picture comes after a second of steps: enough of them for a fast machine.
    video = server.create(num_inference_steps=200)
    with server.events(video["id"], "?preview=1") as stream:
        pictures = [event.data for event in stream if event.name == "video.preview"]
    assert pictures, "expected previews, found none"
    for picture in pictures:
        equal("content_type", picture["content_type"], "image/jpeg")
        media.check_magic("spritesheet", base64.b64decode(picture["b64"], validate=True))
    steps = [picture["step"] for picture in pictures]
    assert steps == sorted(set(steps)) and 0 <= steps[0] and steps[-1] <= 200, f"expected rising steps, found {steps}"


def no_previews(server):
    step("no previews where the operator wants none")
    equal("features.previews", server.get("/v1/capabilities").body["features"]["previews"], False)
    video = server.create(num_inference_steps=200)
    with server.events(video["id"], "?preview=1") as stream:
        names = {event.name for event in stream}
    assert "video.completed" in names and "video.preview" not in names, f"expected no preview, found {names}"


def listen_with_keys(server):
    step("streams of all videos, each key's own; tickets")
    admin, alice, bob = (server.client(*names) for names in
                         (("root", "admin"), ("alice", "submit", "read"), ("bob", "submit", "read")))
    writer = server.client("writer", "submit")
    # A place in the stream from before the videos.
    streams = {client: client.stream("/v1/events") for client in (admin, alice, bob)}
    videos = {client: client.create(num_inference_steps=4)["id"] for client in (alice, bob)}
    for client, video_id in videos.items():
        client.completed(video_id)
    expected = {admin: set(videos.values()), alice: {videos[alice]}, bob: {videos[bob]}}
    for client, stream in streams.items():
        check_all(stream, expected[client])
        with client.stream("/v1/events", last_event_id="0") as again:
            check_all(again, expected[client])
    with alice.open("GET", f"/v1/videos/{videos[bob]}/events") as response:
        equal("status of another's stream", response.status, 404)
    tickets(server, alice, videos)
    writer.refused("POST", "/v1/tickets", {}, status=403, code="permission_denied")
    writer.refused("GET", "/v1/events", status=403, code="permission_denied")


def check_all(stream, expected):
    """The stream tells of these videos up to their ends, and of no other."""
    told, unfinished = set(), set(expected)
    with stream:
        for event in stream:
            assert event.name != "video.snapshot", "expected no snapshots, found one"
            video_id = event.data.get("video_id", event.data.get("id"))
            told.add(video_id)
            if event.name in ENDS:
                unfinished.discard(video_id)
            if not unfinished:
                break
    equal("videos told of", told, expected)


def tickets(server, alice, videos):
    nobody = Client(server.base)
    answer = alice.post("/v1/tickets").body
    assert 50 <= answer["expires_at"] - time.time() <= 61, f"expected 60 s from {time.time()}, found {answer['expires_at']}"
    ticket = answer["ticket"]
    nobody.refused("GET", f"/v1/videos?ticket={ticket}", status=401)
    with nobody.stream(f"/v1/videos/{videos[alice]}/events?ticket={ticket}") as stream:
        equal("by ticket", list(stream)[-1].name, "video.completed")
    path = f"/v1/videos/{videos[alice]}/events"
    for query in (f"?ticket={ticket}", "?ticket=" + "0" * 64, ""):
        nobody.refused("GET", path + query, status=401)
    ticket = alice.post("/v1/tickets").body["ticket"]
    nobody.refused("GET", f"/v1/videos/{[*videos.values()][1]}/events?ticket={ticket}", status=404)
    ticket = alice.post("/v1/tickets").body["ticket"]
    with nobody.stream(f"/v1/events?ticket={ticket}&last_event_id=0") as stream:
        check_all(stream, {videos[alice]})
    assert ticket not in server.log(), "expected no ticket in the log, found one"
