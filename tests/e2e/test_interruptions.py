"""The main job, stopped and killed: the same command continues, and two never run at once."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

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


def test_a_job_stopped_in_every_stage_goes_on_each_time(root: Path, tmp_path: Path) -> None:
    project = make_project(root, tmp_path / "project", SMALLEST)
    stages = ["download", "preprocess", "corpus", "pretrain", "finetune", "evaluate", "report", "compare"]
    made: dict[str, int] = {}
    for stage in stages:
        job = project.start("everest", "demo")
        _wait_for_process(job, stage)
        # What DVC had recorded is still there, and was not made again.
        assert {name: (project.root / name).stat().st_mtime_ns for name in made} == made
        os.killpg(job.pid, signal.SIGINT)
        output, _ = job.communicate(timeout=120)
        assert job.returncode == 130, f"{stage}: {output[-2000:]}"
        assert "The same command continues" in output
        assert "Traceback" not in output, f"{stage}: {output[-3000:]}"
        lock = project.root / "dvc.lock"
        recorded = list(yaml.safe_load(lock.read_text())["stages"]) if lock.exists() else []
        measured = [name for name in recorded if not name.startswith(("corpus", "report"))]
        files = ["metrics/" + name.replace("@", "/") + ".json" for name in measured]
        made = {name: (project.root / name).stat().st_mtime_ns for name in files}
    assert "of 15 stages ran" in project.run("everest", "demo", timeout=580).stdout
    assert "RUNNING" not in _statuses(project)


def test_a_flow_run_goes_on_from_what_another_worktree_saved(project: Project) -> None:
    words = ["python", "-c", "from flows.experiment import experiment; experiment()"]
    first = project.start(*words)
    wait_for(".work/pretrain/all/*/checkpoints/step-*", project.root)
    first.send_signal(signal.SIGINT)  # not to the group, in which Prefect's embedded server is
    first.communicate(timeout=120)
    saved = sorted(project.root.glob(".work/pretrain/all/*/checkpoints/step-*"))
    assert saved
    (left,) = (project.root / ".work" / "worktrees").iterdir()
    assert not (left / "outputs" / "pretrain").exists()
    shutil.rmtree(left)

    second = project.run(*words, timeout=580)
    assert not list((project.root / ".work" / "worktrees").iterdir())
    (report,) = (project.root / "reports").iterdir()
    assert (report / "report.html").exists(), second.stderr[-2000:]
    assert len(list(project.root.glob(".work/pretrain/all/*"))) == 1, "one training, in one place"
    assert sorted(_runs(project)["pretrain"]) == ["FINISHED", "KILLED"], "each flow run has a run of its own"
    # Complete, with the steps that the first flow run made: the same code gives the same numbers.
    project.run("everest", "reproduce", _finished(project, "pretrain"))


def _wait_for_process(job: subprocess.Popen[str], stage: str, seconds: float = 240) -> None:
    """Until a process below the job runs `everest <stage>`, and a little longer, so that it is at work."""
    deadline = time.monotonic() + seconds
    while True:
        assert time.monotonic() < deadline, f"{stage} did not start"
        assert job.poll() is None, f"the job ended before {stage}"
        for process in psutil.Process(job.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                if any(Path(a).name == "everest" and b == stage for a, b in itertools.pairwise(words)):
                    time.sleep(1.0)
                    return
        time.sleep(0.05)


def _statuses(project: Project) -> set[str]:
    return {status for statuses in _runs(project).values() for status in statuses}


def _runs(project: Project) -> dict[str, list[str]]:
    """The status of every tracked run, by its name."""
    statuses: dict[str, list[str]] = {}
    for run in _tracked(project):
        statuses.setdefault(run.info.run_name, []).append(run.info.status)
    return statuses


def _finished(project: Project, name: str) -> str:
    """The id of the finished run with this name."""
    (run,) = (run for run in _tracked(project) if (run.info.run_name, run.info.status) == (name, "FINISHED"))
    return str(run.info.run_id)


def _tracked(project: Project) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    return list(client.search_runs([client.get_experiment_by_name("everest-demo").experiment_id]))
