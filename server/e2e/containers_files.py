#!/usr/bin/env python3
"""Are docker/'s files for systemd and Kubernetes what these take? Takes seconds, and needs neither of them running.

Kubernetes: each object against the schema of its kind, strictly, so that a misspelt field is an error; and what no schema
says: that names of volumes, claims, secrets and ports lead somewhere, and that one server has the data at a time.
systemd: `systemd-analyze verify` as its own, and what `systemd-analyze security` makes of it.
Prometheus and Grafana: that the paths and names in their files and in compose.observability.yaml are the same.
The images: that .dockerignore leaves in what the sources take other files' contents from.

usage: PYTHON containers_files.py        (of an environment with kubernetes-validate 1.37.0; and systemd-analyze)
"""
import os
import pathlib
import re
import subprocess
import tempfile

import kubernetes_validate
import yaml

from server import equal, step

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
# The oldest release in support and the newest of which there is a schema.
KUBERNETES = ("1.34", "1.37")
# "OK" in systemd's words, with room; without any hardening it is 9.2.
EXPOSURE_MAX = 2.5


def ignored(path):
    """Whether .dockerignore leaves a path out: the last line that names it or a folder above it decides."""
    found = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
            if any(re.fullmatch(pattern, str(one)) for one in (path, *path.parents[:-1])):
                found = not line.startswith("!")
    return found


def images():
    step(".dockerignore: what is compiled in is there")
    included = {pathlib.Path(os.path.normpath(file.parent / name)) for file in ROOT.glob("server/*/src/**/*.rs")
                for name in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', file.read_text())}
    assert len(included) >= 2, f"expected the sources to include files, found {included}"
    for path in included:
        assert not ignored(path.relative_to(ROOT)), f"{path.relative_to(ROOT)}: compiled into the program, but .dockerignore leaves it out"
    assert ignored(pathlib.Path("server/api/tests/it/main.rs")), "expected tests to be left out"


def documents(name):
    return list(yaml.safe_load_all((DOCKER / name).read_text()))


def validate(document):
    for version in KUBERNETES:
        kubernetes_validate.validate(document, version, strict=True)


def kubernetes():
    step("kubernetes.yaml against the schemas")
    objects = documents("kubernetes.yaml")
    for document in objects:
        validate(document)
    misspelt = documents("kubernetes.yaml")
    deployment = next(found for found in misspelt if found["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    try:
        validate(deployment)
    except kubernetes_validate.ValidationError:
        pass
    else:
        raise AssertionError("expected a misspelt field to be refused, found it accepted")

    step("kubernetes.yaml: what its names lead to")
    named = lambda kind: {found["metadata"]["name"]: found for found in objects if found["kind"] == kind}
    deployment, = named("Deployment").values()
    service, = named("Service").values()
    equal("strategy", (deployment["spec"]["strategy"], deployment["spec"]["replicas"]), ({"type": "Recreate"}, 1))
    for workload in (deployment, *named("Job").values()):
        pod = workload["spec"]["template"]["spec"]
        claims = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
        assert claims <= named("PersistentVolumeClaim").keys(), f"claims: expected them to be defined, found {claims}"
        for container in pod["containers"]:
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts <= {volume["name"] for volume in pod["volumes"]}, f"mounts: expected volumes, found {mounts}"
            secrets = {source["secretRef"]["name"] for source in container.get("envFrom", ())}
            assert secrets <= named("Secret").keys(), f"secrets: expected them to be defined, found {secrets}"
            assert container["securityContext"]["readOnlyRootFilesystem"], "expected a read-only root"
        assert pod["enableServiceLinks"] is False, "expected no variables of services, which would be unknown keys"
        assert pod["securityContext"]["runAsNonRoot"], "expected not to run as root"
    template = deployment["spec"]["template"]
    container, = template["spec"]["containers"]
    labels = template["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= labels, "expected the service to select the deployment's pods"
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels, "expected the deployment to select its own pods"
    for job in named("Job").values():
        other = job["spec"]["template"]["metadata"]["labels"].items()
        assert not service["spec"]["selector"].items() <= other, "expected the service to pass over the job's pod"
    ports = {port["name"] for port in container["ports"]}
    asked = {container[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe", "startupProbe")}
    equal("ports", asked | {port["targetPort"] for port in service["spec"]["ports"]}, ports)


def systemd():
    step("cogvideox-server.service: systemd-analyze")
    unit = (DOCKER / "cogvideox-server.service").read_text()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "cogvideox-server.service")
        # The program is not installed here.
        path.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit, flags=re.MULTILINE))
        result = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True)
        assert not result.returncode and path.name not in result.stderr, f"verify: {result.stderr}"
        result = subprocess.run(["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX * 10:.0f}", path],
                                capture_output=True, text=True)
        exposure = re.search(r"exposure level for \S+: ([\d.]+)", result.stdout)
        assert exposure and float(exposure[1]) <= EXPOSURE_MAX, f"exposure: expected at most {EXPOSURE_MAX}, found {result.stdout[-200:]}"
    step(f"its exposure is {exposure[1]} of 10")
    seconds = lambda pattern, text: float(re.search(pattern, text)[1])
    grace = seconds(r"(?m)^shutdown_grace_seconds = (\d+)", (DOCKER.parent / "config/default.toml").read_text())
    periods = [seconds(r"TimeoutStopSec=(\d+)", unit), seconds(r"terminationGracePeriodSeconds: (\d+)", (DOCKER / "kubernetes.yaml").read_text()),
               *(seconds(r"stop_grace_period: (\d+)s", (DOCKER / name).read_text()) for name in ("compose.yaml", "compose.cpu.yaml"))]
    assert min(periods) >= grace + 10, f"stop periods: expected at least {grace + 10} s, found {periods}"


def observability():
    step("compose.observability.yaml: where Prometheus and Grafana find their files")
    services = documents("compose.observability.yaml")[0]["services"]
    for name, service in services.items():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or (DOCKER / source).exists(), f"{name}: expected {source} to be there"
    source, = documents("grafana/provisioning/datasources/prometheus.yaml")[0]["datasources"]
    equal("data source", source["url"], "http://prometheus:9090")
    scrape, = documents("prometheus.yml")[0]["scrape_configs"]
    equal("targets", scrape["static_configs"], [{"targets": ["server:8000"]}])
    provider, = documents("grafana/provisioning/dashboards/cogvideox.yaml")[0]["providers"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(provider["options"]["path"] + "/"), f"dashboards: expected {home} in {provider['options']}"
    assert any(volume.split(":")[1] == home for volume in services["grafana"]["volumes"]), f"dashboards: expected {home} to be mounted"


if __name__ == "__main__":
    images()
    kubernetes()
    systemd()
    observability()
    step("the files hold")
