"""What a clip of several classes is trained on: multi-hot, smoothed towards one half, mixed as much as is seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.data.batch import Batch
from pipeline.data.pixels.mix import mix, mix_plan, several_targets
from pipeline.data.pixels.transforms import FinetuneTransform
from pipeline.evaluation.metrics import average_views, several_scores, sigmoid
from pipeline.multilabel.labels import multi_hot, positive_weights
from pipeline.multilabel.objective import Validation, sigmoid_loss
from pipeline.training.engine.state import Watched

SETS = [(0, 2), (1,), (0, 1, 2), ()]


def batch(sets: list[tuple[int, ...]]) -> Batch:
    count = len(sets)
    numbers = torch.arange(count)
    return Batch(
        torch.randint(0, 255, (count, 4, 32, 32, 3), dtype=torch.uint8), torch.full((count, 2), 32), numbers, numbers,
        numbers, torch.zeros(count, 4, dtype=torch.int64), seed=0, epoch=0, label_sets=sets,
    )  # fmt: skip


def test_smoothing_leaves_an_even_chance_of_yes_and_no_in_each_class() -> None:
    targets = several_targets(SETS, 3, 0.1)
    assert torch.allclose(targets[0], torch.tensor([0.95, 0.05, 0.95]))
    assert torch.equal(several_targets(SETS, 3, 0.0), torch.from_numpy(multi_hot(SETS, 3)).float())


def test_mixing_two_clips_keeps_whole_what_both_have_and_shares_what_one_has() -> None:
    clips = batch(SETS)
    targets = several_targets(SETS, 3, 0.0)
    _, mixed = mix(torch.zeros(4, 3, 4, 32, 32), targets, clips, mixup=0.8, cutmix=0.0)
    share = torch.from_numpy(mix_plan(clips, 0.8, 0.0, 32, 32)[0]).float()
    assert torch.allclose(mixed[0], torch.stack([share[0], 1 - share[0], share[0]]))
    both = mix(torch.zeros(2, 3, 4, 32, 32), several_targets([(0,), (0, 1)], 3, 0), batch([(0,), (0, 1)]), 0.8, 0.0)[1]
    assert torch.allclose(both[:, 0], torch.ones(2))


def test_the_transform_gives_multi_hot_targets_where_clips_have_several_classes() -> None:
    transform = FinetuneTransform(32, 3, label_smoothing=0.2, several=True)
    assert torch.allclose(transform(batch(SETS), "cpu")[1], several_targets(SETS, 3, 0.2))


def test_the_loss_is_the_mean_binary_cross_entropy_and_a_rare_class_counts_as_much_as_its_absence() -> None:
    logits, targets = torch.randn(4, 3), several_targets(SETS, 3, 0.0)
    by_hand = -(targets * F.logsigmoid(logits) + (1 - targets) * F.logsigmoid(-logits)).mean()
    assert sigmoid_loss(logits, targets) == pytest.approx(float(by_hand))
    truth = multi_hot([(0,), (0,), (0, 1), (0, 1)], 3)
    assert positive_weights(truth).tolist() == [1, 1, 1]  # all have the first, half the second, none the third
    truth = multi_hot([(0,), (1,), (1,), (1,)], 2)
    assert positive_weights(truth).tolist() == [3, pytest.approx(1 / 3)]


def test_a_validation_is_scored_as_a_whole_whatever_its_batches_and_ranks() -> None:
    truth = multi_hot([*SETS, (2,), (1, 2)], 3)
    logits = torch.randn(2, 6, 3)
    alone = Validation(truth, 2, torch.device("cpu"))
    alone.add(logits, torch.arange(6))
    ranks = [Validation(truth, 2, torch.device("cpu")) for _ in range(2)]
    for rank, rows in ((0, torch.tensor([0, 3])), (1, torch.tensor([5, 1])), (0, torch.tensor([2, 4]))):
        ranks[rank].add(logits[:, rows], rows)
    together = ranks[0]._logits_PVK + ranks[1]._logits_PVK
    assert ranks[0].scores(lambda _: together) == alone.scores(lambda table: table)


def test_views_are_averaged_as_sigmoids_and_decisions_are_at_one_half() -> None:
    logits = np.array([[2.0, -1.0, 90.0], [0.0, -1.0, -90.0]])
    assert sigmoid(logits) == pytest.approx(1 / (1 + np.exp(-logits)))
    assert average_views(logits, several=True) == pytest.approx([(1 / (1 + np.exp(-2)) + 0.5) / 2, 1 / (1 + np.e), 0.5])
    truth = multi_hot([(0,), (0, 1), (1,)], 2)
    found = several_scores(np.array([[0.9, 0.1], [0.8, 0.4], [0.2, 0.9]]), truth, total=4, draws=100)
    assert found["eval/map"] == 1
    assert found["eval/f1"] == pytest.approx(2 * 3 / (3 + 4))
    assert found["eval/exact_match"] == pytest.approx(2 / 3)
    assert (found["eval/videos_ok"], found["eval/videos_total"]) == (3, 4)


def test_patience_counts_validations_whose_map_is_not_above_the_best() -> None:
    watched = Watched()
    for score in (0.3, 0.5, 0.5, 0.4):
        watched.note({"val/map": score, "val/loss": 1.0})
    assert (watched.best, watched.waited) == (0.5, 2)
