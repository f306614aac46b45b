#!/usr/bin/env python3
"""Does the Grafana dashboard show what the server measures?

Reads the text of `/metrics` on standard input and looks for each metric that `docker/grafana/dashboard.json` asks for.
A metric counts as present if its `# TYPE` line is there, so that counters which nothing has raised yet are no fault;
a histogram's `_bucket`, `_sum` and `_count` belong to it. Also checks the dashboard itself: every panel has a target,
every target an expression over the template's data source, every name a prefix, every panel a place of its own.

usage: curl -s http://127.0.0.1:8000/metrics | dashboard.py
"""
import json
import pathlib
import re
import sys

DASHBOARD = pathlib.Path(__file__).resolve().parents[2] / "docker/grafana/dashboard.json"
PREFIXES = ("cogvideox_", "http_")
# What may be missing: a server without a GPU has no such gauges.
ONLY_WITH_A_GPU = {"cogvideox_gpu_memory_bytes"}
WORDS_OF_PROMQL = {
    "by", "clamp_min", "histogram_quantile", "increase", "instance", "le", "max", "min", "rate", "sum", "label_values",
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


def main():
    faults, names = check_panels(json.loads(DASHBOARD.read_text()))
    present = metrics_in(sys.stdin.read())
    if not present:
        faults.append("standard input declares no metric (expected the text of /metrics)")
    missing = sorted(names - present - ONLY_WITH_A_GPU)
    faults += [f"the server has no metric {name}" for name in missing]
    absent = sorted((names & ONLY_WITH_A_GPU) - present)
    for fault in faults:
        print(f"dashboard: {fault}", file=sys.stderr)
    note = f" ({', '.join(absent)} absent: no GPU)" if absent else ""
    print(f"dashboard: {len(names)} metrics, {len(missing)} missing{note}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
