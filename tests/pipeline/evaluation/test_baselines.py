"""Trivial models reach what they can see, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.baselines import SIDE, Baseline, Clips, baselines, middle_clip, small_grey, told
from pipeline.evaluation.metrics import Interval

RNG = np.random.default_rng


def clips(count: int, seed: int, *, by: str) -> Clips:
    """Two classes that differ in one frame's brightness pattern, or only in which way it moves."""
    rng = RNG(seed)
    labels = np.arange(count) % 2
    pictures = np.empty((count, 6, SIDE, SIDE), np.float32)
    for clip, label in zip(pictures, labels, strict=True):
        place, turn = rng.integers(0, SIDE), rng.random() * 0.1
        pattern = rng.random((SIDE, SIDE)).astype(np.float32) * 0.2 + turn
        stripe = (label if by == "look" else int(rng.integers(2))) * SIDE // 2
        for time, frame in enumerate(clip):
            frame[:] = pattern
            if by == "motion":
                frame[:, (place + (1 if label else -1) * time) % SIDE] += 0.8
            else:
                frame[stripe : stripe + 3] += 0.8
    return Clips(pictures, labels)


def scores(by: str) -> dict[str, Baseline]:
    parts = [clips(count, seed, by=by) for count, seed in ((240, 1), (120, 2), (60, 3))]
    return {result.name: result for result in baselines(*parts, draws=200)}


def test_one_frame_tells_classes_that_look_different_and_differences_do_not() -> None:
    by_name = scores("look")
    assert by_name["one frame, logistic regression"].top1 > 0.95
    assert by_name["frame differences, logistic regression"].top1 < 0.7
    assert by_name["both, logistic regression"].top1 > 0.95


def test_differences_tell_classes_that_move_differently_and_one_frame_does_not() -> None:
    by_name = scores("motion")
    assert by_name["frame differences, nearest neighbours"].top1 > 0.9
    assert by_name["one frame, logistic regression"].top1 < 0.65


def test_the_majority_class_scores_its_share_and_intervals_hold_the_score() -> None:
    train, test = clips(61, 1, by="look"), clips(80, 2, by="look")
    results = baselines(train, test, None, draws=200)
    assert results[0].name == "majority"
    assert results[0].top1 == 0.5
    assert all(r.interval.low <= r.top1 <= r.interval.high for r in results)
    assert [r.key for r in results][1] == "one_frame_logistic_regression"


def test_one_class_is_refused_with_the_cure() -> None:
    one = clips(4, 1, by="look")
    with pytest.raises(ValueError, match="one class.*Cure"):
        baselines(Clips(one.pictures, np.zeros(4, np.int64)), one, None, draws=10)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (37, 52), (9, 30), (240, 320)])
def test_small_pictures_are_means_of_the_centre_square(height: int, width: int) -> None:
    frames = RNG(0).integers(0, 256, (3, height, width, 3), dtype=np.uint8)
    small = small_grey(frames)
    assert small.shape == (3, SIDE, SIDE)
    edge = min(height, width)
    centre = frames[:, (height - edge) // 2 :][:, :edge, (width - edge) // 2 :][:, :, :edge]
    grey = centre @ np.float32([0.299, 0.587, 0.114]) / 255
    assert small.min() >= 0
    assert small.max() <= 1
    if edge % SIDE == 0:
        assert small.mean() == pytest.approx(grey.mean(), abs=1e-5)
        assert small[0, 0, 0] == pytest.approx(grey[0, : edge // SIDE, : edge // SIDE].mean(), abs=1e-5)


def test_the_middle_clip_reads_the_frames_in_the_middle() -> None:
    asked = []

    def read(numbers: np.ndarray) -> np.ndarray:
        asked.append(numbers.tolist())
        return np.zeros((len(numbers), 32, 32, 3), np.uint8)

    assert middle_clip(read, 30, 4, 2).shape == (4, SIDE, SIDE)
    assert asked == [[12, 14, 16, 18]]


def turning(count: int, seed: int, *, anywhere: bool) -> Clips:
    """Two classes: of two spots side by side the left one brightens and the right one darkens, or the reverse."""
    rng = RNG(seed)
    labels = np.arange(count) % 2
    pictures = rng.random((count, 6, SIDE, SIDE)).astype(np.float32) * 0.1
    course = np.array([0, 0, 0, 0.5, 1, 1], np.float32)[:, None, None]
    for clip, label in zip(pictures, labels, strict=True):
        for spot in (0, 1):
            place = 5 + 3 * (spot ^ label)
            clip[:, 6:9, place : place + 3] += abs(course - spot)
        if anywhere:
            clip[:] = np.roll(clip, tuple(rng.integers(0, SIDE, 2)), axis=(1, 2))
    return Clips(pictures, labels)


@pytest.mark.parametrize("anywhere", [False, True])
def test_clips_moved_to_random_places_say_whether_the_place_tells(anywhere: bool) -> None:
    found = told(baselines(turning(240, 1, anywhere=anywhere), turning(160, 2, anywhere=anywhere), None, draws=200))
    assert found is not None
    assert (found.by_motion, found.by_place) == (not anywhere, not anywhere)
    assert found.moved.top1 < 0.65


def test_where_one_frame_tells_the_classes_no_motion_is_said_to() -> None:
    found = told(list(scores("look").values()))
    assert found is not None
    assert (found.by_motion, found.by_place) == (False, False)
    assert told([Baseline("majority", 0.3, Interval(0.2, 0.4), "mAP")]) is None  # of several classes: other models
