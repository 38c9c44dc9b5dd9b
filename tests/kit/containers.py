"""Containers on this machine: podman with storage of a test's own, and stand-ins for images that nobody can fetch here.

podman's default limits want a capability that a machine in a machine lacks, and its health checks want systemd: limits
are left as they are, and whoever waits asks for the health check himself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

#: Debian's packages that are needed, by a program of each.
NEEDED = ("podman", "buildah", "runc", "mmdebstrap", "catatonit")
RECIPES = Path(__file__).parent / "images"
#: The stages of stand-ins, and the names by which docker/ knows what they stand for.
STAND_INS = {
    "python": "docker.io/library/python:3.11-slim",
    "postgres": "docker.io/library/postgres:17-bookworm",
    "seaweedfs": "docker.io/chrislusf/seaweedfs:4.48",
}


@dataclass
class Containers:
    """podman and buildah over one storage."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # A container that runs keeps its place busy; the rest of the storage is kept over runs of the tests.
        (self.folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.folder}/storage"\nrunroot = "{self.folder}/run"\n'
        )
        (self.folder / "containers.conf").write_text(
            '[containers]\ndefault_ulimits = []\n[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\n'
            'events_logger = "file"\n'
        )

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "DISABLE_HC_SYSTEMD": "true",
            "BUILDAH_ISOLATION": "chroot",
        }

    def run(self, *command: str, check: bool = True, seconds: float = 600, cwd: Path | None = None) -> str:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=seconds, check=False, cwd=cwd
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-3000:]}"
        return done.stdout

    def build(self, context: Path, recipe: str, target: str, tag: str) -> None:
        command = ["buildah", "build", "--pull-never", "--layers", f"--target={target}", f"--file={recipe}"]
        self.run(*command, f"--tag={tag}", ".", seconds=3600, cwd=context)

    def layers(self, image: str) -> list[tuple[str, int]]:
        """(what made it, bytes) of each layer, the first one first."""
        rows = json.loads(self.run("podman", "history", "--format=json", "--human=false", image))
        return [(row["CreatedBy"], int(row["size"])) for row in reversed(rows) if int(row["size"])]


def containers(folder: Path) -> Containers:
    """podman over the storage in `folder`, with the stand-ins; the test is skipped where it cannot be."""
    missing = [name for name in NEEDED if shutil.which(name) is None and not _beside(name)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and Debian's {', '.join(missing) or 'podman'}")
    made = Containers(folder)
    if subprocess.run(["podman", "info"], env=made.environment, capture_output=True, check=False).returncode:
        pytest.skip("podman does not work here")
    return made


def _beside(name: str) -> bool:
    return (Path("/usr/libexec/podman") / name).exists()


def stand_ins(made: Containers, code: Path) -> None:
    """Build them where they are missing: Debian, this machine's certificates and registries, PostgreSQL, moto."""
    context = made.folder / "context"
    context.mkdir(exist_ok=True)
    if not (context / "base.tar").exists():
        packages = "python3,python3-pip,python-is-python3,ca-certificates"
        made.run("mmdebstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(context / "base.part"))
        (context / "base.part").rename(context / "base.tar")
    authorities = Path("/etc/ssl/certs/ca-certificates.crt")
    shutil.copyfile(authorities, context / "ca.crt")
    (context / "uv.toml").write_text("system-certs = true\n")
    (context / "pip.conf").write_text(f"[global]\ncert = {authorities}\nbreak-system-packages = true\n")
    for path in (*RECIPES.iterdir(), code / "requirements.lock", code / "scripts/tools.txt"):
        if path.is_file():
            shutil.copyfile(path, context / path.name)
    for target, name in STAND_INS.items():
        made.build(context, "Dockerfile", target, name)


def compose(made: Containers, project: Path, *words: str, seconds: float = 600) -> str:
    """podman-compose, which leaves the order to whoever asks: podman before 4.6 cannot wait for health."""
    command = [str(Path(sys.executable).with_name("podman-compose")), "-f", str(project / "docker/compose.yaml")]
    return made.run(*command, *words, seconds=seconds, cwd=project / "docker")


def healthy(made: Containers, name: str, seconds: float) -> float:
    """Wait until a container's own health check succeeds; the seconds that it took."""
    began = time.monotonic()
    while True:
        asked = subprocess.run(
            ["podman", "healthcheck", "run", name], env=made.environment, capture_output=True, text=True, check=False
        )
        if asked.returncode == 0:
            return time.monotonic() - began
        limit = seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        logs = made.run("podman", "logs", "--tail=40", name, check=False)
        assert time.monotonic() - began < limit, f"{name} is not healthy: {asked.stdout}{asked.stderr}\n{logs}"
        time.sleep(1)
