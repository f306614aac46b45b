"""The queue as operators and impatient users see it: paused, resumed, reordered, waited for."""
import re
import time

from server import Server, equal, step, until


def walk(binary, folder):
    with Server(binary, folder, arguments=("--start-paused",)) as server:
        start_paused(server)
        reorder(server)
        pause(server)
        wait(server)
        count(server)


def started_order(server, ids):
    """These videos in the order in which the worker first began them, once it has begun all."""
    order = []
    with server.stream("/v1/events?last_event_id=0") as stream:
        for event in stream:
            if event.name == "video.started" and event.data["id"] in ids and event.data["id"] not in order:
                order.append(event.data["id"])
                if len(order) == len(ids):
                    return order
    raise AssertionError(f"expected the start of {ids}, found that of {order} and the end of the stream")


def start_paused(server):
    step("a server that starts paused takes videos and makes none until it is told")
    equal("paused", server.get("/v1/queue").body["paused"], True)
    videos = [server.create(num_inference_steps=1) for _ in range(3)]
    equal("positions", [server.video(video["id"])["queue_position"] for video in videos], [1, 2, 3])
    found = server.get("/v1/queue").body
    equal("the queue", (found["queued"], found["in_progress"]), (3, 0))
    answer = server.post("/v1/queue/resume").body
    equal("the answer", (answer["object"], answer["paused"]), ("queue", False))
    equal("the order", started_order(server, [video["id"] for video in videos]), [video["id"] for video in videos])
    for video in videos:
        server.completed(video["id"])
    assert server.get("/v1/queue").body["step_seconds"] > 0, "expected a measured step, found none"


def reorder(server):
    step("a higher priority goes first, also when given later")
    server.post("/v1/queue/pause")
    first, second, third = (server.create(num_inference_steps=1) for _ in range(3))
    urgent = server.create(num_inference_steps=1, priority=5)
    moved = server.call("PATCH", f"/v1/videos/{third['id']}", {"priority": 10}).body
    equal("the moved video", (moved["priority"], moved["queue_position"]), (10, 1))
    order = [video["id"] for video in (third, urgent, first, second)]
    equal("positions", [server.video(video_id)["queue_position"] for video_id in order], [1, 2, 3, 4])
    etas = [server.video(video_id)["eta_seconds"] for video_id in order]
    assert all(etas) and etas == sorted(etas), f"expected rising estimates, found {etas}"
    server.refused("PATCH", f"/v1/videos/{first['id']}", {"priority": 10 ** 9}, status=400, param="priority")
    server.post("/v1/queue/resume")
    equal("the order", started_order(server, order), order)
    server.completed(second["id"])
    answer = server.refused("PATCH", f"/v1/videos/{second['id']}", {"priority": 1}, status=409, code="video_not_queued")
    equal("x-should-retry", answer.headers["x-should-retry"], "false")


def pause(server):
    step("paused: what runs goes on, what waits waits, over a restart too")
    running, waiting = server.create(num_inference_steps=40), server.create(num_inference_steps=1)
    server.until_step(running["id"])
    server.post("/v1/queue/pause")
    server.completed(running["id"])
    server.arguments = ()
    server.stop()
    server.start()
    found = server.get("/v1/queue").body
    equal("the queue", (found["paused"], found["queued"], found["in_progress"]), (True, 1, 0))
    equal("state", server.video(waiting["id"])["state"], "queued")
    server.post("/v1/queue/resume")
    server.completed(waiting["id"])


def wait(server):
    step("Prefer: wait")
    answer = server.post("/v1/videos", {"prompt": "x", "num_inference_steps": 2}, headers={"prefer": "wait=60"})
    equal("the answer", (answer.body["status"], answer.headers["preference-applied"]), ("completed", "wait=60"))
    began = time.monotonic()
    answer = server.post("/v1/videos", {"prompt": "x", "num_inference_steps": 1000}, headers={"prefer": "wait=1"})
    waited = time.monotonic() - began
    assert 0.9 <= waited < 10, f"expected an answer after 1 s, found {waited:.2f} s"
    assert answer.body["status"] in ("queued", "in_progress"), f"expected an unfinished video, found {answer.body}"
    server.post(f"/v1/videos/{answer.body['id']}/cancel")
    until("an idle server", lambda: not server.get("/v1/queue").body["in_progress"])


def count(server):
    step("metrics")
    completed = server.metric("cogvideox_jobs_total", status="completed")
    videos = server.get("/v1/videos?limit=100").body["data"]
    # Counted since the last start; the list knows those before it too.
    assert 2 <= completed <= sum(video["status"] == "completed" for video in videos), f"expected a few, found {completed}"
    equal("cancelled", server.metric("cogvideox_jobs_total", status="cancelled"), 1.0)
    equal("waiting", server.metric("cogvideox_queue_jobs", state="queued"), 0.0)
    text = server.get("/metrics").body.decode()
    assert not re.search("video_[0-9a-f]{32}", text), "expected no ids in the metrics, found some"
