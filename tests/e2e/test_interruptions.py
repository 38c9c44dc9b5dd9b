"""The main job, stopped and killed: the same command continues, and two never run at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import SMALLEST, Project, make_project

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Project:
    return make_project(root, tmp_path / "project", SMALLEST | {"pretrain.epochs": 200, "finetune.epochs": 4})


def wait_for(pattern: str, folder: Path, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not list(folder.glob(pattern)):
        assert time.monotonic() < deadline, f"{pattern} did not appear in {folder}"
        time.sleep(0.2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_job_stopped_in_pretraining_continues_there(project: Project, number: signal.Signals) -> None:
    job = project.start("everest", "run")
    wait_for(".work/pretrain/all/*/checkpoints/*", project.root)
    everything = psutil.Process(job.pid).children(recursive=True)
    second = project.run("everest", "run", check=False)
    assert second.returncode == 1
    assert "runs already" in second.stderr

    os.killpg(job.pid, number) if number == signal.SIGINT else job.kill()
    job.wait(120)
    gone, alive = psutil.wait_procs(everything, timeout=90)
    assert not [process for process in alive if "everest" in " ".join(process.cmdline())]
    assert gone
    assert not (project.root / "outputs" / "pretrain").exists()

    again = project.run("everest", "run", timeout=580)
    assert "of 12 stages ran" in again.stdout
    statuses = _statuses(project)
    assert "RUNNING" not in statuses


def _statuses(project: Project) -> set[str]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("everest-demo")
    return {run.info.status for run in client.search_runs([experiment.experiment_id])}
