"""A container engine of one's own, and stand-ins for the base images where no image registry can be reached.

The engine is Debian's `dockerd` with its own folder and socket, beside any other and removed with its folder. The
stand-ins have the names of the images that docker/'s files name, so these are built and run as they are:

    rust                  Debian with a C/C++ compiler and Python, and this machine's own Rust toolchain
    distroless/cc         the few packages that it is made of
    prom/prometheus       Debian's Prometheus
    caddy                 Debian's Caddy

How this machine reaches its package registries (the certificates that it trusts, the address of its Debian mirror) goes
into the stand-ins, and into no file of the project. Needs root, and Debian: docker.io, docker-compose, debootstrap.
"""
import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

from server import until

CERTIFICATES = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
ROOT = pathlib.Path(__file__).resolve().parents[2]
SUITE = "bookworm"
NOBODY = 65534
# What the real images hold of Debian. `rust` has far more; this is what a build takes.
RUST_PACKAGES = "build-essential,ca-certificates,git,pkg-config,python3"
DISTROLESS_PACKAGES = ("base-files", "libc6", "libgcc-s1", "libgomp1", "libssl3", "libstdc++6", "netbase", "tzdata")


def run(*command, **more):
    """Runs it; what it says is shown only if it fails, or written to `log`."""
    log = more.pop("log", None)
    command = [str(part) for part in command]
    if log:
        with open(log, "a") as file:
            result = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, **more)
        said = f"see {log}"
    else:
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
        said = result.stdout
    assert result.returncode == 0, f"{' '.join(command)}: exit status {result.returncode}\n{said}"
    return said


class Engine:
    """A `dockerd` in a folder; one that runs there already is taken as it is, and goes on."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.host = f"unix://{self.folder}/docker.sock"
        self.environment = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "0",
                            "COMPOSE_HTTP_TIMEOUT": "300"}
        self.process = None

    def __enter__(self):
        if self.answers():
            return self
        log = self.folder / "dockerd.log"
        command = ["dockerd", f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec", f"--host={self.host}",
                   f"--pidfile={self.folder}/docker.pid", f"--storage-driver={self.driver()}"]
        with open(log, "w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file)

        def has_come():
            assert self.process.poll() is None, f"dockerd ended, see {log}"
            return self.answers()
        until("dockerd", has_come)
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.terminate()
            self.process.wait()

    def answers(self):
        return subprocess.run(["docker", "version"], env=self.environment, capture_output=True).returncode == 0

    def driver(self):
        """overlay2 where the folder's file system takes it, as vfs copies every layer whole."""
        lower, upper, work, merged = (self.folder / "try" / name for name in ("lower", "upper", "work", "merged"))
        for folder in (lower, upper, work, merged):
            folder.mkdir(parents=True, exist_ok=True)
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        mounted = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], capture_output=True).returncode == 0
        if mounted:
            run("umount", merged)
        shutil.rmtree(self.folder / "try")
        return "overlay2" if mounted else "vfs"

    def docker(self, *command, **more):
        return run("docker", *command, env=self.environment, **more)

    def has(self, image):
        return subprocess.run(["docker", "image", "inspect", image], env=self.environment, capture_output=True).returncode == 0

    def size_mb(self, image):
        return int(self.docker("image", "inspect", "--format={{.Size}}", image)) / 1e6

    def build(self, file, tag, log, context=".", **arguments):
        """Builds an image as the file's head says, on the host's network; returns the seconds it took."""
        began = time.monotonic()
        flags = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
        self.docker("build", "--network=host", "-f", file, "-t", tag, *flags, context, log=log, cwd=ROOT)
        return time.monotonic() - began


class StandIns:
    """Makes each image that the engine does not have yet."""

    def __init__(self, engine):
        self.engine = engine

    def make(self, image):
        """The image of that name, from what its repository's name says."""
        if self.engine.has(image):
            return
        repository = image.partition(":")[0].rpartition("/")[2].replace("-", "_")
        root = self.engine.folder / "root"
        shutil.rmtree(root, ignore_errors=True)
        changes = getattr(self, repository)(root)
        archive = self.engine.folder / "root.tar"
        run("tar", "-C", root, "-cf", archive, ".")
        self.engine.docker("import", *[part for change in changes for part in ("--change", change)], archive, image)
        archive.unlink()
        shutil.rmtree(root)

    def rust(self, root):
        self.bootstrap(root, RUST_PACKAGES)
        toolchain = pathlib.Path(run("rustc", "--print", "sysroot").strip())
        run("cp", "-a", toolchain, root / "usr/local/rust")
        shutil.rmtree(root / "usr/local/rust/share")
        registry = pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo")) / "registry"
        for part in ("index", "cache"):
            if (registry / part).exists():
                shutil.copytree(registry / part, root / "usr/local/cargo/registry" / part)
        return ["ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "ENV CARGO_HOME=/usr/local/cargo",
                f"ENV SSL_CERT_FILE={CERTIFICATES} PIP_CERT={CERTIFICATES} CARGO_HTTP_CAINFO={CERTIFICATES}"]

    def cc_debian12(self, root):
        self.unpack(root, DISTROLESS_PACKAGES)
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n")
        (root / "etc/group").write_text("root:x:0:\nnonroot:x:65532:\n")
        self.certificates(root)
        return [f"ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin SSL_CERT_FILE={CERTIFICATES}",
                "USER 65532", "WORKDIR /home/nonroot"]

    def prometheus(self, root):
        self.unpack(root, ("base-files", "libc6", "prometheus"))
        (root / "prometheus").mkdir()
        os.chown(root / "prometheus", NOBODY, NOBODY)
        return ['ENTRYPOINT ["/usr/bin/prometheus"]', f"USER {NOBODY}", "WORKDIR /prometheus"]

    def caddy(self, root):
        self.unpack(root, ("base-files", "libc6", "libzstd1", "caddy"))
        return ['CMD ["/usr/bin/caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]',
                "ENV XDG_DATA_HOME=/data XDG_CONFIG_HOME=/config", "WORKDIR /srv"]

    def bootstrap(self, root, packages):
        run("debootstrap", "--variant=minbase", f"--include={packages}", SUITE, root, mirror(), log=self.engine.folder / "standins.log")
        shutil.rmtree(root / "var/cache/apt/archives")
        (root / "var/cache/apt/archives/partial").mkdir(parents=True)
        self.certificates(root)

    def unpack(self, root, packages):
        """Their files alone, without what they need."""
        with tempfile.TemporaryDirectory(dir=self.engine.folder) as downloads:
            os.chmod(downloads, 0o777)
            run("apt-get", "download", *packages, cwd=downloads)
            for package in pathlib.Path(downloads).glob("*.deb"):
                run("dpkg-deb", "-x", package, root)

    def certificates(self, root):
        (root / CERTIFICATES.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))


def mirror():
    """The Debian mirror that this machine is set to."""
    sources = [*pathlib.Path("/etc/apt/sources.list.d").glob("*.sources"), pathlib.Path("/etc/apt/sources.list")]
    for source in sources:
        with contextlib.suppress(FileNotFoundError):
            if found := re.search(r"(?:^URIs: |^deb )(https?://\S*debian/?)(?:\s|$)", source.read_text(), re.MULTILINE):
                return found[1]
    raise AssertionError("expected a Debian mirror in /etc/apt, found none")
