"""Adapters of the model's weights: from a folder that changes under the server, several at once, into the file.

The yardstick is `generate --lora`, which was held against diffusers.
"""
import json
import pathlib
import shutil

import goldens
import media
from server import Server, equal, step, until

MODEL = pathlib.Path(goldens.FOLDER) / "2b"
ADAPTERS = pathlib.Path(goldens.FOLDER) / "lora/2b"
SMALL = {"num_frames": 9, "num_inference_steps": 2, "seed": 7}
TWO = [{"name": "motion", "scale": 0.8}, {"name": "style", "scale": -0.5}]


def walk(binary, folder):
    model, lora_dir = folder / "small-2b", folder / "adapters"
    shutil.copytree(MODEL, model)
    lora_dir.mkdir()
    (lora_dir / "torn.safetensors").write_bytes(b"no tensors")
    words = Server(binary, folder / "wrong", {"model.lora_dir": folder / "nowhere"}).run("serve", expect=1)
    assert len(words.splitlines()) == 1 and "model.lora_dir" in words, f"expected a line about model.lora_dir, found {words}"
    config = {"model.lora_dir": lora_dir, "worker.checkpoint_interval_seconds": 0}
    with Server(binary, folder / "server", config, ("--model", str(model))) as server:
        offered(server, lora_dir)
        changed(server, lora_dir)
        switched(server, binary, folder, model, lora_dir)
        killed(server)
        server.stop()
        server.configure({"model.lora_dir": ""})
        server.start()
        equal("adapters", names(server), [])
        server.refused("POST", "/v1/videos", {"prompt": "a", "lora": TWO}, status=400, code="unsupported_parameter", param="lora")


def names(server):
    return server.get("/v1/capabilities").body["models"][0]["lora"]


def put(adapter, path):
    """Puts a golden adapter under another name, whole from one moment to the next."""
    part = path.with_suffix(".part")
    shutil.copyfile(ADAPTERS / f"{adapter}.safetensors", part)
    part.rename(path)


def offered(server, lora_dir):
    step("adapters are offered as they come, and refused by name")
    equal("adapters", names(server), [])
    for adapter in ("motion", "style"):
        put(adapter, lora_dir / f"{adapter}.safetensors")
    equal("adapters", names(server), ["motion", "style"])
    unknown = {"prompt": "a", "lora": [{"name": "motion"}, {"name": "../adapters/style"}]}
    refused = server.refused("POST", "/v1/videos", unknown, status=400, code="unknown_lora", param="lora[1].name")
    assert "motion, style" in refused.body["error"]["message"], refused.body
    torn = {"prompt": "a", "lora": [{"name": "torn"}]}
    server.refused("POST", "/v1/videos", torn, status=400, code="unsupported_lora", param="lora[0].name")


def changed(server, lora_dir):
    step("a file that changed or went after the request fails its video, and no other video comes of it")
    for change, code, again in ((lambda path: put("motion", path), "lora_changed", "lora_changed"),
                                (lambda path: path.unlink(), "lora_not_available", "unknown_lora")):
        path = lora_dir / "late.safetensors"
        put("style", path)
        server.post("/v1/queue/pause")
        video = server.create(lora=[{"name": "late"}], **SMALL)
        change(path)
        server.post("/v1/queue/resume")
        failed = server.finished(video["id"])
        equal("error", (failed["status"], failed["error"]["code"]), ("failed", code))
        assert str(lora_dir) not in failed["error"]["message"], failed["error"]
        server.refused("POST", f"/v1/videos/{video['id']}/retry", status=400, code=again)


def switched(server, binary, folder, model, lora_dir):
    step("with, without and with two: each as `generate` makes it, on one loaded model")
    lora = [[], TWO, [], TWO[:1]]
    videos = [server.completed(server.create(lora=some, **SMALL)["id"]) for some in lora]
    for video, some in zip(videos, lora):
        equal("lora", [{"name": one["name"], "scale": one["scale"]} for one in video["lora"]], some)
        output = folder / "generated.mp4"
        arguments = [part for one in some for part in ("--lora", f"{lora_dir / one['name']}.safetensors={one['scale']}")]
        server.run("generate", "--model", model, "--prompt", video["prompt"], "--seed", video["seed"], "--num-frames", 9,
                   "--num-inference-steps", 2, *arguments, "-o", output)
        assert output.read_bytes() == server.content(video["id"]), f"lora {some}: expected the file that `generate` makes"
    equal("different videos", len({video["sha256"] for video in videos}), 3)
    equal("models loaded", server.metric("cogvideox_model_swaps_total", model="small-2b"), 0)
    recipe = json.loads(media.probe(output)["format"]["tags"]["comment"])
    equal("lora in the file", recipe["lora"], videos[-1]["lora"])
    again = server.completed(server.post(f"/v1/videos/{videos[1]['id']}/retry").body["id"])
    equal("sha256 of another try", again["sha256"], videos[1]["sha256"])
    remix = server.post(f"/v1/videos/{videos[1]['id']}/remix", {"prompt": "a dog"}).body
    equal("lora of a remix", remix["lora"], videos[1]["lora"])
    server.completed(remix["id"])


def killed(server):
    step("kill -9 in mid-job: goes on with the same adapters, same bytes")
    request = {**SMALL, "num_inference_steps": 300, "lora": TWO}
    undisturbed = server.completed(server.create(**request)["id"])
    video = server.create(**request)
    until("a checkpoint", lambda: (server.video(video["id"])["checkpoint_step"] or 0) >= 3)
    server.kill()
    server.start()
    done = server.completed(video["id"])
    equal("attempt and sha256", (done["attempt"], done["sha256"]), (2, undisturbed["sha256"]))
