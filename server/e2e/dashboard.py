#!/usr/bin/env python3
"""Does the Grafana dashboard show what the server measures?

Reads the text of `/metrics` on standard input and looks for each metric that `docker/grafana/dashboard.json` asks for.
A metric counts as present if its `# TYPE` line is there, so that counters which nothing has raised yet are no fault;
a histogram's `_bucket`, `_sum` and `_count` belong to it. Also checks the dashboard itself: every panel has a target,
every target an expression over the template's data source, every name a prefix, every panel a place of its own.

With a binary it starts that, has videos made, and asks a real Prometheus (`prometheus` on PATH, Debian has it) each
expression as Grafana would: all must parse, and give data where there was traffic. It takes about half a minute.

usage: curl -s http://127.0.0.1:8000/metrics | dashboard.py
       dashboard.py BINARY
"""
import contextlib
import json
import math
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request

from server import Server, step, until

DASHBOARD = pathlib.Path(__file__).resolve().parents[2] / "docker/grafana/dashboard.json"
PREFIXES = ("cogvideox_", "http_")
# What may be missing: a server without a GPU has no such gauges.
ONLY_WITH_A_GPU = {"cogvideox_gpu_memory_bytes"}
# What Grafana puts in place of its variables; the interval covers all of the traffic.
VARIABLES = {"$instance": ".*", "$__rate_interval": "1m"}
SCRAPES_PER_SECOND = 2
# Of two scrapes there is a rate.
SCRAPES_AFTER_TRAFFIC = 3
WORDS_OF_PROMQL = {
    "by", "clamp_min", "histogram_quantile", "increase", "instance", "le", "max", "min", "or", "rate", "sum", "label_values", "vector",
}


def names_in(expression):
    """The metrics of a PromQL expression: its words outside of selectors, ranges and label lists."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby\s*\([^)]*\)", " ", expression)
    return set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", bare)) - WORDS_OF_PROMQL


def check_panels(dashboard):
    """The faults of the dashboard's own making, and every metric it names."""
    faults, names, places = [], set(), set()
    for panel in dashboard["panels"]:
        title, spot = panel["title"], panel["gridPos"]
        cells = {(x, y) for x in range(spot["x"], spot["x"] + spot["w"]) for y in range(spot["y"], spot["y"] + spot["h"])}
        if cells & places or spot["x"] + spot["w"] > 24:
            faults.append(f"panel {title!r} lies over another or off the grid")
        places |= cells
        if panel["type"] == "row":
            continue
        if not panel.get("targets"):
            faults.append(f"panel {title!r} has no target")
        for target in panel.get("targets", []):
            if target["datasource"]["uid"] != "${datasource}":
                faults.append(f"panel {title!r} asks {target['datasource']['uid']!r}, not the template's data source")
            found = names_in(target["expr"])
            faults += [f"panel {title!r} names {name!r}, without one of {PREFIXES}" for name in found if not name.startswith(PREFIXES)]
            names |= {name for name in found if name.startswith(PREFIXES)}
    ids = [panel["id"] for panel in dashboard["panels"]]
    if len(ids) != len(set(ids)):
        faults.append("two panels have the same id")
    for variable in dashboard["templating"]["list"]:
        names |= {name for name in names_in(variable.get("definition", "")) if name.startswith(PREFIXES)}
    return faults, names


