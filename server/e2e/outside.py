"""The parties that the server calls: a prompt check, a refiner, receivers of webhooks; and what it must not call."""
import base64
import hashlib
import hmac
import socket
import time

from server import Server, equal, step, until
from stubs import Receiver

SECRET = b"twenty-four bytes or more of it"
WEBHOOKS = {"webhooks.secret": "whsec_" + base64.b64encode(SECRET).decode()}
REFINED = "A giant panda sits in a bamboo grove at dusk and strums an acoustic guitar while the camera slowly circles it."


def walk(binary, folder):
    blocklist(binary, folder / "blocklist")
    hook(binary, folder / "hook")
    refine(binary, folder / "refine")
    guarded_webhooks(binary, folder / "guarded")
    webhooks(binary, folder / "webhooks")


def closed_url():
    """A URL at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def blocklist(binary, folder):
    step("prompts that the operator's list refuses")
    terms = folder.parent / "terms.txt"
    terms.write_text("# not here\nass\nre:for.?bidden\n")
    with Server(binary, folder, {"prompt_check.blocklist": terms}) as server:
        equal("features.prompt_check", server.get("/v1/capabilities").body["features"]["prompt_check"], True)
        for prompt in ("a wild ASS", "an \uff41\uff53\uff53", "for-bidden things"):
            server.refused("POST", "/v1/videos", {"prompt": prompt}, status=400, code="prompt_refused", param="prompt")
        video = server.completed(server.create(prompt="grass under glass", num_inference_steps=1)["id"])
        server.refused("POST", f"/v1/videos/{video['id']}/remix", {"prompt": "an ass"}, status=400, code="prompt_refused")
    terms.write_text("re:(\n")
    message = Server(binary, folder, {"prompt_check.blocklist": terms}).run("serve", expect=1)
    assert "terms.txt" in message, f"expected the file's name in the message, found {message}"


def hook(binary, folder):
    step("prompts that the operator's service decides on, there or not")

    def judge(received):
        allowed = "snow" not in received.json()["prompt"]
        return 200, {"allowed": allowed, "reason": None if allowed else "no snow in July"}

    with Receiver(judge) as service, Server(binary, folder, {"prompt_check.hook_url": service.url + "/judge"}) as server:
        server.completed(server.create(prompt="rain", negative_prompt="fog", num_inference_steps=1)["id"])
        asked = service.next()
        equal("the path", asked.path, "/judge")
        equal("the question", asked.json(), {"prompt": "rain", "negative_prompt": "fog", "model": "demo", "api_key_name": None})
        answer = server.refused("POST", "/v1/videos", {"prompt": "snow"}, status=400, code="prompt_refused", param="prompt")
        assert "no snow in July" in answer.body["error"]["message"], answer.body
        service.next()
        server.refused("POST", "/v1/videos", {"prompt": "rain", "fps": 1}, status=400, param="fps")
        equal("questions about a request that is refused anyway", service.count(), 0)
    for fail_open in (False, True):
        with Server(binary, folder, {"prompt_check.hook_url": closed_url(), "prompt_check.fail_open": fail_open}) as server:
            if fail_open:
                server.create(num_inference_steps=1)
            else:
                server.refused("POST", "/v1/videos", {"prompt": "rain"}, status=503, code="prompt_check_unavailable")


def refine(binary, folder):
    step("prompts rewritten by a chat model, if it answers")

    def chat(received):
        asked = received.json()["messages"][-1]["content"]
        if "broken" in asked:
            return 500, {"error": "out of order"}
        said = "an ass" if "rude" in asked else f'<think>hm</think>\n"{REFINED}"'
        return 200, {"choices": [{"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}]}

    terms = folder.parent / "terms.txt"
    terms.write_text("ass\n")
    with Receiver(chat) as service:
        config = {"refine.base_url": service.url + "/v1", "refine.model": "chatty", "refine.api_key": "sk-refine",
                  "prompt_check.blocklist": terms}
        with Server(binary, folder, config) as server:
            equal("features.refine_prompt", server.get("/v1/capabilities").body["features"]["refine_prompt"], True)
            refined = server.create(prompt="a panda", refine_prompt=True, num_inference_steps=1)
            equal("prompt and refined prompt", (refined["prompt"], refined["refined_prompt"]), ("a panda", REFINED))
            asked = service.next()
            equal("the path", asked.path, "/v1/chat/completions")
            equal("the key", asked.headers["authorization"], "Bearer sk-refine")
            equal("model and prompt", (asked.json()["model"], asked.json()["messages"][-1]["content"]), ("chatty", "a panda"))
            plain = server.create(prompt="a panda", num_inference_steps=1)
            equal("refined prompt, unasked", plain["refined_prompt"], None)
            failed = server.create(prompt="broken", refine_prompt=True, num_inference_steps=1)
            equal("refined prompt after a 500", failed["refined_prompt"], None)
            assert any("not refined" in warning for warning in failed["warnings"]), f"expected a warning, found {failed}"
            server.refused("POST", "/v1/videos", {"prompt": "rude", "refine_prompt": True}, status=400, code="prompt_refused")
            again = server.post(f"/v1/videos/{server.completed(refined['id'])['id']}/retry").body
            equal("refined prompt of a retry", again["refined_prompt"], REFINED)
            assert "sk-refine" not in server.log() + server.run("check-config"), "expected the key nowhere, found it"


def guarded_webhooks(binary, folder):
    step("webhooks go to no neighbour")
    with Receiver() as neighbour, Server(binary, folder, {**WEBHOOKS, "webhooks.allow_http": True}) as server:
        port = neighbour.url.rpartition(":")[2]
        hosts = ("127.0.0.1", "[::1]", "10.0.0.1", "192.168.1.1", "169.254.169.254", "[::ffff:127.0.0.1]", "0.0.0.0", "0x7f.1")
        for host in hosts:
            refuse_url(server, f"http://{host}:{port}/")
        for url in ("ftp://example.com/", "http://user:word@example.com/", "example.com", "file:///etc/passwd"):
            refuse_url(server, url)
        # A name tells only when it is resolved.
        by_name = {"prompt": "x", "num_inference_steps": 1, "webhook_url": f"http://localhost:{port}/"}
        answer = server.post("/v1/videos", by_name, expect=None)
        if answer.status == 200:
            server.completed(answer.body["id"])
            server.until_logged("webhook not delivered")
        equal("calls of the neighbour", neighbour.count(), 0)
    with Server(binary, folder, {**WEBHOOKS, "webhooks.allow_private": True}) as server:
        refuse_url(server, "http://127.0.0.1:9/")


def refuse_url(server, url):
    server.refused("POST", "/v1/videos", {"prompt": "x", "webhook_url": url}, status=400, code="invalid_webhook_url",
                   param="webhook_url")


def webhooks(binary, folder):
    step("a webhook for each end, signed, and again where it was not taken")
    refusals = [503]

    def answer(received):
        return (refusals.pop() if refusals else 200), {}

    with Receiver(answer) as receiver:
        config = {**WEBHOOKS, "webhooks.allow_private": True, "webhooks.allow_http": True}
        with Server(binary, folder, config) as server:
            equal("features.webhooks", server.get("/v1/capabilities").body["features"]["webhooks"], True)
            video = server.completed(server.create(num_inference_steps=1, webhook_url=receiver.url + "/hook")["id"])
            equal("webhook_url", video["webhook_url"], receiver.url + "/hook")
            first, second = receiver.next(), receiver.next()
            for call in (first, second):
                check_signature(call)
                equal("type and video", (call.json()["type"], call.json()["data"]["id"]), ("video.completed", video["id"]))
            equal("the id of the second attempt", second.headers["webhook-id"], first.headers["webhook-id"])
            running = server.create(num_inference_steps=1000, webhook_url=receiver.url)
            server.until_step(running["id"])
            server.post(f"/v1/videos/{running['id']}/cancel")
            equal("type", receiver.next().json()["type"], "video.cancelled")
            # One that ends while its receiver is away is told of after a restart too.
            refusals.append(503)
            late = server.completed(server.create(num_inference_steps=1, webhook_url=receiver.url)["id"])
            receiver.next()
            server.kill()
            server.start()
            equal("the video of the late delivery", receiver.next().json()["data"]["id"], late["id"])
            until("an empty outbox", lambda: server.metric("cogvideox_webhook_outbox_pending") == 0)
            equal("further calls", receiver.count(), 0)


def check_signature(call):
    """As the Standard Webhooks specification has it."""
    headers = call.headers
    assert abs(time.time() - int(headers["webhook-timestamp"])) < 60, f"expected the time, found {headers['webhook-timestamp']}"
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + call.body
    expected = "v1," + base64.b64encode(hmac.new(SECRET, signed, hashlib.sha256).digest()).decode()
    equal("webhook-signature", headers["webhook-signature"], expected)
