"""A timeline on disk: probabilities of all windows as Parquet, segments as CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.data.arrays import Floats, Ints
from pipeline.inference.predict import told_apart
from pipeline.system.csv_files import Writer
from pipeline.system.files import atomic_path
from pipeline.system.text import storable
from pipeline.timeline.segments import Segment

#: Columns before those of the classes.
FIXED = ("start", "end", "first_frame", "last_frame", "predicted")


@dataclass(frozen=True)
class Windows:
    """All windows of a video, W in order: seconds, frame numbers, probabilities [W, C]."""

    start_W: Floats
    end_W: Floats
    first_W: Ints
    last_W: Ints
    probability_WC: np.ndarray


def write_windows(path: Path, windows: Windows, names: Sequence[str], about: Mapping[str, object]) -> None:
    """One row for each window: its place, its most probable class, a column for each class.

    Args:
        about: what they were made with, kept in the file's metadata under `everest`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    best_W = windows.probability_WC.argmax(axis=1)
    columns = {
        "start": pa.array(windows.start_W, pa.float64()),
        "end": pa.array(windows.end_W, pa.float64()),
        "first_frame": pa.array(windows.first_W, pa.int64()),
        "last_frame": pa.array(windows.last_W, pa.int64()),
        "predicted": pa.array([names[best] for best in best_W], pa.string()),
    }
    for number, name in enumerate(told_apart([f"class {name}" if name in FIXED else name for name in names])):
        columns[name] = pa.array(windows.probability_WC[:, number], pa.float32())
    table = pa.table(columns).replace_schema_metadata({"everest": json.dumps(storable(dict(about)))})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def write_segments(path: Path, rows: Sequence[tuple[str, Segment]]) -> None:
    """The segments of all videos, a row each: video, start and end in seconds, class, score."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = Writer(file)
        writer.row(["video", "start", "end", "class", "score"])
        for video, one in rows:
            writer.row([video, f"{one.start:.3f}", f"{one.end:.3f}", one.class_name, f"{one.score:.6f}"])
