"""Windows out of long videos: what is no fault of a video ends the cutting, and a second start goes on from there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.annotations.oscc import Window
from pipeline.data.sources import gated
from pipeline.data.sources.gated import cut_windows
from pipeline.data.video import write_video
from pipeline.errors import EverestError


@pytest.fixture
def ego4d(tmp_path: Path) -> Path:
    """A folder `full_scale` with one long video, and `annotations` of three windows of it."""
    folder = tmp_path / "ego4d"
    grey = np.repeat(np.arange(60, dtype=np.uint8)[:, None] * 4, 64 * 64 * 3, axis=1).reshape(60, 64, 64, 3)
    write_video(folder / "full_scale" / "long-1.mp4", grey, 30)
    clips = [
        {"unique_id": name, "video_uid": "long-1", "parent_start_frame": start, "parent_end_frame": start + 20}
        for name, start in (("a", 0), ("b", 20), ("c", 40))
    ]
    (folder / "annotations").mkdir()
    (folder / "annotations" / "fho_oscc-pnr_train.json").write_text(json.dumps({"clips": clips}))
    return folder


def dies(target: Path, source: Path, window: Window) -> str:
    os._exit(1)


def test_a_killed_worker_ends_the_cutting_with_a_cure(
    ego4d: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = (tmp_path / "raw", ego4d / "annotations", ego4d / "full_scale", None)
    with monkeypatch.context() as patch:
        patch.setattr(gated, "_cut", dies)
        with pytest.raises(EverestError, match="worker process was killed"):
            cut_windows(*places)
    cut_windows(*places)
    assert sorted(path.name for path in (tmp_path / "raw/videos/oscc").iterdir()) == ["a.mp4", "b.mp4", "c.mp4"]
