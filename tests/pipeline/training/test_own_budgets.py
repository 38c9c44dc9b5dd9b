"""Trainings in which each clip has a budget of its own: reachable from params, with the cost of the clips they saw."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from small_training import ready

from models.cost import cost_of_counts
from models.selection import Budget
from models.weights import load_model
from pipeline.distributed.groups import Ranks
from pipeline.distributed.heartbeat import Pulse
from pipeline.errors import Interrupted
from pipeline.planning.stage_cost import StageCost
from pipeline.system.processes import StopRequest
from pipeline.tracking import names
from pipeline.training import tasks
from pipeline.training.engine import Engine
from pipeline.training.journal import Journal, NoSink, Progress
from pipeline.training.measured import cost_of, measured

ONE = Ranks(0, 1, 0, torch.device("cpu"))


def _engine(task: tasks.TrainingTask, work: Path) -> Engine:
    work.mkdir(exist_ok=True)
    journal = Journal(work / "history.csv", NoSink())
    return Engine(task, task.settings, ONE, work, journal=journal, pulse=Pulse(None), stop=StopRequest(),
                  progress=Progress("", False))  # fmt: skip


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_what_clips_cost_does_not_depend_on_where_a_training_was_stopped(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = ready(**{f"{stage}__epochs": 2, f"{stage}__score_share": 0.6, "finetune__init": "scratch"})

    def trained(work: Path, stop_at: int | None = None) -> dict[int | Budget, int]:
        """The budgets that were counted, by a process that ends at a step or with the training."""
        task = tasks.build(stage, "small" if stage == "finetune" else None, params, ONE)
        engine = _engine(task, work)
        engine.after_step = lambda: setattr(engine.stop, "signal", "SIGTERM") if engine.step == stop_at else None
        with contextlib.suppress(Interrupted):
            engine.run()
        return dict(task.model.seen)

    whole = trained(tmp_path / "whole")
    before = trained(tmp_path / "stopped", stop_at=1)
    assert sum(before.values()) < sum(whole.values())
    assert trained(tmp_path / "stopped") == whole


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_training_keeps_the_share_of_each_clips_score_and_says_what_its_clips_cost(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = {f"{stage}__epochs": 2, f"{stage}__score_share": 0.6, "finetune__init": "scratch"}
    params = ready(**few)
    task = tasks.build(stage, "small" if stage == "finetune" else None, params, ONE)
    engine = _engine(task, tmp_path / "work")
    engine.run()
    task.export(engine.result(), tmp_path / "out")
    model = load_model(tmp_path / "out")
    assert model.kwargs["score_share"] == 0.6
    metrics = measured(engine, task, ONE)
    cost = cost_of(task)
    assert metrics[names.GMACS_PER_CLIP] == cost.multiply_adds / 1e9 != task.cost.multiply_adds / 1e9
    assert metrics[names.TOKENS_PER_CLIP] == cost.encoder_tokens
    seen = task.model.seen
    assert len(seen) > 1, "clips of unequal counts"
    clip, depth = params.clip, params.pretrain.decoder_depth
    classes = 0 if stage == "pretrain" else params.benchmark("small").data.classes
    again = cost_of_counts(
        "tiny", seen, frames=clip.frames, resolution=clip.resolution, decoder_depth=depth, num_classes=classes
    )
    assert again == cost
    # A plan knows no clip yet: it counts with keep_ratio, and follows the memory of that.
    assert StageCost(params, "small" if stage == "finetune" else None).model[1]["score_share"] is None
