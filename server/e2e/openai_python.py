#!/usr/bin/env python3
"""The official OpenAI client for Python against the real server, blocking and async.

To be run by a Python that has the package `openai`; CI runs it with the last of the 2.x line and with 3.x.
usage: openai_python.py BINARY

Version 3 says with each call that OpenAI's own Sora API has shut down (a DeprecationWarning). That is true of OpenAI's
service and not of this one, so the warnings are kept quiet here and their number is told at the end.
"""
import hashlib
import pathlib
import sys
import tempfile
import time
import warnings

import openai

import media
from openai_adapter import Api, refused
from openai_faults import walk_faults
from server import Server, equal, step, until

PROMPT = "a panda playing a guitar"
# The polling here is faster than the limit's default allows.
CONFIG = {"limits.requests_per_minute_per_key": 0}
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 16


def main(binary):
    binary = pathlib.Path(binary).resolve()
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as deprecations, tempfile.TemporaryDirectory(prefix="e2e-openai-") as folder:
        warnings.simplefilter("always", DeprecationWarning)
        folder = pathlib.Path(folder)
        with Server(binary, folder / "walk", CONFIG) as server:
            admin = server.create_key("admin", "admin")
            for client in (openai.OpenAI, openai.AsyncOpenAI):
                walk(Api(client, server.base, admin), server, folder)
        walk_faults(binary, folder)
    told = [warning for warning in deprecations if "Sora" in str(warning.message)]
    step(f"openai {openai.__version__} passed in {time.monotonic() - began:.0f} s ({len(told)} warnings of the end of Sora)")


def walk(api, server, folder):
    step(f"openai {openai.__version__}, {api.kind}")
    models(api)
    video = create(api)
    wait(api)
    page(api)
    download(api, video, folder)
    remix(api, video)
    fail(api)
    be_refused(api)
    be_nobody(api, server)
    repeat(api)
    delete(api, video)


def models(api):
    equal("models", [model.id for model in api.all(api.client.models.list())], ["demo"])
    model = api.do(api.client.models.retrieve("demo"))
    equal("object and owner", (model.object, model.owned_by), ("model", "cogvideox-server"))
    refused(lambda: api.do(api.client.models.retrieve("none")), openai.NotFoundError, "model_not_found")


def create(api):
    step("create with nested fields, poll")
    fields = {"num_inference_steps": 2, "seed": 7, "guidance_scale": 6.5, "use_dynamic_cfg": True,
              "metadata": {"shot": "1", "take": "a b"}}
    answer = api.do(api.videos.with_raw_response.create(prompt=PROMPT, model="demo", size="240x160", extra_body=fields))
    video = answer.parse()
    equal("location", answer.headers["location"], f"/v1/videos/{video.id}")
    pause = int(answer.headers["openai-poll-after-ms"])
    assert 0 < pause <= 2000, f"expected a pause of at most 2000 ms, found {pause}"
    found = {name: getattr(video, name) for name in ("object", "model", "size", "prompt", *fields)}
    equal("the video", found, {"object": "video", "model": "demo", "size": "240x160", "prompt": PROMPT, **fields})
    assert video.status in ("queued", "in_progress") and isinstance(video.progress, int), video
    assert isinstance(video.seconds, str) and float(video.seconds) == video.num_frames / video.fps, video.seconds
    # A list of a field that there is not: refused by its name, not dropped.
    refused(lambda: api.do(api.videos.create(prompt=PROMPT, extra_body={"flags": [1, 2]})),
            openai.BadRequestError, "unknown_parameter", "flags")
    done = api.do(api.videos.poll(video.id))
    equal("status, progress, error", (done.status, done.progress, done.error), ("completed", 100, None))
    assert done.created_at <= done.completed_at <= time.time() + 1, done
    return done


def wait(api):
    step("create_and_poll, seconds instead of frames")
    video = api.do(api.videos.create_and_poll(prompt=PROMPT, seconds="2", extra_body={"num_inference_steps": 1}))
    equal("status", video.status, "completed")
    assert abs(float(video.seconds) - 2) < 1, f"expected about 2 s, found {video.seconds}"


def page(api):
    step("page through all, one by one")
    ids = [video.id for video in api.all(api.videos.list(limit=1))]
    equal("newest first", ids, sorted(ids, reverse=True))
    assert len(ids) == len(set(ids)) >= 2, f"expected some ids, each once, found {ids}"
    equal("oldest first", [video.id for video in api.all(api.videos.list(limit=1, order="asc"))], ids[::-1])
    equal("after the first", [video.id for video in api.all(api.videos.list(after=ids[0]))], ids[1:])
    refused(lambda: api.do(api.videos.list(limit=0)), openai.BadRequestError, "invalid_limit", "limit")


def download(api, video, folder):
    step("download every variant, whole, in pieces and into a file")
    for variant in media.MAGIC:
        answer = api.do(api.videos.download_content(video.id, variant=variant))
        media.check_magic(variant, answer.content)
        equal("content-type", answer.response.headers["content-type"], media.CONTENT_TYPE[variant])
    pieces = api.streamed(api.videos.with_streaming_response.download_content(video.id))
    assert len(pieces) > 1, f"expected several pieces, found {len(pieces)}"
    content = b"".join(pieces)
    equal("sha256", hashlib.sha256(content).hexdigest(), video.sha256)
    path = folder / "written.mp4"
    api.do(api.do(api.videos.download_content(video.id)).write_to_file(path))
    equal("the written file", path.read_bytes(), content)
    media.check_mp4(content, video.model_dump(), folder)
    refused(lambda: api.do(api.videos.download_content(video.id, variant="poster")),
            openai.BadRequestError, "unknown_variant", "variant")


