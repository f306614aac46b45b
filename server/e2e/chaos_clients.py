"""The clients of a chaos run: they submit, meddle and listen while the server is killed under them, never give up, and
keep a ledger of what they were told, which the audit holds against what there is in the end.

Each is a thread with a random generator of its own. The server's address changes with every start, so it is looked up
for every call.
"""
import dataclasses
import hashlib
import http.client
import random
import threading
import time

BROKEN = (OSError, http.client.HTTPException)
# As many may be unsettled before the submitters wait: enough to have a queue, few enough to drain it.
MOST_UNSETTLED = 12
IDEMPOTENT_REPEATS = 0.1


@dataclasses.dataclass
class Job:
    """What the clients know of a video."""
    id: str
    recipe: int
    cancel_asked: bool = False
    # What the answer to a cancellation promised: the state that it then had.
    promised: str | None = None
    delete_asked: bool = False
    deleted: bool = False


class Ledger:
    """What was asked and answered, by all clients."""

    def __init__(self, recipes):
        self.recipes = recipes
        self.lock = threading.Lock()
        self.jobs = {}
        self.faults = []
        self.counts = dict.fromkeys(["broken calls", "replayed submissions", "cancels", "deletes", "retries",
                                     "priority changes", "downloads", "asked to come later (429, 503)"], 0)

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def fault(self, text):
        with self.lock:
            self.faults.append(text)

    def accept(self, video, recipe):
        with self.lock:
            return self.jobs.setdefault(video["id"], Job(video["id"], recipe))

    def recent(self, rng, among=40):
        """One of the youngest videos that were not deleted."""
        with self.lock:
            jobs = [job for job in self.jobs.values() if not job.delete_asked]
        return rng.choice(jobs[-among:]) if jobs else None


class Actor(threading.Thread):
    """Does `turn` again and again until it is told to stop; a turn that has begun is finished."""

    def __init__(self, server, ledger, seed):
        super().__init__(daemon=True)
        self.server, self.ledger, self.rng = server, ledger, random.Random(seed)
        self.stopping = threading.Event()

    def run(self):
        while not self.stopping.is_set():
            try:
                self.turn()
            except Exception as error:  # a thread that ends unheard would make the run easier
                self.ledger.fault(f"{type(self).__name__}: {type(error).__name__}: {error}")

    def call(self, method, path, body=None, headers=None):
        """The first answer that comes, however often the server goes away before. 429 and 503 are tried again too."""
        while True:
            try:
                answer = self.server.call(method, path, body, headers, expect=None, timeout=30)
            except BROKEN:
                self.ledger.count("broken calls")
                time.sleep(0.02)
                continue
            if answer.status in (429, 503):
                self.ledger.count("asked to come later (429, 503)")
                time.sleep(0.2)
                continue
            if answer.status >= 500:
                self.ledger.fault(f"{method} {path}: {answer.status} {answer.body}")
            return answer

    def key(self):
        return f"{self.rng.getrandbits(64):016x}"


class Submitter(Actor):
    """Submits one of the recipes with a key of its own, until it is told which video that makes."""

    def turn(self):
        line = self.call("GET", "/v1/queue").body
        if line["queued"] + line["in_progress"] >= MOST_UNSETTLED:
            time.sleep(0.05)
            return
        recipe = self.rng.randrange(len(self.ledger.recipes))
        body = {**self.ledger.recipes[recipe], "priority": self.rng.choice([-5, 0, 0, 0, 5])}
        headers = {"idempotency-key": self.key()}
        job = self.submit(body, headers, recipe)
        if job and self.rng.random() < IDEMPOTENT_REPEATS:
            again = self.submit(body, headers, recipe)
            # One that was deleted in between is forgotten, and may be made anew.
            if again is not job and not job.delete_asked:
                self.ledger.fault(f"one idempotency key made {job.id} and {again and again.id}")
        time.sleep(self.rng.expovariate(10))

    def submit(self, body, headers, recipe):
        answer = self.call("POST", "/v1/videos", body, headers)
        if answer.status != 200:
            self.ledger.fault(f"submit: {answer.status} {answer.body}")
            return None
        if answer.headers["idempotent-replayed"] == "true":
            self.ledger.count("replayed submissions")
        return self.ledger.accept(answer.body, recipe)


