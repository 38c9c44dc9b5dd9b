"""Tracked runs of the smallest chain, run again from their commit and data: every bit is the same, nothing is left."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.conftest import Project

pytestmark = pytest.mark.e2e


def newest(project: Project, stage: str) -> Any:
    """The last finished run of a stage."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("everest-demo").experiment_id
    return client.search_runs([experiment], f"tags.`dvc.stage` = '{stage}' and status = 'FINISHED'")[0].info.run_id


def state(project: Project) -> list[str]:
    """What reproducing must not touch: commit, edits, worktrees, results, and the number of tracked runs."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("everest-demo").experiment_id
    return [
        project.run("git", "rev-parse", "HEAD").stdout,
        project.run("git", "diff").stdout,
        project.run("git", "worktree", "list").stdout,
        project.run("dvc", "status").stdout,
        str(sorted(path.name for path in (project.root / ".work" / "reproduce").glob("*"))),
        str(len(client.search_runs([experiment]))),
    ]


def check(project: Project, stage: str, *metrics: str) -> None:
    before = state(project)
    done = project.run("everest", "reproduce", newest(project, stage), "--json")
    record = json.loads(done.stdout)
    assert record["equal"] is True
    names = {row["metric"] for row in record["metrics"]}
    assert set(metrics) <= names
    assert not [name for name in names if name.startswith("efficiency/")]
    assert state(project) == before


def test_an_evaluation_is_bit_equal(finished: Project) -> None:
    check(finished, "evaluate@motion", "eval/top1", "eval/videos_ok", "SHA-256 of predictions")


@pytest.mark.slow
def test_trainings_on_two_ranks_are_bit_equal(finished: Project) -> None:
    check(finished, "finetune@motion", "train/loss", "train/grad_norm", "val/top1", "SHA-256 of the weights")
    check(finished, "pretrain", "train/loss", "train/grad_norm", "SHA-256 of the weights")