def remix(api, video):
    step("remix")
    remixed = api.do(api.videos.remix(video.id, prompt="a panda playing drums"))
    equal("source, seed, steps", (remixed.remixed_from_video_id, remixed.seed, remixed.num_inference_steps), (video.id, 7, 2))
    equal("status", api.do(api.videos.poll(remixed.id)).status, "completed")
    running = api.do(api.videos.create(prompt=PROMPT, extra_body={"num_inference_steps": 1000}))
    refused(lambda: api.do(api.videos.remix(running.id, prompt="x")), openai.BadRequestError, "video_not_ready")
    refused(lambda: api.do(api.videos.download_content(running.id)), openai.BadRequestError, "video_not_ready")
    api.do(api.videos.delete(running.id))


def fail(api):
    step("a video that was cancelled is an answer, not an error")
    video = api.do(api.videos.create(prompt=PROMPT, extra_body={"num_inference_steps": 1000}))
    api.do(api.client.post(f"/videos/{video.id}/cancel", cast_to=object))
    failed = api.do(api.videos.poll(video.id))
    equal("status and code", (failed.status, failed.error.code), ("failed", "cancelled"))
    assert failed.error.message, f"expected a message, found {failed.error}"
    equal("by retrieve", api.do(api.videos.retrieve(video.id)).error.code, "cancelled")
    refused(lambda: api.do(api.videos.download_content(video.id)), openai.BadRequestError, "cancelled")


def be_refused(api):
    step("errors with code and param")
    for fields, code, param in (
            # Not "", which version 2 does not send at all.
            ({"prompt": "  "}, "empty_prompt", "prompt"),
            ({"size": "1x1"}, "unsupported_size", "size"),
            ({"seconds": "999"}, "invalid_seconds", "seconds"),
            ({"extra_body": {"num_inference_steps": 61}}, "unsupported_num_inference_steps", "num_inference_steps"),
            ({"extra_body": {"use_dynamic_cfg": "perhaps"}}, "invalid_type", "use_dynamic_cfg"),
            ({"input_reference": ("first.png", PNG, "image/png")}, "unsupported_input_reference", "input_reference"),
            ({"extra_body": {"input_reference": {"image_url": "data:image/png;base64,AA"}}}, "unsupported_input_reference", None)):
        refused(lambda: api.do(api.videos.create(**{"prompt": PROMPT, **fields})), openai.BadRequestError, code, param)
    refused(lambda: api.do(api.videos.create(prompt=PROMPT, model="sora-2")), openai.NotFoundError, "model_not_found", "model")
    image = ("large.png", PNG + bytes(27 << 20), "image/png")
    refused(lambda: api.do(api.videos.create(prompt=PROMPT, input_reference=image)), openai.APIStatusError, "payload_too_large")
    absent = "video_" + "0" * 32
    error = refused(lambda: api.do(api.videos.retrieve(absent)), openai.NotFoundError, "video_not_found", "video_id")
    assert error.request_id, "expected a request id, found none"
    refused(lambda: api.do(api.videos.delete(absent)), openai.NotFoundError, "video_not_found", "video_id")
    clip = ("clip.mp4", b"\0\0\0\x18ftypmp42", "video/mp4")
    for call in (lambda: api.videos.edit(prompt=PROMPT, video=clip), lambda: api.videos.extend(prompt=PROMPT, seconds="4", video=clip),
                 lambda: api.videos.create_character(name="panda", video=clip)):
        refused(lambda: api.do(call()), openai.BadRequestError, "unsupported_operation")


def be_nobody(api, server):
    step("without rights")
    stranger = api.with_key("cvx_nobody")
    refused(lambda: stranger.do(stranger.videos.list()), openai.AuthenticationError, "invalid_api_key")
    reader = api.with_key(server.create_key(f"reader-{api.kind}", "read"))
    equal("what a new key sees", reader.all(reader.videos.list()), [])
    refused(lambda: reader.do(reader.videos.create(prompt=PROMPT)), openai.PermissionDeniedError, "permission_denied")


def repeat(api):
    step("Idempotency-Key")
    headers = {"Idempotency-Key": f"once-{api.kind}"}
    first, second = (api.do(api.videos.with_raw_response.create(
        prompt=PROMPT, extra_body={"num_inference_steps": 1}, extra_headers=headers)) for _ in range(2))
    equal("the second video", second.parse().id, first.parse().id)
    replayed = [answer.headers.get("idempotent-replayed") for answer in (first, second)]
    equal("idempotent-replayed", replayed, [None, "true"])
    refused(lambda: api.do(api.videos.create(prompt="another", extra_headers=headers)),
            openai.UnprocessableEntityError, "idempotency_key_reuse")
    equal("status", api.do(api.videos.poll(first.parse().id)).status, "completed")


def delete(api, done):
    step("delete: queued, running, done")
    running, queued = (api.do(api.videos.create(prompt=PROMPT, extra_body={"num_inference_steps": 1000})) for _ in range(2))
    until("its start", lambda: api.do(api.videos.retrieve(running.id)).status == "in_progress")
    equal("status of the other", api.do(api.videos.retrieve(queued.id)).status, "queued")
    for doomed in (queued, running, done):
        answer = api.do(api.videos.delete(doomed.id))
        equal("the answer", (answer.id, answer.object, answer.deleted), (doomed.id, "video.deleted", True))
        refused(lambda: api.do(api.videos.retrieve(doomed.id)), openai.NotFoundError, "video_not_found")
        refused(lambda: api.do(api.videos.delete(doomed.id)), openai.NotFoundError, "video_not_found")


if __name__ == "__main__":
    main(*sys.argv[1:])
