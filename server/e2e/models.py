"""Several models in one server: requests pick, the worker keeps one in memory, and swaps seldom.

The demo model and two names of one small folder: the files must be those of a server that has the model alone.
"""
import pathlib
import shutil

import goldens
from server import Server, equal, step

GOLDEN = pathlib.Path(goldens.FOLDER) / "2b"
SMALL = {"num_frames": 9, "num_inference_steps": 2, "seed": 7}


def walk(binary, folder):
    small, broken = folder / "small-2b", folder / "broken"
    for copy in (small, broken):
        shutil.copytree(GOLDEN, copy)
    for weights in (broken / "transformer").glob("*.safetensors"):
        weights.write_bytes(b"no weights")
    with Server(binary, folder / "alone", arguments=("--model", str(small))) as server:
        alone = made(server, [None])[0]
        server.stop()
    arguments = ("--model", "demo", "--model", str(small), "--model", str(broken))
    with Server(binary, folder / "both", arguments=(*arguments, "--start-paused")) as server:
        shown(server)
        alternating(server, alone)
        unloadable(server)
        gone(server)
        server.stop()
    wrong_settings(binary, folder)


def made(server, models):
    """The videos of requests for these models, each completed."""
    videos = [server.create(**SMALL, **({"model": model} if model else {})) for model in models]
    if server.get("/v1/queue").body["paused"]:
        server.post("/v1/queue/resume")
    return [server.completed(video["id"]) for video in videos]


def swaps(server):
    return sum(server.metric("cogvideox_model_swaps_total", model=model) for model in ("demo", "small-2b", "broken"))


def shown(server):
    step("three models are offered; an unknown one is refused with their names")
    names = {"demo", "small-2b", "broken"}
    equal("models", {model["id"] for model in server.get("/v1/models").body["data"]}, names)
    equal("small-2b", server.get("/v1/models/small-2b").body["id"], "small-2b")
    capabilities = server.get("/v1/capabilities").body["models"]
    equal("default", [model["id"] for model in capabilities if model["default"]], ["demo"])
    refused = server.refused("POST", "/v1/videos", {"prompt": "a", "model": "sora-3"}, status=404,
                             code="model_not_found", param="model")
    assert all(name in refused.body["error"]["message"] for name in names), refused.body


def alternating(server, alone):
    step("six requests that alternate: the right files, and fewer swaps than requests")
    videos = made(server, ["demo", "small-2b"] * 3)
    equal("models", [video["model"] for video in videos], ["demo", "small-2b"] * 3)
    for video in videos[1::2]:
        # What the file says of itself is the same too: the name is the folder's in both servers.
        equal("sha256", video["sha256"], alone["sha256"])
    assert len({video["sha256"] for video in videos}) == 2, "expected two different videos"
    equal("swaps", swaps(server), 1)
    loads = [video["timings"]["load_model_ms"] is not None for video in videos]
    equal("videos that waited for their model", loads, [False, True, False, False, False, False])


def unloadable(server):
    step("a model that cannot be loaded fails its video, and the worker goes on")
    video = server.finished(server.create(model="broken", **SMALL)["id"])
    equal("error", (video["status"], video["error"]["code"]), ("failed", "model_load_failed"))
    made(server, ["small-2b", "demo"])
    equal("ready", server.get("/readyz").body["status"], "ready")


def gone(server):
    step("a video whose model is no longer offered is failed, and not left")
    server.post("/v1/queue/pause")
    waiting = server.create(model="small-2b", **SMALL)
    server.stop()
    server.arguments = ("--model", "demo")
    server.start()
    server.post("/v1/queue/resume")
    video = server.finished(waiting["id"])
    equal("error", video["error"]["code"], "model_not_available")
    made(server, ["demo"])


def wrong_settings(binary, folder):
    step("settings of models that cannot be are refused by name")
    for setting, word in (("models.x.pth=/a", "models.x"), ("models.x.path=/nowhere", "model x"),
                          ("models.demo.path=demo", "models.demo")):
        words = Server(binary, folder / "wrong").run("serve", "--set", setting, expect=1)
        assert len(words.splitlines()) == 1 and word in words, f"expected a line about {word}, found {words}"
