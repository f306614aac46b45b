"""Several workers on one queue: two pipelines side by side on the processor, as two GPUs would be.

The yardstick is the SHA-256 of what one worker alone makes of the same requests.
"""
from server import Server, equal, step, until

STEPS = 60
SEEDS = (1, 2, 3, 4)


def walk(binary, folder):
    config = {"worker.checkpoint_interval_seconds": 0}
    with Server(binary, folder / "alone", config) as server:
        step("one worker: one video at a time")
        alone = {video["seed"]: server.completed(video["id"])["sha256"] for video in submit(server)}
        server.stop()
    with Server(binary, folder / "both", config, arguments=("--device", "cpu,cpu")) as server:
        shown(server)
        both(server, alone)
        killed(server, alone)
        stopped(server, alone)
        degraded(server)


def submit(server):
    """Four videos that take a while."""
    return [server.create(num_inference_steps=STEPS, seed=seed) for seed in SEEDS]


def two_at_once(server, videos):
    """Two of these videos that are in progress at the same time, both past some steps."""
    def look():
        found = [server.video(video["id"]) for video in videos]
        return [video for video in found if video["state"] == "in_progress" and (video["checkpoint_step"] or 0) >= 3][1:] and found
    return [video for video in until("two videos in progress", look) if video["state"] == "in_progress"]


def shown(server):
    step("two workers, and how they are shown")
    equal("capabilities", server.get("/v1/capabilities").body["devices"], ["cpu", "cpu"])
    ready = lambda: [device["status"] for device in server.get("/readyz").body["devices"]] == ["ready", "ready"]
    until("both workers' readiness", ready)
    equal("workers", server.get("/v1/queue").body["workers"], 2)
    for worker in ("0", "1"):
        equal("ready", server.metric("cogvideox_worker_ready", worker=worker, device="cpu"), 1.0)


def both(server, alone):
    step("two at once, one of them cancelled: the other three are as one worker makes them")
    videos = submit(server)
    cancelled, spared = two_at_once(server, videos)
    server.post(f"/v1/videos/{cancelled['id']}/cancel")
    equal("state", server.finished(cancelled["id"])["state"], "cancelled")
    assert server.video(spared["id"])["state"] != "cancelled", f"expected only {cancelled['id']} to be cancelled"
    same_as_alone(server, [video for video in videos if video["id"] != cancelled["id"]], alone, attempts={1})


def killed(server, alone):
    step("kill -9 while two are in progress: both go on from their checkpoints, and all come out right")
    videos = submit(server)
    running = two_at_once(server, videos)
    server.kill()
    server.start()
    same_as_alone(server, videos, alone, attempts={1, 2})
    for video in running:
        equal("attempt", server.video(video["id"])["attempt"], 2)


def stopped(server, alone):
    step("SIGTERM while two are in progress: both are parked, and go on")
    videos = submit(server)
    running = two_at_once(server, videos)
    server.stop()
    server.arguments = (*server.arguments, "--start-paused")
    server.start()
    for video in running:
        parked = server.video(video["id"])
        equal("state", parked["state"], "queued")
        assert parked["checkpoint_step"] >= video["checkpoint_step"], f"expected the steps kept, found {parked}"
    server.post("/v1/queue/resume")
    same_as_alone(server, videos, alone, attempts={1, 2})
    until("the removal of the checkpoints", lambda: not list((server.data_dir / "checkpoints").rglob("*.ckpt")))
    server.stop()


def degraded(server):
    step("a device that is not there leaves the work to the other")
    server.arguments = ("--device", "cpu", "--device", "cuda:7")
    server.start()
    found = until("the failure", lambda: (answer := server.get("/readyz").body)["status"] == "degraded" and answer)
    equal("devices", [device["status"] for device in found["devices"]], ["ready", "failed"])
    assert "cuda:7" in found["reasons"][0], f"expected a word of cuda:7, found {found['reasons']}"
    for video in [server.create(num_inference_steps=2) for _ in range(3)]:
        server.completed(video["id"])
    server.stop()
    words = server.run("serve", "--device", "cuda:7", expect=1).splitlines()[-1]
    assert words.startswith("error: device cuda:7: "), f"expected a word of the device, found {words}"


def same_as_alone(server, videos, alone, attempts):
    for video in videos:
        done = server.completed(video["id"])
        equal(f"sha256 of seed {done['seed']}", done["sha256"], alone[done["seed"]])
        assert done["attempt"] in attempts, f"expected an attempt of {attempts}, found {done['attempt']}"
