"""Classes of unequal size: drawn equally often, or weighted; the same on any number of ranks and after a resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import ready

from pipeline.data.balance import balanced_order, class_weights
from pipeline.distributed.groups import Ranks
from pipeline.training import tasks

LABELS = np.repeat([0, 1, 4], [70, 27, 3])


def test_every_class_is_drawn_as_often_to_within_one_and_its_videos_too() -> None:
    draws = balanced_order(7, 2, LABELS)
    assert len(draws) == len(set(draws)) == 100
    rows = draws % 100
    assert sorted(np.bincount(LABELS[rows], minlength=5)[[0, 1, 4]]) == [33, 33, 34]
    assert np.bincount(rows, minlength=100)[97:].min() >= 11
    assert np.bincount(rows, minlength=100)[:70].max() == 1


def test_an_epoch_has_an_order_of_its_own_and_always_the_same() -> None:
    assert np.array_equal(balanced_order(7, 2, LABELS), balanced_order(7, 2, LABELS))
    assert set(balanced_order(7, 2, LABELS)) != set(balanced_order(7, 3, LABELS))


def test_weights_are_inverse_to_the_counts_and_of_mean_one() -> None:
    weight = class_weights(LABELS, 6)
    assert weight[LABELS].mean() == pytest.approx(1.0)
    assert weight[0] * 70 == pytest.approx(weight[4] * 3)
    assert weight[[2, 3, 5]].tolist() == [0.0, 0.0, 0.0]


def test_two_ranks_and_a_resume_see_the_clips_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = ready(finetune__init="scratch", finetune__balance="sampling")

    def samples(rank: int, world: int, start: int = 0) -> list[list[int]]:
        task = tasks.FinetuneTask(params, "small", Ranks(rank, world, rank, torch.device("cpu")))
        return [batch.sample_B.tolist() for batch in task.loader.epoch(1, start)]

    one = samples(0, 1)
    assert [a + b for a, b in zip(samples(0, 2), samples(1, 2), strict=True)] == one
    assert samples(0, 1, start=1) == one[1:]


def test_weights_reach_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = ready(finetune__init="scratch", finetune__balance="weights", finetune__label_smoothing=0.0)
    task = tasks.FinetuneTask(params, "small", Ranks(0, 1, 0, torch.device("cpu")))
    batch = next(iter(task.loader.epoch(0)))
    assert task.weight_K is not None
    logits_BK = torch.randn(len(batch.labels_B), 8)
    each_B = torch.nn.functional.cross_entropy(logits_BK, batch.labels_B, reduction="none")
    loss = task.loss(lambda _clip: logits_BK, batch, 0)
    assert float(loss) == pytest.approx(float((task.weight_K[batch.labels_B] * each_B).mean()), rel=1e-5)
