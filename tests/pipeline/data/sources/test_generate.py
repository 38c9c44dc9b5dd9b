"""The generated benchmarks: real H.264, the same for the same seed, and no single frame tells a motion's class."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.sources import generate as generating
from pipeline.data.sources.draw import MOTIONS, draw_motion, draw_state_change
from pipeline.data.sources.generate import generate, plan
from pipeline.data.video import open_video
from pipeline.errors import EverestError
from pipeline.params import GeneratedSource


def source(**changes: object) -> GeneratedSource:
    values = {
        "kind": "generated",
        "task": "motion",
        "seed": 3,
        "train": 8,
        "val": 8,
        "test": 8,
        "frames": 8,
        "size": 32,
    }
    return GeneratedSource.model_validate(values | changes)


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.mp4")}


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        generate(source(), tmp_path / name)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(set(digests(tmp_path / "one").values())) == 24


def test_videos_are_h264_of_the_asked_size_and_length(tmp_path: Path) -> None:
    videos = generate(source(frames=12, size=64), tmp_path)
    with open_video(tmp_path / videos[0].path) as reader:
        assert reader.num_frames == 12
        assert reader.frames([0]).shape == (1, 64, 64, 3)
    assert b"avc1" in (tmp_path / videos[0].path).read_bytes()


def test_splits_are_balanced_and_raising_a_count_only_adds_files(tmp_path: Path) -> None:
    generate(source(), tmp_path)
    before = digests(tmp_path)
    videos = generate(source(train=16), tmp_path)
    assert before.items() <= digests(tmp_path).items()
    counts = [sum(v.split == "train" and v.label == label for v in videos) for label in range(8)]
    assert counts == [2] * 8


def test_an_interrupted_generation_is_completed(tmp_path: Path) -> None:
    videos = generate(source(), tmp_path)
    whole = digests(tmp_path)
    for video in videos[::3]:
        (tmp_path / video.path).unlink()
    generate(source(), tmp_path)
    assert digests(tmp_path) == whole


def test_a_killed_worker_ends_the_drawing_with_a_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generating, "_write_one", dies)
    with pytest.raises(EverestError, match="worker process was killed"):
        generate(source(train=32), tmp_path)


def dies(*_: object) -> None:
    os._exit(1)


def test_another_seed_never_shares_a_folder() -> None:
    assert not {v.path for v in plan(source())} & {v.path for v in plan(source(seed=4))}


@pytest.mark.parametrize("label", range(0, len(MOTIONS), 2))
def test_the_opposite_motion_is_the_same_video_backwards(label: int) -> None:
    forwards, backwards = (draw_motion(np.random.default_rng(5), k, 12, 48) for k in (label, label + 1))
    np.testing.assert_array_equal(forwards, backwards[::-1])


def test_only_the_sprite_moves() -> None:
    video = draw_motion(np.random.default_rng(1), 0, 12, 64).astype(int)
    still = (np.abs(np.diff(video, axis=0)).max(axis=(0, 3)) == 0).mean()
    assert still > 0.3


def test_an_object_that_keeps_its_state_looks_the_same_before_and_after() -> None:
    """Where neither the bar nor the drifting outline passes, nothing changes; in class 1 the halves do."""
    changed = []
    for label in (0, 1):
        video = draw_state_change(np.random.default_rng(8), label, 24, 64).astype(int)
        changed.append((np.abs(video[0] - video[-1]).max(axis=-1) > 40).mean())
    assert changed[1] > 2 * changed[0]


def unexplained(frames_THWC: np.ndarray, patch: int = 16) -> float:
    """Share of the variance inside 16-pixel patches that a blend of the pixels around them leaves unexplained."""
    size = frames_THWC.shape[1]
    step = (np.arange(patch) + 0.5)[:, None] / patch
    shares = []
    for frame in frames_THWC.astype(float):
        for top in range(patch, size - patch, patch):
            for left in range(patch, size - patch, patch):
                own = frame[top : top + patch, left : left + patch]
                above, below = frame[top - 1, left : left + patch], frame[top + patch, left : left + patch]
                before, after = frame[top : top + patch, left - 1], frame[top : top + patch, left + patch]
                down = (1 - step[..., None]) * above[None] + step[..., None] * below[None]
                across = (1 - step.T[..., None]) * before[:, None] + step.T[..., None] * after[:, None]
                error = ((down + across) / 2 - own).reshape(-1, 3)
                shares.append(error.var() / own.reshape(-1, 3).var(axis=0).mean())
    return float(np.median(shares))


def test_a_hidden_patch_can_be_told_from_what_surrounds_it_as_masked_pretraining_needs() -> None:
    rng = np.random.default_rng(5)
    videos = [draw_motion(rng, label, 2, 64) for label in range(8)]
    assert np.median([unexplained(video) for video in videos]) < 0.3
    assert unexplained(rng.integers(0, 256, (2, 64, 64, 3))) > 0.9
