#!/usr/bin/env python3
"""Writes THIRD-PARTY.md: what the program is linked with, under which licence, and the licences' texts.

    python3 server/third_party.py           # after a change of Cargo.lock
    python3 server/third_party.py --check   # exit status 1 if the file is not what this would write

Of every crate that the released program is built from on Linux, with all features: crates for tests alone are left out.
Where a crate offers several licences, the first of PREFERRED is taken. A crate without a licence's text in its package
gets the text of another one, without a copyright line of its own. Needs cargo, and the network if crates have not been
fetched yet.
"""
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILE = ROOT / "THIRD-PARTY.md"
PROGRAM = "cogvideox-server"
TARGETS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]
# The shortest obligations first.
PREFERRED = ["MIT-0", "MIT", "Zlib", "ISC", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "Unlicense", "Unicode-3.0",
             "CDLA-Permissive-2.0", "Apache-2.0 WITH LLVM-exception", "Apache-2.0", "MPL-2.0"]
# By a phrase of its text, whatever the file is called.
PHRASES = {
    "MIT": "Permission is hereby granted, free of charge",
    "Apache-2.0": "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION",
    "Apache-2.0 WITH LLVM-exception": "LLVM Exceptions to the Apache 2.0 License",
    "BSD-2-Clause": "Redistribution and use in source and binary forms",
    "BSD-3-Clause": "Redistribution and use in source and binary forms",
    "BSL-1.0": "Boost Software License",
    "CDLA-Permissive-2.0": "Community Data License Agreement",
    "ISC": "Permission to use, copy, modify, and",
    "MPL-2.0": "Mozilla Public License",
    "MIT-0": "Permission is hereby granted, free of charge",
    "Unicode-3.0": "UNICODE LICENSE V3",
    "Unlicense": "This is free and unencumbered software",
    "Zlib": "This software is provided 'as-is'",
}
FILE_NAME = re.compile(r"(licen[cs]e|copying|unlicense)", re.IGNORECASE)
# Sources in other languages that crates bring along and compile, with the file that holds their licence.
BUNDLED = [
    ("openh264-sys2", "OpenH264 (Cisco Systems)", "BSD-2-Clause", "upstream/LICENSE"),
    ("libwebp-sys", "libwebp (Google)", "BSD-3-Clause", "vendor/COPYING"),
]
HEAD = """# Third-party software

Made by `server/third_party.py`; do not edit.

The program `cogvideox-server` (Apache-2.0, see LICENSE) is built from the crates below. Beside them it holds SQLite
(public domain, by way of libsqlite3-sys) and Swagger UI (Apache-2.0, by way of utoipa-swagger-ui-vendored). CUDA's
libraries are not part of it: they are loaded where they are installed. Nor are the models, which have licences of their
own: CogVideoX-2b is Apache-2.0, the 5B and 1.5 models are under the CogVideoX licence.
"""


def metadata():
    """Packages by id, and the edges of the build."""
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--all-features",
               *(f"--filter-platform={target}" for target in TARGETS)]
    found = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    return {package["id"]: package for package in found["packages"]}, {node["id"]: node for node in found["resolve"]["nodes"]}


def linked(packages, nodes):
    """The packages that the program is built from, itself and its neighbours here left out."""
    waiting = [next(package["id"] for package in packages.values() if package["name"] == PROGRAM)]
    seen = set()
    while waiting:
        package = waiting.pop()
        if package not in seen:
            seen.add(package)
            # What only builds or tests is not in the program.
            waiting += [dep["pkg"] for dep in nodes[package]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
    return sorted((packages[package] for package in seen if packages[package]["source"]), key=lambda it: (it["name"], it["version"]))


def chosen(package):
    """The licences that hold together: of each choice the first of PREFERRED."""
    expression = (package["license"] or "").replace("/", " OR ")
    assert expression, f"{package['name']}: no licence is stated"
    licences = []
    for part in re.split(r" AND ", expression):
        choices = [choice.strip(" ()") for choice in re.split(r" OR ", part)]
        known = [licence for licence in PREFERRED if licence in choices]
        assert known, f"{package['name']}: none of {choices} is in PREFERRED"
        licences += [known[0]] if known[0] not in licences else []
    return licences


def texts_of(folder):
    for path in sorted(path for path in folder.iterdir() if path.is_file() and FILE_NAME.search(path.name)):
        yield path.read_text(errors="replace")


def text_of(package, licence):
    """The licence as its package holds it, or None."""
    folder = pathlib.Path(package["manifest_path"]).parent
    return next((text for text in texts_of(folder) if PHRASES[licence] in " ".join(text.split())), None)


def tidy(text):
    """Without what differs between copies of one text and says nothing."""
    return "\n".join(line.rstrip() for line in text.replace("\t", "    ").strip().splitlines())


def render(packages):
    rows, holders, missing = [], {}, {}
    for package in packages:
        name, licences = f"{package['name']} {package['version']}", chosen(package)
        rows.append(f"| {package['name']} | {package['version']} | {' and '.join(licences)} | {package['repository'] or ''} |")
        for licence in licences:
            text = text_of(package, licence)
            if text:
                holders.setdefault((licence, tidy(text)), []).append(name)
            else:
                missing.setdefault(licence, []).append(name)
    by_name = {package["name"]: package for package in packages}
    for crate, name, licence, path in BUNDLED:
        text = (pathlib.Path(by_name[crate]["manifest_path"]).parent / path).read_text()
        holders.setdefault((licence, tidy(text)), []).append(f"{name}, in {crate}")
    for licence, names in missing.items():
        # Whichever is shortest brings the least of somebody else's.
        text = min((text for known, text in holders if known == licence), key=len)
        body = "\n".join(line for line in text.splitlines() if not line.lower().startswith("copyright"))
        holders.setdefault((licence, tidy(body)), []).extend(names)
    parts = [HEAD, "| crate | version | licence | source |\n|---|---|---|---|", *rows, "\n## Licences"]
    for (licence, text), names in sorted(holders.items(), key=lambda it: (PREFERRED.index(it[0][0]), it[1])):
        parts.append(f"\n### {licence}: {', '.join(sorted(names))}\n\n````text\n{text}\n````")
    return "\n".join(parts) + "\n"


def main(arguments):
    text = render(linked(*metadata()))
    if arguments == ["--check"]:
        sys.exit(0 if FILE.exists() and FILE.read_text() == text else f"{FILE.name} is not up to date: python3 server/third_party.py")
    FILE.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
