"""Who may do what: API keys and their scopes, servers without keys, and browsers.

A video of another key must look exactly like one that never was.
"""
import http.client
import select

from server import Client, Server, equal, step

ABSENT = "video_" + "0" * 32
# The polling here is faster than any client's.
NO_LIMIT = {"limits.requests_per_minute_per_key": 0}


def walk(binary, folder):
    stay_at_home(binary, folder / "home")
    without_keys(binary, folder / "open")
    with Server(binary, folder / "keys", NO_LIMIT) as server:
        with_keys(server)
        refuse_early(server)
        keep_apart(server)
        limits_of_a_key(server)
        revoke(server)


def stay_at_home(binary, folder):
    step("without a key nobody but this machine is let in")
    server = Server(binary, folder, {"server.address": "0.0.0.0"})
    message = server.run("serve", expect=1)
    assert "API key" in message and "0.0.0.0" in message, f"expected the reason, found {message}"
    key = server.create_key("someone", "admin")
    with server:
        Client(server.base, key).get("/v1/queue")
        server.refused("GET", "/v1/queue", status=401, code="missing_api_key")


def without_keys(binary, folder):
    step("an open server takes any key, and nothing from the pages of others")
    with Server(binary, folder, {"server.allowed_hosts": "videos.internal"}) as server:
        Client(server.base, "sk-anything").get("/v1/videos")
        port = server.base.rpartition(":")[2]
        headers = {"host": f"evil.example:{port}"}
        server.refused("GET", "/v1/videos", status=403, code="host_not_allowed", headers=headers)
        for host in (f"localhost:{port}", "videos.internal"):
            server.get("/v1/videos", headers={"host": host})
        body = {"prompt": "x", "num_inference_steps": 1}
        for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            server.refused("POST", "/v1/videos", body, status=403, code="cross_site_request", headers=headers)
        answer = server.post("/v1/videos", body, headers={"origin": server.base, "sec-fetch-site": "same-origin"})
        equal("access-control-allow-origin", answer.headers["access-control-allow-origin"], None)


def with_keys(server):
    step("from the first key on, every request needs one")
    server.get("/v1/videos")
    equal("features.api_keys", server.get("/v1/capabilities").body["features"]["api_keys"], False)
    server.key = server.create_key("root", "admin")
    nobody, stranger = Client(server.base), Client(server.base, "cvx_" + "0" * 40)
    for path in ("/v1/videos", "/v1/queue", "/v1/events", f"/v1/videos/{ABSENT}", f"/v1/videos/{ABSENT}/content"):
        answer = nobody.refused("GET", path, status=401, code="missing_api_key")
        equal("www-authenticate", answer.headers["www-authenticate"], "Bearer")
        stranger.refused("GET", path, status=401, code="invalid_api_key")
        Client(server.base, server.key[:-1]).refused("GET", path, status=401, code="invalid_api_key")
    nobody.refused("POST", "/v1/videos", {"prompt": "x"}, status=401, code="missing_api_key")
    for path in ("/livez", "/readyz", "/healthz", "/v1/capabilities", "/openapi.yaml", "/docs", "/", "/metrics"):
        nobody.get(path)
    equal("features.api_keys", nobody.get("/v1/capabilities").body["features"]["api_keys"], True)
    reader, writer = server.client("reader", "read"), server.client("writer", "submit")
    reader.get("/v1/videos")
    reader.refused("POST", "/v1/videos", {"prompt": "x"}, status=403, code="permission_denied")
    writer.refused("GET", "/v1/videos", status=403, code="permission_denied")
    for action in ("pause", "resume"):
        for client in (reader, writer):
            client.refused("POST", f"/v1/queue/{action}", status=403, code="permission_denied")
        equal("paused", server.post(f"/v1/queue/{action}").body["paused"], action == "pause")
    listed = server.run("keys", "list")
    assert "reader" in listed and server.key not in listed, f"expected names without secrets, found {listed}"
    secret = server.key.encode()
    for path in server.folder.rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes(), f"expected no API key in {path}, found one"


