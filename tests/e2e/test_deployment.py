"""`make deploy` deploys; a process worker runs the flows in worktrees; a bad parameter never starts a stage."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ports import free_port

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
    port = free_port()
    project.environment["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    project.environment["PREFECT_WORKER_QUERY_SECONDS"] = "1"
    server = project.start("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    worker = None
    try:
        _wait_for_server(project.environment["PREFECT_API_URL"])
        project.run("python", "-m", "flows.deploy")
        worker = project.start("python", "-m", "flows.worker")
        yield project
    finally:
        for process in (worker, server):
            if process:
                process.terminate()
                process.wait(60)


def test_a_deployment_completes_and_unchanged_stages_show_as_cached(deployed: Project) -> None:
    _run(deployed, {})
    assert len(list((deployed.root / "reports").iterdir())) == 1
    _run(deployed, {"finetune.epochs": 1, "finetune.warmup_epochs": 1.0})
    names = _task_states(deployed)
    assert names.count("Cached") == 7  # download, preprocess and corpus of two benchmarks, and pretrain
    assert not list((deployed.root / ".work" / "worktrees").iterdir())


def test_deploying_again_doubles_nothing(deployed: Project) -> None:
    deployed.run("python", "-m", "flows.deploy")
    names = sorted(d["name"] for d in _ask(deployed, "deployments/filter"))
    assert names == ["canary", "cpu", "demo", *["params"] * 4]
    assert [a["name"] for a in _ask(deployed, "automations/filter")] == ["everest: crash runs without heartbeat"]
    limits = _ask(deployed, "v2/concurrency_limits/filter")
    # Prefect keeps the canary's own limit, one run at a time, among them.
    ours = [(limit["name"], limit["limit"]) for limit in limits if not limit["name"].startswith("deployment:")]
    assert (ours, len(limits)) == ([("gpu", 1)], 2)


def test_a_comparison_leaves_its_tables_and_its_verdict(deployed: Project) -> None:
    chosen = {"compare.strategies": ["everest", "tube"], "compare.seeds": [0], "compare.benchmarks": ["motion"]}
    done = _submit(deployed, "compare/params", overrides=chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    artifacts = {artifact["key"]: artifact for artifact in _ask(deployed, "artifacts/latest/filter")}
    assert {"results", "differences", "verdict", "stages", "mlflow"} <= set(artifacts)
    assert [row["strategy"] for row in json.loads(artifacts["results"]["data"])] == ["everest", "tube"]
    assert "One seed for each strategy" in artifacts["verdict"]["data"]
    assert len(list((deployed.root / ".work" / "compare").glob("*-seed0-*"))) == 2


def test_a_sweep_runs_each_combination_and_ends_in_one_table(deployed: Project) -> None:
    given = {"grid": {"finetune.epochs": [1, 2]}, "overrides": {"finetune.warmup_epochs": 1.0}}
    done = _submit(deployed, "sweep/params", **given)
    assert done.returncode == 0, done.stdout + done.stderr
    table = json.loads(next(a for a in _ask(deployed, "artifacts/latest/filter") if a["key"] == "sweep")["data"])
    assert [(row["finetune.epochs"], row["benchmark"]) for row in table] == [
        (epochs, name) for epochs in (1, 2) for name in ("motion", "state_change")
    ]


def test_the_data_alone_can_be_made_ready(deployed: Project) -> None:
    done = _submit(deployed, "data/params")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list((deployed.root / ".work" / "worktrees").iterdir())


def test_a_bad_parameter_is_refused_at_submission(deployed: Project) -> None:
    for name, given, word in (
        ("experiment/demo", {"overrides": {"finetune.epoks": 2}}, "finetune.epoks"),
        ("experiment/demo", {"overrides": {"finetune.epochs": 0}}, "minimum"),
        ("compare/params", {"overrides": {"compare.equal": "money"}}, "money"),
        ("sweep/params", {"grid": {"finetune.epoks": [2]}}, "finetune.epoks"),
    ):
        done = _submit(deployed, name, **given)
        assert done.returncode != 0
        assert word in done.stdout + done.stderr


def _submit(project: Project, deployment: str, **parameters: object) -> subprocess.CompletedProcess[str]:
    given = [word for name, value in parameters.items() for word in ("--param", f"{name}={json.dumps(value)}")]
    return project.run("prefect", "deployment", "run", deployment, *given, "--watch", check=False, timeout=580)


def _run(project: Project, overrides: dict[str, object]) -> None:
    done = _submit(project, "experiment/demo", overrides=overrides)
    assert done.returncode == 0, done.stdout + done.stderr


def _task_states(project: Project) -> list[str]:
    result = _ask(project, "task_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 12})
    return [run["state"]["name"] for run in result]


def _ask(project: Project, path: str, query: dict[str, object] | None = None) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"{project.environment['PREFECT_API_URL']}/{path}",
        data=json.dumps(query or {}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


def _wait_for_server(url: str) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"Prefect's server did not answer at {url}")
