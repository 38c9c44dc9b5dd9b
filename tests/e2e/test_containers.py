"""docker/ built and run: every service healthy, the chain through both logins, a stop that saves, a start that resumes.

Needs root and Debian's podman, buildah, runc, mmdebstrap, catatonit and
golang-github-containernetworking-plugin-dnsname. Images that no registry gives here are stand-ins (tests/kit/images):
Debian's Python and PostgreSQL, moto for the S3 store.
EVEREST_CONTAINERS names a folder whose storage is kept for the next time; without one everything is built anew.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from containers import Containers, compose, containers, healthy, stand_ins
from prefect_site import until

from tests.e2e.conftest import SMALLEST, make_project

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
#: The user of the checkout; not the image's own (1000), which docker/.env overrides.
USER = 1234
#: [bytes] that an image may have.
LARGEST = 7e9


@pytest.fixture(scope="module")
def engine(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    kept = os.environ.get("EVEREST_CONTAINERS")
    made = containers(Path(kept) if kept else tmp_path_factory.mktemp("containers"))
    stand_ins(made, root)
    checkout = make_project(root, tmp_path_factory.mktemp("built") / "checkout", {}).root
    (checkout / ".env").write_text("SECRET=planted-4f1c9a\n")
    # Debian's buildah cannot mount a stage that comes whole out of the cache.
    made.build(checkout, "docker/Dockerfile", "tools", "tools")
    made.run("buildah", "rmi", "--force", "tools")
    for target, tag in (("everest", "everest"), ("gpu", "everest-gpu")):
        made.build(checkout, "docker/Dockerfile", target, tag)
    yield made
    if not kept:
        made.run("podman", "system", "reset", "--force", check=False)


def inside(engine: Containers, image: str, line: str) -> str:
    base = ["podman", "run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL", f"--user={USER}"]
    return engine.run(*base, "--env=HOME=/tmp", "--env=USER=everest", image, "sh", "-c", line)


def test_the_image_is_small_has_no_compiler_and_torch_in_a_layer_of_its_own(engine: Containers) -> None:
    layers = engine.layers("everest")
    sizes = [size for _, size in layers]
    sys.stderr.write(f"layers [MB]: {[(what[:60], round(size / 1e6)) for what, size in layers]}\n")
    assert sum(sizes) <= LARGEST
    assert max(sizes) > sum(sizes) / 2, "one layer, which seldom changes, is most of it"
    assert sizes[-2:] < [1e7, 1e7], "a change of the code is small"
    compilers = "for name in gcc cc clang c++ g++ uv make; do command -v $name; done"
    packages = "dpkg-query --show --showformat='${Package}\\n' | grep -E -- '-dev$'"
    assert inside(engine, "everest", f"{compilers}; {packages}; find /usr/include -name '*.h'; true") == ""
    assert "planted" not in inside(engine, "everest", "grep -rl planted-4f1c9a /everest || true")


def test_only_the_image_for_gpus_has_a_compiler(engine: Containers) -> None:
    line = "echo 'int main(void){return 0;}' > /tmp/a.c && gcc -o /tmp/a /tmp/a.c && /tmp/a && echo works"
    assert inside(engine, "everest-gpu", line).strip() == "works"
    assert "'gcc'" not in inside(engine, "everest", "everest ops --help")


class Group:
    """What `docker compose up` makes, by podman."""

    def __init__(self, engine: Containers, project: Path) -> None:
        self.engine, self.project = engine, project
        self.password = (project / "docker/secrets/password").read_text()

    def start(self, *services: str) -> None:
        for service in services:
            compose(self.engine, self.project, "up", "--detach", "--no-build", "--no-deps", service)
        for service in services:
            if service != "init":
                took = healthy(self.engine, f"everest_{service}_1", 180)
                sys.stderr.write(f"{service}: healthy after {took:.0f} s\n")

    def inspect(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.engine.run("podman", "inspect", f"everest_{service}_1"))[0]
        return found

    def exec(self, *words: str) -> str:
        return self.engine.run("podman", "exec", "everest_worker_1", *words)

    def ask(self, path: str, query: object = None) -> Any:
        """Prefect, by its login, from where clients are."""
        line = (
            "import json, sys; from pipeline.operations.server import Server;"
            "print(json.dumps(Server.found().ask(sys.argv[1], json.loads(sys.argv[2]))))"
        )
        return json.loads(self.exec("everest", "ops", "exec", "--", "python", "-c", line, path, json.dumps(query)))

    def state(self, run: str) -> str:
        return str(self.ask(f"flow_runs/{run}")["state"]["name"])

    def ended(self, run: str) -> bool:
        return self.state(run) in ("Completed", "Failed", "Crashed", "Cancelled")


@pytest.fixture(scope="module")
def group(engine: Containers, root: Path) -> Iterator[Group]:
    # Not below pytest's own folder, which root alone may enter.
    place = Path(tempfile.mkdtemp(prefix="everest-group-", dir="/var/tmp"))
    project = make_project(root, place / "project", SMALLEST).root
    shutil.rmtree(project / ".work")
    for folder in (project, place):
        folder.chmod(0o755)
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(project)], check=True)
    subprocess.run(["docker/prepare.sh"], cwd=project, user=USER, group=USER, extra_groups=[], check=True)
    made = Group(engine, project)
    try:
        yield made
    finally:
        compose(engine, project, "--profile", "cpu", "down", "--timeout", "20")
        shutil.rmtree(place)


def test_the_group_comes_up_runs_the_chain_and_goes_on_after_a_stop(group: Group) -> None:
    group.start("database", "store")
    group.start("mlflow", "prefect")
    group.start("init")
    until(lambda: group.inspect("init")["State"]["Status"] == "exited", 300, "init")
    assert group.inspect("init")["State"]["ExitCode"] == 0, group.engine.run("podman", "logs", "everest_init_1")
    compose(group.engine, group.project, "--profile", "cpu", "up", "--detach", "--no-build", "--no-deps", "worker")
    healthy(group.engine, "everest_worker_1", 180)

    group.ask("flow_runs/filter", {})
    deployment = group.ask("deployments/name/experiment/params")["id"]
    given = {"overrides": {"pretrain.epochs": 300}}
    run = group.ask(f"deployments/{deployment}/create_flow_run", {"parameters": given})["id"]
    note = group.project / ".work/worktrees" / run / ".work/progress/pretrain"
    # Its first words are of its start: what was stopped before a step has nothing to save.
    steps = re.compile(r"\d+/\d+")
    until(lambda: note.exists() and steps.search(note.read_text()), 600, "the training does steps")
    began = time.monotonic()
    group.engine.run("podman", "stop", "--time=120", "everest_worker_1")
    assert time.monotonic() - began < 120
    saved = list((group.project / ".work/pretrain").glob("**/*.safetensors"))
    assert saved, "the training was saved"
    group.engine.run("podman", "start", "everest_worker_1")
    healthy(group.engine, "everest_worker_1", 180)
    assert not group.ended(run)
    until(lambda: group.ended(run), 900, "the chain ends")
    assert group.state(run) == "Completed"
    assert list((group.project / "reports").glob("*/report.html"))

    for service in ("database", "store", "mlflow", "prefect", "worker"):
        assert group.inspect(service)["RestartCount"] == 0, service
        healthy(group.engine, f"everest_{service}_1", 60)
    pushed = group.exec("everest", "ops", "exec", "--", "dvc", "push", "--run-cache")
    assert "pushed" in pushed


def test_no_inspection_shows_a_password(group: Group) -> None:
    words = [path.read_text() for path in (group.project / "docker/secrets").iterdir() if len(path.read_text()) == 32]
    assert len(words) == 4
    for service in ("database", "store", "mlflow", "prefect", "init", "worker"):
        told = json.dumps(group.inspect(service))
        logs = group.engine.run("podman", "logs", f"everest_{service}_1")
        assert not [word for word in words if word in told + logs], service
    for image in ("everest", "everest-gpu"):
        assert not [word for word in words if word in group.engine.run("podman", "inspect", image)]


def test_what_the_worker_runs_sees_neither_the_databases_password_nor_the_servers_folders(group: Group) -> None:
    assert group.exec("ls", "/everest/docker/secrets", "/everest/docker/store").split() == [
        "/everest/docker/secrets:", "/everest/docker/store:",
    ]  # fmt: skip
    assert set(group.exec("ls", "/run/secrets").split()) == {"password", "prefect_login", "s3_credentials"}
