"""`everest init`: values that depend on the number of videos and of devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.setup.budget import least_passes
from pipeline.setup.look import OwnSet, OwnVideo
from pipeline.setup.values import Facts, Shape, Value, _batch, _frame_step, _ratios, _splits, clip_seconds, names_a_side


@pytest.mark.parametrize("devices", range(1, 17))
def test_a_batch_is_shared_by_any_number_of_devices_and_near_the_papers(devices: int) -> None:
    assert _batch(100_000, 192, devices) % devices == 0
    assert 176 <= _batch(100_000, 192, devices) <= 192
    assert _batch(80, 192, devices) % devices == 0
    assert 11 <= _batch(80, 192, devices) <= 20


def test_a_batch_leaves_twenty_steps_to_an_epoch_but_no_device_fewer_than_sixteen_clips_for_it() -> None:
    assert _batch(710, 192, 1) == 32
    assert _batch(2600, 192, 1) == 128
    assert _batch(710, 192, 4) == 64
    assert _batch(710, 192, 8) == 128
    assert _batch(100, 192, 1) == 16


def test_a_batch_of_few_videos_leaves_each_device_one() -> None:
    assert _batch(8, 192, 7) == 7
    assert _batch(40, 192, 7) == 7
    with pytest.raises(InputError, match="6 training videos cannot be shared by 7 devices"):
        _batch(6, 192, 7)


def test_a_class_names_a_side_where_one_of_its_words_does_however_they_are_joined() -> None:
    sided = ["turn left", "TurnLeft", "turnRIGHT", "PTZLeft", "swipe_right2", "anticlockwise", "Counter-clockwise",
             "counterclockwise", "leftward", "Rightwards", "left-handed", "CCW", "links3"]  # fmt: skip
    assert [name for name in sided if not names_a_side(name)] == []
    plain = ["cleft", "bright", "rightful", "LeftoverFood", "uplinks", "Turn", "copyright"]
    assert [name for name in plain if names_a_side(name)] == []


@pytest.mark.parametrize(
    ("val", "test", "select", "why"),
    [
        (60, 0, "last", "the test reads val too"),
        (600, 90, "best", "the best of 600 validation videos"),
        (160, 90, "last", "160 validation videos: too few to choose by"),
    ],
)
def test_the_best_is_chosen_by_videos_that_are_not_the_tests(val: int, test: int, select: str, why: str) -> None:
    chosen = _splits(Facts(200, 200, val, test, 30.0, 100, 128, Value(4, ""), False, 8, 8))["finetune.select"]
    assert chosen.value == select
    assert why in chosen.reason


@pytest.mark.parametrize(
    ("rates", "seconds", "expected", "why"),
    [
        ((1.0, 2.0, 2.0), 60, 8.0, "8 s, so that the median rate has 16 frames in it"),
        ((1.0, 2.0, 2.0), 5, 5.0, "5 s, since the median video is no longer"),
        ((15.0, 25.0, 60.0), 60, 2.0, "2 s (the paper"),
        ((15.0, 25.0, 60.0), 1, 1.0, "1 s, since the median video is no longer"),
    ],
)
def test_a_clip_by_time_is_long_enough_for_its_frames_and_no_longer_than_the_median_video(
    rates: tuple[float, ...], seconds: int, expected: float, why: str
) -> None:
    videos = [OwnVideo(f"{r}.mp4", 0, "a", "", "", int(seconds * r), r, 240, str(n)) for n, r in enumerate(rates)]
    own = OwnSet(Path(), None, False, False, videos, [], 16, False, [], {}, None)  # type: ignore[arg-type]
    assert clip_seconds(own) == expected
    assert f"each clip spans {why}" in _frame_step(own).reason


@pytest.mark.parametrize(
    ("train", "batch", "passes"),
    [
        (710, 32, (228, 91)),  # 22 steps to an epoch
        (9537, 192, (103, 41)),
        (240_000, 192, (100, 30)),
        (20, 16, (3200, 100)),  # never more than the paper's
    ],
)
def test_trainings_should_have_some_passes_and_steps_enough_to_learn(
    train: int, batch: int, passes: tuple[int, int]
) -> None:
    assert least_passes(Facts(train, train, 0, 0, 30.0, 100, 128, Value(4, ""), False, batch, batch)) == passes


@pytest.mark.parametrize(("resolution", "kept", "shown"), [(32, 0.5, 0.2), (64, 0.3, 0.1), (112, 0.3, 0.1)])
def test_the_papers_shares_are_taken_where_they_leave_tokens_to_show(
    resolution: int, kept: float, shown: float
) -> None:
    own = OwnSet(Path(), None, False, False, [], [], 8, False, [], {}, None)  # type: ignore[arg-type]
    assert _ratios(own, Shape("tiny", resolution))[:2] == (kept, shown)
