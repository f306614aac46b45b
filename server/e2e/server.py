"""What the end-to-end scripts share: a server to start, stop and kill, and calls to it that say what they expected.

Python's standard library only. A server lives in a folder of its own (`data/`, `server.log`), listens on a port of the
system's choice and is configured by the environment, as an operator would:

    with Server(binary, folder, {"worker.checkpoint_interval_seconds": 0}) as server:
        video = server.create(num_inference_steps=10)
        server.finished(video["id"])
"""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import typing
import urllib.error
import urllib.request

LOG_LINES_SHOWN = 30
LOG_LINE_CHARS = 300


def step(text):
    """Tells what is tried next."""
    print(f"e2e: {text}", flush=True)


def equal(what, found, expected):
    assert found == expected, f"{what}: expected {expected!r}, found {found!r}"


def until(what, condition, seconds=120):
    """The first truthy answer of `condition`, which is asked again and again."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.02)
    return answer


class Answer(typing.NamedTuple):
    status: int
    body: typing.Any  # JSON where the answer says so, else bytes
    headers: typing.Any


class Event(typing.NamedTuple):
    id: str | None
    name: str
    data: typing.Any


class EventStream:
    """Server-sent events as they come. Iterating ends with the stream, however that ended."""

    def __init__(self, response):
        self.response = response
        self.status = response.status
        self.retry_ms = None
        self.last_event_id = None
        if self.status == 200:
            found = response.headers["content-type"]
            assert found.startswith("text/event-stream"), f"expected an event stream, found {found}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.response.close()

    def __iter__(self):
        fields = {}
        try:
            for line in self.response:
                line = line.decode().rstrip("\r\n")
                name, _, value = line.partition(": ")
                if not line:
                    self.last_event_id = fields.get("id", self.last_event_id)
                    if "event" in fields:
                        yield Event(fields.get("id"), fields["event"], json.loads(fields["data"]))
                    fields = {}
                elif name == "retry":
                    self.retry_ms = int(value)
                elif name:  # without one it is a comment
                    fields[name] = value
        except OSError:
            return  # the connection broke

    def next(self, name):
        """The next event of that name; what comes before it is skipped."""
        for event in self:
            if event.name == name:
                return event
        raise AssertionError(f"expected a {name}, found the end of the stream")


class Client:
    """Calls to a server, with one API key or none."""

    def __init__(self, base, key=None):
        self.base = base
        self.key = key

    def open(self, method, path, body=None, headers=None, timeout=120):
        """The response itself, whatever its status."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {**({"content-type": "application/json"} if data else {}),
                   **({"authorization": f"Bearer {self.key}"} if self.key else {}), **(headers or {})}
        request = urllib.request.Request(self.base + path, data, headers, method=method)
        try:
            return urllib.request.urlopen(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            return error

    def call(self, method, path, body=None, headers=None, expect=200, timeout=120):
        with self.open(method, path, body, headers, timeout) as response:
            status, content, found = response.status, response.read(), response.headers
        assert found["x-request-id"], f"{method} {path}: expected an x-request-id, found none"
        assert expect in (None, status), f"{method} {path} {body!r}: expected {expect}, found {status} {content[:600]!r}"
        if "json" in (found["content-type"] or "") and content:
            content = json.loads(content)
        return Answer(status, content, found)

    def get(self, path, **more):
        return self.call("GET", path, **more)

    def post(self, path, body=None, **more):
        return self.call("POST", path, body, **more)

    def refused(self, method, path, body=None, *, status, code=None, param=None, headers=None):
        """The error of a call that must fail so."""
        answer = self.call(method, path, body, headers, expect=status)
        error = answer.body["error"]
        assert error["message"] and error["type"], f"{method} {path}: expected message and type, found {error}"
        wanted = {key: value for key, value in (("code", code), ("param", param)) if value is not None}
        equal(f"{method} {path} {body!r}", {key: error[key] for key in wanted}, wanted)
        return answer

    def create(self, headers=None, **fields):
        return self.post("/v1/videos", {"prompt": "a panda playing a guitar", **fields}, headers=headers).body

    def video(self, video_id):
        return self.get(f"/v1/videos/{video_id}").body

    def content(self, video_id, variant="video"):
        return self.get(f"/v1/videos/{video_id}/content?variant={variant}").body

    def until_step(self, video_id, least=1):
        """The video, once it is being made and has come so far."""
        return until(f"{video_id} at step {least}", lambda: (video := self.video(video_id))["step"] >= least and video)

    def finished(self, video_id):
        """The video, once it has come to whatever end."""
        return until(f"the end of {video_id}", lambda: (video := self.video(video_id))["completed_at"] and video)

    def completed(self, video_id):
        video = self.finished(video_id)
        equal(f"status of {video_id} ({video['error']})", video["status"], "completed")
        return video

    def stream(self, path, last_event_id=None, timeout=120):
        headers = {"accept": "text/event-stream"}
        if last_event_id is not None:
            headers["last-event-id"] = last_event_id
        response = self.open("GET", path, headers=headers, timeout=timeout)
        assert response.status in (200, 204), f"GET {path}: expected events, found {response.status} {response.read()!r}"
        return EventStream(response)

    def events(self, video_id, query="", last_event_id=None):
        return self.stream(f"/v1/videos/{video_id}/events{query}", last_event_id)

    def metric(self, name, **labels):
        """The value of a metric; 0 where it is not there yet."""
        text = self.get("/metrics").body.decode()
        for line in text.splitlines():
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == name and labels.items() <= dict(re.findall(r'(\w+)="(.*?)"', found[2] or "")).items():
                return float(found[3])
        return 0.0


class Server(Client):
    """The real binary. Starts with `start` or `with`, and can be started again after its end."""

    def __init__(self, binary, folder, config=None, arguments=(), key=None):
        super().__init__(None, key)
        self.binary = pathlib.Path(binary).resolve()
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data_dir = self.folder / "data"
        self.log_path = self.folder / "server.log"
        self.arguments = arguments
        self.process = None
        self.configure({"data_dir": self.data_dir, "server.port": 0, "log.format": "json", **(config or {})})

    def configure(self, config):
        """Sets keys of the configuration, {"section.key": value}, from the next start on."""
        self.config = {**getattr(self, "config", {}), **config}
        words = {True: "true", False: "false"}
        variables = {f"COGVIDEOX_{key.replace('.', '__').upper()}": words.get(value, str(value)) if isinstance(value, bool)
                     else str(value) for key, value in self.config.items()}
        self.environment = {**os.environ, **variables}

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        if self.process and self.process.poll() is None:
            self.kill()
        if kind and self.log_path.exists():
            lines = self.log_path.read_text().splitlines()[-LOG_LINES_SHOWN:]
            shown = [re.sub(r',"target".*', "", line)[:LOG_LINE_CHARS] for line in lines]
            print("\n".join([f"e2e: the end of {self.log_path}:", *shown]), file=sys.stderr, flush=True)

    def start(self, ready=True):
        """Starts it, and waits until it listens and, unless told otherwise, is ready."""
        with open(self.log_path, "a") as log:
            self.log_begin = log.tell()
            command = [self.binary, "serve", *self.arguments]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        self.base = "http://" + self.until_logged(r'"address":"([^"]+)"').group(1)
        if ready:
            until("readiness", lambda: self.get("/readyz", expect=None).status == 200)
        return self

    def log(self):
        """What it logged since its last start."""
        with open(self.log_path) as log:
            log.seek(self.log_begin)
            return log.read()

    def until_logged(self, pattern, seconds=60):
        def look():
            found = re.search(pattern, self.log())
            assert found or self.process.poll() is None, f"expected {pattern} in the log, found the server's end"
            return found
        return until(f"{pattern} in the log", look, seconds)

    def kill(self):
        """kill -9"""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds=30, with_signal=signal.SIGTERM):
        """Asks it to stop and checks that it does so in order; returns the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(with_signal)
        equal("exit status", self.process.wait(seconds), 0)
        return time.monotonic() - began

    def run(self, *arguments, expect=0):
        """Another command of the program, on the same data and configuration; its stdout, or its stderr if it must fail."""
        command = [self.binary, *(str(argument) for argument in arguments)]
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert (result.returncode == 0) == (expect == 0), (
            f"{' '.join(map(str, command))}: expected exit status {expect}, found {result.returncode} {result.stderr}")
        return result.stderr if expect else result.stdout

    def create_key(self, name, *scopes, **limits):
        """Makes an API key and returns its text; limits as in `requests_per_minute=10`."""
        flags = [part for scope in scopes for part in ("--scope", scope)]
        flags += [part for limit, value in limits.items() for part in (f"--{limit.replace('_', '-')}", value)]
        return self.run("keys", "create", name, *flags).strip()

    def client(self, name, *scopes, **limits):
        """A client of the running server with a new key of its own."""
        return Client(self.base, self.create_key(name, *scopes, **limits))
