"""The benchmark of a served model runs and reports what it promises; its figures are in docs/benchmarks.md."""

from __future__ import annotations

from pathlib import Path

import pytest
import sample_videos

from pipeline.bench.serving.run import command
from pipeline.errors import InputError


@pytest.mark.slow
def test_a_served_model_is_asked_by_path_and_in_base64(tmp_path: Path) -> None:
    for number in range(2):
        sample_videos.write(tmp_path / f"{number}.mp4", frames=40, seed=number)
    result = command(clips=tmp_path, requests=2, resolution=32)
    times = result["milliseconds"]
    assert list(times) == ["served by path", "served in base64", "without the server", "reading the video"]
    assert all(0 < row["p50"] <= row["p95"] for row in times.values())
    assert times["served by path"]["processor"] > 0
    assert (result["views"], result["resolution"], result["videos"]["different"]) == (1, 32, 2)


def test_numbers_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="requests = 0: expected at least 1"):
        command(requests=0)
