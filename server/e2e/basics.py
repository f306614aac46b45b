"""What every user does: create, follow, download, list, be refused, cancel, delete."""

import media
from server import Server, equal, step


def walk(binary, folder):
    with Server(binary, folder) as server:
        describe(server)
        make(server, folder)
        make_by_form(server)
        be_refused(server)
        cancel(server)
        delete(server)


def describe(server):
    step("what the server says of itself")
    for path in ("/livez", "/readyz", "/healthz"):
        server.get(path)
    capabilities = server.get("/v1/capabilities").body
    equal("object", capabilities["object"], "capabilities")
    model = capabilities["models"][0]
    expected = {"id": "demo", "default": True, "dtype": "f32", "sizes": ["240x160"], "default_size": "240x160", "fps": 8,
                "default_scheduler": "ddim", "schedulers": ["ddim", "dpm"], "max_prompt_tokens": 226, "supports_image": False, "lora": []}
    equal("the demo model", {key: model[key] for key in expected}, expected)
    assert "random" in model["notice"], f"expected a notice of random weights, found {model['notice']!r}"
    steps = model["num_inference_steps"]
    assert steps["max"] == 1000 and 61 in steps["refused"], f"expected at most 1000 and not 61, found {steps}"
    frames = model["num_frames"]
    equal("frame counts", len(range(frames["min"], frames["max"] + 1, frames["stride"])), len(model["seconds"]))
    features = {"api_keys": False, "refine_prompt": False, "prompt_check": False, "webhooks": False, "previews": True}
    equal("features", capabilities["features"], features)
    line = server.get("/v1/queue").body
    expected = {"object": "queue", "paused": False, "queued": 0, "in_progress": 0, "capacity": 64}
    equal("the queue", {key: line[key] for key in expected}, expected)
    assert server.get("/openapi.yaml").body.startswith(b"openapi: 3.1"), "expected an OpenAPI 3.1 document"
    for path in ("/", "/docs"):
        found = server.get(path).headers["content-type"]
        assert found.startswith("text/html"), f"{path}: expected a page, found {found}"


def make(server, folder):
    step("create, follow the events to the end, download")
    answer = server.post("/v1/videos", {"prompt": "a panda playing a guitar", "num_inference_steps": 10, "seed": 7})
    video = answer.body
    path = f"/v1/videos/{video['id']}"
    equal("location", answer.headers["location"], path)
    assert 0 < int(answer.headers["openai-poll-after-ms"]) <= 2000, answer.headers["openai-poll-after-ms"]
    assert video["status"] in ("queued", "in_progress") and video["object"] == "video" and video["seed"] == 7, video
    with server.events(video["id"]) as stream:
        events = list(stream)
    equal("first and last event", (events[0].name, events[-1].name), ("video.snapshot", "video.completed"))
    steps = [event.data["step"] for event in events if event.name == "video.progress"]
    assert steps == sorted(steps) and steps[-1] == 10, f"expected rising steps up to 10, found {steps}"
    done = server.completed(video["id"])
    equal("the last event's video", events[-1].data, done)
    equal("progress and step", (done["progress"], done["step"], done["total_steps"]), (100, 10, 10))
    assert done["created_at"] <= done["started_at"] <= done["completed_at"], done
    assert done["peak_memory_bytes"] > 0 and done["timings"]["denoise_ms"] > 0, done
    _, content, headers = server.get(path + "/content")
    media.check_mp4(content, done, folder)
    equal("content-length", (int(headers["content-length"]), done["bytes"]), (len(content), len(content)))
    equal("HEAD", server.call("HEAD", path + "/content").headers["content-length"], headers["content-length"])
    part = server.get(path + "/content", headers={"range": "bytes=0-1"}, expect=206).body
    equal("the first two bytes", part, content[:2])
    server.get(path + "/content", headers={"if-none-match": headers["etag"]}, expect=304)


def make_by_form(server):
    step("the same by forms")
    body, headers = multipart({"prompt": "a cat", "num_inference_steps": "2", "seed": "1", "metadata[shot]": "12"})
    by_multipart = server.call("POST", "/v1/videos", body, headers).body
    body = b"prompt=a+cat&num_inference_steps=2&seed=1&metadata%5Bshot%5D=12"
    headers = {"content-type": "application/x-www-form-urlencoded"}
    by_urlencoded = server.call("POST", "/v1/videos", body, headers).body
    done = [server.completed(video["id"]) for video in (by_multipart, by_urlencoded)]
    equal("metadata", [video["metadata"] for video in done], [{"shot": "12"}] * 2)
    equal("sha256 of both", done[0]["sha256"], done[1]["sha256"])


