#!/usr/bin/env python3
"""The software bill of materials of the program, CycloneDX 1.6 as JSON, on standard output.

It holds the crates that are linked into `cogvideox-server` with these features, each with its version, licence, source
and digest, and what depends on what; and the wheels given by --wheel NAME==VERSION, whose libraries lie in the image.
The system's packages are the base image's: its own SBOM, or `docker buildx build --sbom=true`, tells them.

usage: sbom.py [--features LIST] [--wheel NAME==VERSION ..]
"""
import argparse
import json
import re
import subprocess
import tomllib
import uuid

PLATFORM = "x86_64-unknown-linux-gnu"
PROGRAM = "cogvideox-server"


def component(package, checksums):
    """A crate. Those without a source are the workspace's own."""
    purl = f"pkg:cargo/{package['name']}@{package['version']}"
    found = {"type": "library", "bom-ref": purl, "name": package["name"], "version": package["version"], "purl": purl}
    if package["license"]:
        # Some manifests still have the old form of "or".
        found["licenses"] = [{"expression": re.sub(r"\s*/\s*", " OR ", package["license"])}]
    if package["repository"]:
        found["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    if checksum := checksums.get((package["name"], package["version"])):
        found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return found


def linked(nodes, root):
    """The ids of what the program is made of: without what only tests or build scripts take."""
    seen, waiting = {}, [root]
    while waiting:
        if (name := waiting.pop()) not in seen:
            seen[name] = sorted({dependency["pkg"] for dependency in nodes[name]["deps"]
                                 if any(kind["kind"] is None for kind in dependency["dep_kinds"])})
            waiting += seen[name]
    return seen


def wheel(text):
    name, version = text.split("==")
    purl = f"pkg:pypi/{name}@{version}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--features", default="")
    arguments.add_argument("--wheel", action="append", default=[])
    arguments = arguments.parse_args()
    command = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={PLATFORM}",
               "--features", ",".join(f"{PROGRAM}/{feature}" for feature in arguments.features.split(",") if feature)]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    with open("Cargo.lock", "rb") as lock:
        checksums = {(crate["name"], crate["version"]): crate.get("checksum") for crate in tomllib.load(lock)["package"]}
    packages = {package["id"]: component(package, checksums) for package in metadata["packages"]}
    root = next(name for name, package in packages.items() if package["name"] == PROGRAM)
    graph = linked({node["id"]: node for node in metadata["resolve"]["nodes"]}, root)
    wheels = [wheel(text) for text in arguments.wheel]
    reference = lambda name: packages[name]["bom-ref"]
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # The same for the same content, so that a build can be repeated.
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([sorted(graph), arguments.wheel])).urn,
        "version": 1,
        "metadata": {"component": {**packages[root], "type": "application"}},
        "components": sorted((packages[name] for name in graph if name != root), key=lambda part: part["bom-ref"]) + wheels,
        "dependencies": [{"ref": reference(name), "dependsOn": [reference(other) for other in others]
                          + ([part["bom-ref"] for part in wheels] if name == root else [])}
                         for name, others in sorted(graph.items())],
    }
    print(json.dumps(bom, indent=1))


if __name__ == "__main__":
    main()