def metrics_in(text):
    """Every name a `/metrics` answer declares, with the series of its histograms."""
    declared = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)", text, re.MULTILINE):
        declared.add(name)
        if kind == "histogram":
            declared |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
    return declared


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Prometheus:
    """A real one, that scrapes the server and lives in a folder."""

    def __init__(self, folder, target):
        self.folder, self.port = folder, free_port()
        scrape = {"job_name": "cogvideox", "static_configs": [{"targets": [target]}]}
        interval = f"{1000 // SCRAPES_PER_SECOND}ms"
        (folder / "prometheus.yml").write_text(json.dumps(  # JSON is YAML
            {"global": {"scrape_interval": interval, "scrape_timeout": interval}, "scrape_configs": [scrape]}))

    def __enter__(self):
        command = ["prometheus", f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/tsdb",
                   f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=error"]
        self.process = subprocess.Popen(command)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)

    def get(self, path, **query):
        """The data of an answer, or the words of a refusal."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)["data"], None
        except urllib.error.HTTPError as error:
            if error.code == 503:
                raise  # it is not ready yet, and says so in plain text
            return None, json.load(error)["error"]

    def value(self, expression):
        """The first value of an expression; nothing while there is none, or no Prometheus yet."""
        with contextlib.suppress(urllib.error.URLError):
            data, _ = self.get("query", query=expression)
            return data and data["result"] and float(data["result"][0]["value"][1])

    def until_scraped(self, scrapes):
        """Waits for so many more scrapes of the server as it is now."""
        count = "sum(count_over_time(up[1h]))"
        seen = self.value(count) or 0
        until(f"{scrapes} scrapes", lambda: (self.value(count) or 0) >= seen + scrapes, 30)


def make_traffic(server, prometheus):
    """Whatever the server counts, as far as it can be brought about from outside. Counters come twice: what is there at
    the first scrape of it is no increase."""
    for _ in range(2):
        server.completed(server.create(num_inference_steps=4)["id"])
        cancelled = server.create(num_inference_steps=50)["id"]
        server.until_step(cancelled)
        server.post(f"/v1/videos/{cancelled}/cancel")
        server.finished(cancelled)
        server.post("/v1/queue/pause")
        waiting = [server.create(num_inference_steps=1)["id"] for _ in range(2)]
        server.refused("POST", "/v1/videos", {"prompt": "one too many"}, status=429)
        prometheus.until_scraped(1)
        server.post("/v1/queue/resume")
        for video_id in waiting:
            server.completed(video_id)
        prometheus.until_scraped(1)
    prometheus.until_scraped(SCRAPES_AFTER_TRAFFIC)


def ask(prometheus, expression):
    """What is wrong with an expression's answer: nothing (None), "empty", "NaN", or Prometheus' words."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    data, refused = prometheus.get("query", query=expression)
    if refused:
        return refused
    values = [float(series["value"][1]) for series in data["result"]]
    if not values:
        return "empty"
    return "NaN" if all(map(math.isnan, values)) else None


def check_with_prometheus(binary, dashboard, folder):
    """Asks a real Prometheus each expression; the faults, and what has no data and need not."""
    faults, quiet, asked = [], [], 0
    with Server(binary, folder / "server", {"queue.capacity": 2}) as server:
        with Prometheus(folder, server.base.removeprefix("http://")) as prometheus:
            until("Prometheus", lambda: prometheus.value("up") == 1, 30)
            make_traffic(server, prometheus)
            for panel in dashboard["panels"]:
                for target in panel.get("targets", []):
                    asked += 1
                    wrong = ask(prometheus, target["expr"])
                    if wrong in ("empty", "NaN") and names_in(target["expr"]) & ONLY_WITH_A_GPU:
                        quiet.append(panel["title"])
                    elif wrong:
                        faults.append(f"panel {panel['title']!r}: {target['expr']} gives {wrong}")
            instances, refused = prometheus.get("label/instance/values", **{"match[]": "cogvideox_build_info"})
            if not instances:
                faults.append(f"the template finds no instance: {refused or 'empty'}")
    step(f"dashboard: {asked} expressions asked of Prometheus, {len(faults)} faults; "
         f"without data, for want of a GPU: {', '.join(quiet) or 'none'}")
    return faults


def main(binary=None):
    dashboard = json.loads(DASHBOARD.read_text())
    if binary:
        if not shutil.which("prometheus"):
            print("dashboard: skipped, there is no prometheus on PATH")
            return 0
        with tempfile.TemporaryDirectory(prefix="e2e-dashboard-") as folder:
            faults = check_with_prometheus(binary, dashboard, pathlib.Path(folder))
    else:
        faults = check_text(dashboard, sys.stdin.read())
    for fault in faults:
        print(f"dashboard: {fault}", file=sys.stderr)
    return 1 if faults else 0


def check_text(dashboard, text):
    """The faults of the dashboard and of the text of `/metrics` under it."""
    faults, names = check_panels(dashboard)
    present = metrics_in(text)
    if not present:
        faults.append("standard input declares no metric (expected the text of /metrics)")
    missing = sorted(names - present - ONLY_WITH_A_GPU)
    faults += [f"the server has no metric {name}" for name in missing]
    absent = sorted((names & ONLY_WITH_A_GPU) - present)
    note = f" ({', '.join(absent)} absent: no GPU)" if absent else ""
    print(f"dashboard: {len(names)} metrics, {len(missing)} missing{note}")
    return faults


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
