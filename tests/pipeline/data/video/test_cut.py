from __future__ import annotations

import errno
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from pipeline.data.video import VideoError, cut, open_video, write_video
from pipeline.data.video.cut import cut_window
from pipeline.system.disk import DiskFullError


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 frames at 30 a second; frame i has the grey 2 i."""
    frames = np.repeat(np.arange(120, dtype=np.uint8)[:, None] * 2, 64 * 64 * 3, axis=1).reshape(120, 64, 64, 3)
    path = tmp_path_factory.mktemp("cut") / "clock.mp4"
    write_video(path, frames, 30, options={"g": "50"})
    return path


@pytest.mark.parametrize(("start", "end"), [(0, 8), (10, 50), (49, 51), (100, 120)])
def test_a_window_holds_exactly_its_frames(clock: Path, tmp_path: Path, start: int, end: int) -> None:
    target = tmp_path / "window.mp4"
    assert cut_window(clock, target, start, end, 30) == end - start
    grey = open_video(target).frames(range(end - start))[:, 32, 32, 0].astype(float)
    assert np.abs(grey - 2 * np.arange(start, end)).max() <= 2.5  # a shift by one frame would give 2 more


def test_a_window_beyond_the_end_is_refused(clock: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="110 to 125"):
        cut_window(clock, tmp_path / "window.mp4", 110, 125, 30)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_no_fault_of_the_video(clock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut, "_copy", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(DiskFullError, match=r"window\.mp4: no space left on the disk"):
        cut_window(clock, tmp_path / "window.mp4", 5, 25, 30)


def test_cutting_twice_gives_the_same_bytes(clock: Path, tmp_path: Path) -> None:
    cut_window(clock, tmp_path / "a.mp4", 5, 25, 30)
    cut_window(clock, tmp_path / "b.mp4", 5, 25, 30)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
