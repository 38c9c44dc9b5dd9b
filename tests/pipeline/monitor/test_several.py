"""The monitor's probes over videos with several classes each: from mp4 files to the numbers of a look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import several_classes
import small_benchmark
import torch
from sklearn.metrics import average_precision_score

from pipeline.data.clips.dataset import pretraining_clips
from pipeline.distributed.groups import Ranks
from pipeline.efficiency.clip_cost import autoencoder_arguments
from pipeline.monitor.clips import monitored_clips
from pipeline.monitor.look import look_at_set, take_look
from pipeline.monitor.measures.probes import ridge_guess
from pipeline.monitor.record import Look, MonitorRecord
from pipeline.monitor.twin import Twin
from pipeline.params import Params
from pipeline.stages import corpus, preprocess
from pipeline.tracking import names

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


def classes(number: int) -> tuple[int, ...]:
    """Of a video, by the numbers of their names."""
    return tuple(sorted(several_classes.CLASSES.index(name) for name in several_classes.sets(number + 1)[number]))


def made(videos: int) -> Params:
    """A set of videos with three classes, in a cache and a corpus."""
    params = small_benchmark.params()
    small_benchmark.make(
        videos,
        splits=("train", "train", "val"),
        draw=lambda number: several_classes.frames(several_classes.sets(number + 1)[number], number),
        labels=classes,
    )
    preprocess.run(params, "small")
    corpus.run(params, "small")
    return params


def test_each_class_is_asked_for_by_itself_and_scored_by_mean_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = made(42)
    clips = monitored_clips(params, pretraining_clips(params))
    (one,) = clips.sets
    assert (one.labelled, one.several, one.unseen, one.fit, len(one.clips)) == (True, True, True, 28, 42)
    # Four of the seven combinations have each of the three classes.
    assert one.positives(slice(one.fit)) == 16
    torch.manual_seed(0)
    arguments = autoencoder_arguments(params.pretrain, params.clip)
    twin = Twin("everest_pretrain_tiny_patch16_224", arguments, 32, ALONE.device, None)
    weights = dict(twin.model.named_parameters())
    metrics = take_look(twin, weights, clips, ALONE, long=True, alive=lambda: None)
    assert {name for name in metrics if "knn" in name or "ridge" in name} == {
        names.monitor_of(probe, "small") for probe in (names.KNN_MAP, names.RIDGE_MAP, names.RIDGE_SEEN_MAP)
    }
    with twin.with_weights(weights):
        seen = look_at_set(twin, one, ALONE, lambda: None)
    shown = [classes(int(one.clips.dataset.video_id(row)[1:])) for row in range(42)]
    truth = np.asarray([[number in its for number in range(3)] for its in shown])
    assert np.array_equal(seen.truth_VK, truth)
    guess = ridge_guess(seen.features_VD[:28], truth[:28], seen.features_VD[28:]).scored_WK
    expected = average_precision_score(truth[28:], guess)
    assert metrics[names.monitor_of(names.RIDGE_MAP, "small")] == pytest.approx(expected)
    assert expected > truth.mean() + 0.2  # colours are in the features of random weights, too
    line = MonitorRecord(steps=9, looks=(Look(0, 0.0, metrics, True),)).line
    assert f"small {100 * expected:.0f} % (ridge, mAP)" in line