def refuse_early(server):
    step("a refusal that comes before the body's end is not lost")
    connection = http.client.HTTPConnection(server.base.removeprefix("http://"), timeout=30)
    body = b"x" * 100_000
    connection.putrequest("POST", "/v1/videos")
    connection.putheader("content-length", str(len(body)))
    connection.endheaders()
    # A server that answers now and hangs up resets the connection when the body comes; some clients then lose the answer.
    select.select([connection.sock], [], [], 0.3)
    connection.send(body)
    answer = connection.getresponse()
    equal("status", answer.status, 401)
    answer.read()
    wire = connection.sock
    assert wire, "expected the connection to stay, found it closed"
    connection.request("GET", "/livez")
    equal("status of the next request", connection.getresponse().status, 200)
    equal("its connection", connection.sock, wire)
    connection.close()


def keep_apart(server):
    step("another key's video is not there, for any request; an admin sees all")
    alice, bob = server.client("alice", "submit", "read"), server.client("bob", "submit", "read")
    hers = alice.create(num_inference_steps=1)["id"]
    alice.completed(hers)
    calls = [("GET", "", None), ("GET", "/content", None), ("GET", "/content?variant=thumbnail", None), ("GET", "/events", None),
             ("POST", "/cancel", None), ("POST", "/retry", None), ("POST", "/remix", {"prompt": "x"}),
             ("PATCH", "", {"priority": 1}), ("DELETE", "", None)]
    for method, rest, body in calls:
        absent = bob.refused(method, f"/v1/videos/{ABSENT}{rest}", body, status=404, code="video_not_found")
        other = bob.refused(method, f"/v1/videos/{hers}{rest}", body, status=404, code="video_not_found")
        expected = absent.body["error"]["message"].replace(ABSENT, hers)
        equal(f"{method} {rest}: the message", other.body["error"]["message"], expected)
    equal("bob's list", bob.get("/v1/videos").body["data"], [])
    bob.refused("GET", f"/v1/videos?after={hers}", status=400, code="invalid_cursor")
    his = bob.create(num_inference_steps=1)["id"]
    equal("alice's list", [video["id"] for video in alice.get("/v1/videos").body["data"]], [hers])
    listed = {video["id"] for video in server.get("/v1/videos").body["data"]}
    assert {hers, his} <= listed, f"expected both videos in the admin's list, found {listed}"
    server.content(hers)
    server.call("DELETE", f"/v1/videos/{hers}")
    alice.refused("GET", f"/v1/videos/{hers}", status=404, code="video_not_found")
    bob.completed(his)


def limits_of_a_key(server):
    step("a key's own limits, which bother no other")
    small = server.client("small", "submit", "read", max_queued=1)
    server.post("/v1/queue/pause")
    waiting = small.create(num_inference_steps=1)
    answer = small.refused("POST", "/v1/videos", {"prompt": "x"}, status=429, code="queue_full")
    assert 0 < int(answer.headers["retry-after"]) <= 120, f"expected at most 120 s, found {answer.headers['retry-after']}"
    other = server.create(num_inference_steps=1)
    server.post("/v1/queue/resume")
    small.completed(waiting["id"])
    server.completed(other["id"])
    hasty = server.client("hasty", "read", requests_per_minute=5)
    for _ in range(5):
        hasty.get("/v1/videos")
    answer = hasty.refused("GET", "/v1/videos", status=429, code="rate_limit_exceeded")
    assert 0 < int(answer.headers["retry-after-ms"]) <= 12_000, answer.headers["retry-after-ms"]
    server.get("/v1/videos")


def revoke(server):
    step("a revoked key is refused at once; its videos stay, for admins")
    gone = server.client("gone", "submit", "read")
    video = gone.create(num_inference_steps=1)
    gone.completed(video["id"])
    server.run("keys", "revoke", "gone")
    gone.refused("GET", f"/v1/videos/{video['id']}", status=401, code="invalid_api_key")
    gone.refused("POST", "/v1/videos", {"prompt": "x"}, status=401, code="invalid_api_key")
    server.content(video["id"])
    server.run("keys", "revoke", "root")
    server.refused("GET", "/v1/videos", status=401, code="invalid_api_key")
    Client(server.base).refused("GET", "/v1/videos", status=401, code="missing_api_key")
