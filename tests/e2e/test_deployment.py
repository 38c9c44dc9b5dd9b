"""`prefect.yaml` deploys; a process worker runs the demo in a worktree; a bad override never starts a stage."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import SMALLEST, Project, make_project

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def deployed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A server, the deployments and a worker, on loopback."""
    project = make_project(root, tmp_path_factory.mktemp("deployed") / "project", SMALLEST)
    # The deployment runs recipes/demo.yaml: make that the smallest too.
    (project.root / "recipes" / "demo.yaml").write_text((project.root / "params.yaml").read_text())
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    subprocess.run(["git", *identity, "commit", "--quiet", "--all", "-m", "recipe"], cwd=project.root, check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    project.environment["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    project.environment["PREFECT_WORKER_QUERY_SECONDS"] = "1"
    server = project.start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    worker = None
    try:
        _wait_for_server(project.environment["PREFECT_API_URL"])
        project.run("prefect", "work-pool", "create", "everest", "--type", "process", "--overwrite")
        project.run("prefect", "--no-prompt", "deploy", "--all")
        worker = project.start("prefect", "worker", "start", "--pool", "everest")
        yield project
    finally:
        for process in (worker, server):
            if process:
                process.terminate()
                process.wait(60)


def test_a_deployment_completes_and_unchanged_stages_show_as_cached(deployed: Project) -> None:
    _run(deployed, {})
    assert len(list((deployed.root / "reports").iterdir())) == 1
    _run(deployed, {"finetune.epochs": 1})
    names = _task_states(deployed)
    assert names.count("Cached") == 7  # download, preprocess and corpus of two benchmarks, and pretrain
    assert not list((deployed.root / ".work" / "worktrees").iterdir())


def test_a_bad_override_is_refused_at_submission(deployed: Project) -> None:
    for overrides, word in (({"finetune.epoks": 2}, "finetune.epoks"), ({"finetune.epochs": 0}, "minimum")):
        done = _submit(deployed, overrides)
        assert done.returncode != 0
        assert word in done.stdout + done.stderr


def _submit(project: Project, overrides: dict[str, object]) -> subprocess.CompletedProcess[str]:
    value = f"overrides={json.dumps(overrides)}"
    return project.run(
        "prefect", "deployment", "run", "experiment/demo", "--param", value, "--watch", check=False, timeout=580
    )


def _run(project: Project, overrides: dict[str, object]) -> None:
    done = _submit(project, overrides)
    assert done.returncode == 0, done.stdout + done.stderr


def _task_states(project: Project) -> list[str]:
    request = urllib.request.Request(
        project.environment["PREFECT_API_URL"] + "/task_runs/filter",
        data=json.dumps({"sort": "EXPECTED_START_TIME_DESC", "limit": 12}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return [run["state"]["name"] for run in json.load(answer)]


def _wait_for_server(url: str) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"Prefect's server did not answer at {url}")
