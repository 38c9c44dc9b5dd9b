"""Row 23 of the faults: jumps in a video, in every path and in every kind of file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from frame_paths import Matrix
from video_matrix import kinds

from pipeline.params import IngestParams

pytestmark = pytest.mark.slow


def test_every_path_reads_the_frames_of_a_sequential_pass(tmp_path: Path, record: Callable[..., None]) -> None:
    limits = IngestParams(
        deadline_seconds=60.0, memory_gib=2.0, failure_budget=0.02, min_frames=16, max_repeated_run=64, workers=1
    )
    every = kinds()
    assert len(every) >= 60
    files = Matrix(tmp_path, every, limits)
    read = f"{len(files.in_sequence)} kinds read in sequence"
    record(
        23,
        "kinds of videos with another verdict than theirs",
        len(every),
        len(files.refused),
        str(files.refused or read),
    )
    paths = {
        "the reader": files.wrong_by_reader,
        "the loader, from videos": files.wrong_by_loader,
        "the cache, all frames": lambda: files.wrong_by_cache(1),
        "the cache, every second frame": lambda: files.wrong_by_cache(2),
        "the cache, informative (every 4th frame)": lambda: files.wrong_by_cache(4),
        "predict": files.wrong_by_predict,
        "show": files.wrong_by_show,
        "evaluate, from videos": lambda: files.wrong_by_evaluate("videos"),
        "evaluate, from a cache of every second frame": lambda: files.wrong_by_evaluate("cache"),
    }
    for name, wrong_of in paths.items():
        wrong = wrong_of()
        bad = {kind: count for kind, count in wrong.items() if count}
        record(23, f"wrong frames by {name}", len(wrong), len(bad), str(bad or "kinds of files, 0 wrong frames"))