def be_refused(server):
    step("the list, and refusals")
    first = server.get("/v1/videos?limit=1").body
    assert first["object"] == "list" and first["has_more"] and len(first["data"]) == 1, first
    rest = server.get(f"/v1/videos?limit=100&after={first['last_id']}").body
    everything = server.get("/v1/videos?order=asc").body["data"]
    equal("pages", [video["id"] for video in first["data"] + rest["data"]], [video["id"] for video in everything[::-1]])
    refused = [({"prompt": ""}, "prompt"), ({"prompt": "x", "num_frames": 18}, "num_frames"),
               ({"prompt": "word " * 400}, "prompt"), ({"prompt": "x", "size": "100x100"}, "size"),
               ({"prompt": "x", "num_inference_steps": 61}, "num_inference_steps"), ({"prompt": "x", "colour": 1}, "colour"),
               ({"prompt": "x", "seed": -1}, "seed"), ({"prompt": "x", "guidance_scale": "much"}, "guidance_scale"),
               ({"prompt": "x", "priority": 10 ** 9}, "priority"), ({"prompt": "x", "n": 2}, "n")]
    for fields, param in refused:
        server.refused("POST", "/v1/videos", fields, status=400, param=param)
    server.refused("POST", "/v1/videos", {"prompt": "x", "refine_prompt": True}, status=400, code="unsupported_parameter")
    server.refused("POST", "/v1/videos", {"prompt": "x", "webhook_url": "https://example.com"}, status=400,
                   code="unsupported_parameter")
    server.refused("POST", "/v1/videos", {"prompt": "x", "model": "none"}, status=404, code="model_not_found")
    server.refused("GET", "/v1/nothing", status=404, code="not_found")
    server.refused("PUT", "/v1/videos", {}, status=405, code="method_not_allowed")
    server.refused("POST", "/v1/videos", b"<a/>", status=415, headers={"content-type": "text/xml"})
    truncated = server.create(prompt="word " * 400, truncate_prompt=True, num_inference_steps=1)
    assert truncated["prompt_truncated"] and truncated["prompt_tokens"] > 226, truncated
    ignored = server.create({"x-cogvideox-ignore-unknown": "true"}, colour="red", num_inference_steps=1)
    server.refused("POST", "/v1/videos", {"prompt": "x"}, status=400, headers={"x-cogvideox-ignore-unknown": "7"})
    assert any("colour" in warning for warning in ignored["warnings"]), f"expected a warning, found {ignored['warnings']}"


def cancel(server):
    step("cancel one that waits behind a running one, and that one too")
    running, waiting = (server.create(num_inference_steps=1000) for _ in range(2))
    server.until_step(running["id"])
    server.refused("GET", f"/v1/videos/{running['id']}/content", status=400, code="video_not_ready")
    for doomed in (waiting, running):
        server.post(f"/v1/videos/{doomed['id']}/cancel")
        cancelled = server.finished(doomed["id"])
        found = (cancelled["status"], cancelled["state"], cancelled["error"]["code"])
        equal("the cancelled video", found, ("failed", "cancelled", "cancelled"))
        server.refused("GET", f"/v1/videos/{doomed['id']}/content", status=400, code="cancelled")


def delete(server):
    step("delete one that waits, one that runs and one that is done")
    done = server.create(num_inference_steps=1)
    server.completed(done["id"])
    running, waiting = (server.create(num_inference_steps=1000) for _ in range(2))
    server.until_step(running["id"])
    for doomed in (waiting, running, done):
        deleted = server.call("DELETE", f"/v1/videos/{doomed['id']}").body
        equal("the answer", deleted, {"id": doomed["id"], "object": "video.deleted", "deleted": True})
        server.refused("GET", f"/v1/videos/{doomed['id']}", status=404, code="video_not_found")
        server.refused("DELETE", f"/v1/videos/{doomed['id']}", status=404, code="video_not_found")
    equal("files of the deleted video", list(server.data_dir.rglob(f"*{done['id']}*")), [])


def multipart(fields):
    boundary = "e2e-boundary"
    parts = [f'--{boundary}\r\ncontent-disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    return "".join(parts + [f"--{boundary}--\r\n"]).encode(), {"content-type": f"multipart/form-data; boundary={boundary}"}
