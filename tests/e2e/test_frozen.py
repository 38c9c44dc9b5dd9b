"""params.yaml edited while a real training runs under `dvc repro`: nothing is recorded, nothing trained twice."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
import yaml

from pipeline.params.write import write_overrides
from tests.e2e.conftest import SMALLEST, Project, make_project

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Project:
    smaller = {"pretrain.corpus": ["motion"], "pretrain.epochs": 60, "compute.ranks": 1}
    return make_project(root, tmp_path / "project", SMALLEST | smaller)


def in_training(project: Project) -> subprocess.Popen[str]:
    """`dvc repro pretrain`, once it has saved its first checkpoint."""
    job = project.start("dvc", "repro", "pretrain")
    deadline = time.monotonic() + 300
    while not list(project.root.glob(".work/pretrain/all/*/history.csv")):
        assert job.poll() is None, job.stdout and job.stdout.read()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return job


def recorded(folder: Path) -> dict[str, object]:
    stages: dict[str, object] = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    return stages


def test_an_edit_during_a_training_is_not_taken_for_what_was_computed(project: Project, tmp_path: Path) -> None:
    path = project.root / "params.yaml"
    good = path.read_text()
    job = in_training(project)
    write_overrides(path, {"pretrain.base_lr": 1.0e-4, "finetune.epochs": 5})
    output, _ = job.communicate(timeout=400)
    assert job.returncode != 0
    assert "params.yaml changed while pretrain ran: pretrain.base_lr was 0.008 and is 0.0001 now" in output
    assert "finetune.epochs" not in output
    assert "pretrain" not in recorded(project.root)
    assert not (project.root / "outputs/pretrain").exists()
    assert not (project.root / "metrics/pretrain.json").exists()
    assert "pretrain:" in project.run("dvc", "status", "pretrain").stdout

    # In another checkout of the same cache, the edited parameters have no model that DVC could restore.
    worktree = tmp_path / "worktree"
    subprocess.run(["git", "worktree", "add", "--detach", str(worktree)], cwd=project.root, check=True)
    runs = (project.root / ".dvc/cache/runs").rglob("*")
    assert not [file for file in runs if file.is_file() and "everest pretrain" in file.read_text()]

    path.write_text(good)
    kept = next(project.root.glob(".work/pretrain/all/*/final/model.safetensors"))
    before = (kept.stat().st_mtime_ns, kept.read_bytes())
    done = project.run("dvc", "repro", "pretrain")
    assert "Running stage 'pretrain'" in done.stdout
    model = project.root / "outputs/pretrain/model.safetensors"
    assert (model.stat().st_mtime_ns, model.read_bytes())[1] == before[1]
    assert "pretrain" in recorded(project.root)
    assert "up to date" in project.run("dvc", "status", "pretrain").stdout
    # Trained once: the history has no second start.
    rows = (project.root / "outputs/pretrain/history.csv").read_text().splitlines()
    assert len(rows) == len(set(rows))


def test_what_dvc_notes_in_the_last_moment_is_found_by_the_flow_and_by_the_next_stage(project: Project) -> None:
    """An edit between the end of a stage and DVC's reading of the file, made by the stage's own last command."""
    declaration = project.root / "dvc.yaml"
    late = "everest preprocess ${key} && sed -i 's/jpeg_quality: 90/jpeg_quality: 91/' params.yaml"
    declaration.write_text(declaration.read_text().replace("cmd: everest preprocess ${key}", f'cmd: "{late}"'))
    project.run("dvc", "repro", "preprocess@motion")
    entry = recorded(project.root)["preprocess@motion"]
    assert isinstance(entry, dict)
    assert entry["params"]["params.yaml"]["preprocess.jpeg_quality"] == 91, "DVC noted the edit"
    refused = project.run("everest", "corpus", "motion", check=False)
    assert refused.returncode == 2
    assert "preprocess@motion computed with preprocess.jpeg_quality = 90, now 91" in refused.stderr
    assert "jpeg_quality = 90, noted as 91" in project.run("everest", "doctor", "--json", check=False).stdout

    # The flow computes it again, which also leaves the right one for DVC to restore.
    code = (
        "import pathlib; from flows.chain.repro import *; from flows.chain.guard import Children; "
        "print(repro('preprocess@motion', workspace(pathlib.Path.cwd(), 'x', {}), Children()))"
    )
    assert "RAN" in project.run("python", "-c", code).stdout
    project.run("everest", "corpus", "motion")
