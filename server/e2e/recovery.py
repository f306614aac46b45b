"""What becomes of a video whose server goes: it goes on from its checkpoint and comes out as if nothing had been.

The yardstick is the SHA-256 of an undisturbed run of the same request.
"""
import re
import signal

from server import Server, equal, step, until

REQUEST = {"num_inference_steps": 150, "seed": 11, "guidance_scale": 5.5, "scheduler": "dpm"}


def walk(binary, folder):
    config = {"worker.checkpoint_interval_seconds": 0}
    with Server(binary, folder, config) as server:
        step("an undisturbed run")
        undisturbed = server.completed(server.create(**REQUEST)["id"])
        killed(server, undisturbed)
        stopped(server, undisturbed)
        damaged(server, undisturbed)
        given_up(server)


def checkpointed(server):
    """A new video that is being made, once a checkpoint of it is kept."""
    video_id = server.create(**REQUEST)["id"]

    def look():
        video = server.video(video_id)
        assert video["state"] in ("queued", "in_progress"), f"expected it to be in the making, found {video}"
        return (video["checkpoint_step"] or 0) >= 3 and video
    return until("a checkpoint", look)


def resumed_step(server, video_id):
    """The step from which the worker went on after the last start, out of its log; 0 for a start from nothing."""
    found = server.until_logged(rf'.*"video started".*{video_id}.*')
    line = found.group(0)
    return int(match.group(1)) if (match := re.search(r'"checkpoint_step":(\d+)', line)) else 0


def same_bytes(server, video, undisturbed, attempt):
    done = server.completed(video["id"])
    equal("attempt and sha256", (done["attempt"], done["sha256"]), (attempt, undisturbed["sha256"]))
    until("the removal of its checkpoint", lambda: not list((server.data_dir / "checkpoints").rglob("*.ckpt")))
    return done


def killed(server, undisturbed):
    step("kill -9 after a checkpoint: goes on from there, same bytes")
    video = checkpointed(server)
    server.kill()
    server.start()
    resumed = resumed_step(server, video["id"])
    assert resumed >= video["checkpoint_step"], f"expected to go on from {video['checkpoint_step']} or later, found {resumed}"
    now = server.video(video["id"])
    assert now["step"] >= resumed, f"expected to see no step below {resumed}, found {now}"
    same_bytes(server, video, undisturbed, attempt=2)


def stopped(server, undisturbed):
    step("SIGTERM in mid-job: out within the grace, queued again, goes on, same bytes")
    video = checkpointed(server)
    seconds = server.stop(30)
    assert seconds <= 20, f"expected the end within the grace of 20 s, found {seconds:.1f} s"
    server.arguments = ("--start-paused",)
    server.start()
    parked = server.video(video["id"])
    equal("state and place", (parked["state"], parked["queue_position"]), ("queued", 1))
    assert parked["checkpoint_step"] >= video["step"], f"expected the step at hand kept, {video['step']}, found {parked}"
    server.post("/v1/queue/resume")
    equal("the step gone on from", resumed_step(server, video["id"]), parked["checkpoint_step"])
    same_bytes(server, video, undisturbed, attempt=2)
    server.stop(with_signal=signal.SIGINT)
    server.arguments = ()
    server.start()


def damaged(server, undisturbed):
    step("a damaged checkpoint: starts over, same bytes")
    video = checkpointed(server)
    server.kill()
    files = list((server.data_dir / "checkpoints").rglob("*.ckpt"))
    equal("checkpoints", len(files), 1)
    content = bytearray(files[0].read_bytes())
    content[len(content) // 2] ^= 1
    files[0].write_bytes(content)
    server.start()
    server.until_logged("the checkpoint cannot be read")
    same_bytes(server, video, undisturbed, attempt=2)


def given_up(server):
    step("a video that takes its server down again and again is given up")
    server.stop()
    # Without checkpoints no attempt gets further than the one before.
    server.configure({"worker.checkpoint_interval_seconds": 3600, "queue.max_attempts": 2})
    server.start()
    video = server.create(num_inference_steps=1000)
    for attempt in (1, 2):
        server.until_step(video["id"])
        equal("attempt", server.video(video["id"])["attempt"], attempt)
        server.kill()
        server.start()
        if attempt == 1:
            until("the second attempt", lambda: server.video(video["id"])["attempt"] == 2)
    lost = server.finished(video["id"])
    equal("status and code", (lost["status"], lost["error"]["code"]), ("failed", "worker_lost"))
    server.refused("GET", f"/v1/videos/{video['id']}/content", status=400, code="worker_lost")