class Meddler(Actor):
    """Cancels, deletes, retries, moves and downloads videos at random."""

    def turn(self):
        time.sleep(self.rng.expovariate(8))
        job = self.ledger.recent(self.rng)
        if job is None:
            return
        action, = self.rng.choices([self.cancel, self.delete, self.retry, self.move, self.download],
                                   weights=[30, 15, 15, 10, 30])
        action(job, f"/v1/videos/{job.id}")

    def cancel(self, job, path):
        job.cancel_asked = True  # also if nobody ever answers
        answer = self.call("POST", f"{path}/cancel")
        self.ledger.count("cancels")
        if answer.status != 200:
            self.ledger.fault(f"cancel of {job.id}: {answer.status} {answer.body}")
        elif job.promised is None:
            job.promised = "cancelled" if answer.body["state"] == "cancelling" else answer.body["state"]

    def delete(self, job, path):
        job.delete_asked = job.cancel_asked = True
        answer = self.call("DELETE", path)
        while answer.status == 409:
            time.sleep(0.1)
            answer = self.call("DELETE", path)
        self.ledger.count("deletes")
        # 404: an earlier try did it, and its answer was lost.
        if answer.status not in (200, 404):
            self.ledger.fault(f"delete of {job.id}: {answer.status} {answer.body}")
        job.deleted = True

    def retry(self, job, path):
        answer = self.call("POST", f"{path}/retry", headers={"idempotency-key": self.key()})
        if answer.status == 200:
            self.ledger.count("retries")
            self.ledger.accept(answer.body, job.recipe)
        elif (answer.status, answer.body["error"]["code"]) != (400, "video_not_ready"):
            self.ledger.fault(f"retry of {job.id}: {answer.status} {answer.body}")

    def move(self, job, path):
        answer = self.call("PATCH", path, {"priority": self.rng.randint(-10, 10)})
        if answer.status == 200:
            self.ledger.count("priority changes")
        elif (answer.status, answer.body["error"]["code"]) != (409, "video_not_queued"):
            self.ledger.fault(f"priority of {job.id}: {answer.status} {answer.body}")

    def download(self, job, path):
        video = self.call("GET", path).body
        if video["status"] != "completed":
            return
        content = self.call("GET", f"{path}/content").body
        self.ledger.count("downloads")
        found = (len(content), hashlib.sha256(content).hexdigest())
        if found != (video["bytes"], video["sha256"]):
            self.ledger.fault(f"download of {job.id}: expected {video['bytes']} {video['sha256']}, found {found}")


class Follower(Actor):
    """Follows all videos from the first event on, and comes back with the last id that it was given."""

    def __init__(self, server, ledger, seed):
        super().__init__(server, ledger, seed)
        self.cursor = "0"
        self.durable = []  # (seq, name, video id)
        self.progress = 0
        self.connections = 0
        self.storing = threading.Event()  # set whenever a video's file is about to be written

    def turn(self):
        try:
            with self.server.stream("/v1/events", self.cursor, timeout=20) as stream:
                self.connections += 1
                for event in stream:
                    self.hear(event)
                    if self.stopping.is_set():
                        return
        except BROKEN:
            pass
        time.sleep(0.02)

    def hear(self, event):
        if event.name == "error":
            return
        if event.name == "video.stage" and event.data["stage"] in ("encode_mp4", "store"):
            self.storing.set()
        self.cursor = event.id or self.cursor
        if "." in self.cursor:
            self.progress += 1
        else:
            self.durable.append((int(self.cursor), event.name, event.data["id"]))
