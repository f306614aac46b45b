"""How the OpenAI client fares when something is in the way: limits, a broken wire, a lost server; and its webhooks."""
import base64
import itertools
import time

import openai

from openai_adapter import Api, refused
from server import Server, equal, step, until
from stubs import CuttingProxy, Receiver

PROMPT = "a panda playing a guitar"
SECRET = "whsec_" + base64.b64encode(b"twenty-four bytes or more of it").decode()
KINDS = (openai.OpenAI, openai.AsyncOpenAI)


def walk_faults(binary, folder):
    config = {"webhooks.secret": SECRET, "webhooks.allow_private": True, "webhooks.allow_http": True, "queue.capacity": 1,
              "queue.max_attempts": 1}
    with Server(binary, folder / "faults", config) as server:
        server.key = server.create_key("admin", "admin", requests_per_minute=1_000_000)
        for kind in KINDS:
            be_slowed(kind, server)
            be_cut_off(kind, server)
            receive(kind, server)
        queue_full(Api(KINDS[0], server.base, server.key, max_retries=0))
        lose_the_server(KINDS[0], server)


def be_slowed(kind, server):
    step(f"{kind.__name__}: too many requests: waits as long as it is told, and succeeds")
    per_minute = 30
    key = server.create_key(f"slow-{kind.__name__}", "read", requests_per_minute=per_minute)
    hasty, patient = Api(kind, server.base, key, max_retries=0), Api(kind, server.base, key)
    for sent in itertools.count():
        try:
            hasty.do(hasty.videos.list())
        except openai.RateLimitError as error:
            equal("code", error.code, "rate_limit_exceeded")
            told = float(error.response.headers["retry-after-ms"]) / 1000
            assert 0 < told <= 60 / per_minute, f"expected at most {60 / per_minute} s, found {told}"
            assert 0 < int(error.response.headers["retry-after"]) <= 120, error.response.headers["retry-after"]
            break
        assert sent < 10 * per_minute, f"expected a refusal after {per_minute} requests, found none"
    began = time.monotonic()
    answer = patient.do(patient.videos.with_raw_response.list())
    waited = time.monotonic() - began
    assert answer.retries_taken >= 1, "expected a retry, found none"
    assert waited >= 0.8 * told, f"expected a wait of {told} s, found {waited:.2f} s"


def be_cut_off(kind, server):
    step(f"{kind.__name__}: the wire breaks under the first answer: the retry gets the same video")
    with CuttingProxy(server.base.removeprefix("http://")) as proxy:
        api = Api(kind, f"http://{proxy.address}", server.key)
        before = {video["id"] for video in server.get("/v1/videos").body["data"]}
        fields = {"num_inference_steps": 1, "metadata": {"b": "2", "a": "1"}}
        answer = api.do(api.videos.with_raw_response.create(prompt=PROMPT, extra_body=fields))
        equal("retries", answer.retries_taken, 1)
        equal("idempotent-replayed", answer.headers.get("idempotent-replayed"), "true")
        after = {video["id"] for video in server.get("/v1/videos").body["data"]}
        equal("new videos", after - before, {answer.parse().id})
    server.completed(answer.parse().id)
    again = server.create(num_inference_steps=1, metadata={"b": "2", "a": "1"})
    assert again["id"] not in after, "expected a video of its own for an equal request that is no retry, found the old one"
    server.completed(again["id"])


def receive(kind, server):
    step(f"{kind.__name__}: unwraps a webhook")
    api = Api(kind, server.base, server.key)
    with Receiver() as receiver:
        video = api.do(api.videos.create(prompt=PROMPT, extra_body={"num_inference_steps": 1, "webhook_url": receiver.url}))
        call = receiver.next()
        event = api.do(api.client.webhooks.unwrap(call.body, call.headers, secret=SECRET))
        equal("type and video", (event.type, event.data.id), ("video.completed", video.id))
        equal("object and id", (event.object, event.id), ("event", call.headers["webhook-id"]))
        forged = call.body.replace(b"completed", b"cancelled")
        try:
            api.do(api.client.webhooks.unwrap(forged, call.headers, secret=SECRET))
        except openai.InvalidWebhookSignatureError:
            return
        raise AssertionError("expected a forged body to be refused, found it taken")


def queue_full(api):
    step("a full queue")
    running = api.do(api.videos.create(prompt=PROMPT, extra_body={"num_inference_steps": 1000}))
    until("its start", lambda: api.do(api.videos.retrieve(running.id)).status == "in_progress")
    waiting = api.do(api.videos.create(prompt=PROMPT, extra_body={"num_inference_steps": 1000}))
    error = refused(lambda: api.do(api.videos.create(prompt="one more")), openai.RateLimitError, "queue_full")
    assert 0 < int(error.response.headers["retry-after"]) <= 120, error.response.headers["retry-after"]
    for video in (waiting, running):
        api.do(api.videos.delete(video.id))


def lose_the_server(kind, server):
    step("a video that went down with its server, with no attempt left, has failed: an answer, not an error")
    api = Api(kind, server.base, server.key)
    video = api.do(api.videos.create(prompt=PROMPT, extra_body={"num_inference_steps": 1000}))
    until("its start", lambda: server.video(video.id)["attempt"] == 1)
    server.kill()
    server.start()
    api = Api(kind, server.base, server.key)
    failed = api.do(api.videos.poll(video.id))
    equal("status and code", (failed.status, failed.error.code), ("failed", "worker_lost"))
