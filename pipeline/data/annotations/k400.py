"""Kinetics-400: one CSV for each split with label,youtube_id,time_start,time_end,split.

Videos vanish from the publisher's copy, so fewer files than rows are normal: how many are missing is
reported.
"""

from __future__ import annotations

import csv
from pathlib import Path

from pipeline.data.annotations.base import ListedVideo, Listing, find_folder, understood
from pipeline.errors import InputError
from pipeline.params.benchmarks import PUBLISHED

CURE = "name the folder with train.csv, val.csv and test.csv (the publisher's annotations)."
SPLITS = ("train", "val", "test")
COLUMNS = ("youtube_id", "time_start", "time_end")

#: Files of the publisher's copy: the rest of the listed videos is missing there by design.
PUBLISHED_FILES = {"train": 240_258, "val": 19_881, "test": 38_685}


def read(root: Path) -> Listing:
    """Parse the CSV files below `root`; a split whose file is absent is named among the problems.

    Raises:
        InputError: no CSV at all, or one lacks a column.
    """
    folder = find_folder(
        root,
        lambda names: any(f"{split}.csv" in names for split in SPLITS),
        "train.csv, val.csv or test.csv",
        CURE,
    )
    rows: list[tuple[str, str, str]] = []
    problems: list[str] = []
    quoted = 0
    for split in SPLITS:
        path = folder / f"{split}.csv"
        if not path.is_file():
            problems.append(f"{path.name} is missing: no {split} videos")
            continue
        for file, label in _rows(path):
            name = label.strip().strip('"').strip()
            quoted += name != label
            rows.append((file, name, split))
    classes = sorted({name for _, name, _ in rows if name})
    number = {name: index for index, name in enumerate(classes)}
    videos: dict[str, ListedVideo] = {}
    for file, name, split in rows:
        video_id = file.rsplit(".", 1)[0]
        if video_id in videos:
            first = videos[video_id]
            problems.append(f"{file} is listed twice: {first.splits[0]} {first.label_name!r} and {split} {name!r}")
            continue
        videos[video_id] = ListedVideo(video_id, file, (split,), number.get(name, -1), name)
    notes = {"labels_with_extra_quotes": quoted}
    return Listing(classes, list(videos.values()), problems, notes, _missing_by_design({split for _, _, split in rows}))


def file_name(youtube_id: str, start: float, end: float) -> str:
    """The publisher's name of a clip; times are whole seconds."""
    return f"{youtube_id}_{int(start):06d}_{int(end):06d}.mp4"


def _missing_by_design(splits: set[str]) -> float:
    """The share of these splits' videos that the publisher's copy lacks."""
    listed = PUBLISHED["k400"].listed["1"]
    rows = sum(listed[split] for split in splits)
    return 1 - sum(PUBLISHED_FILES[split] for split in splits) / rows if rows else 0.0


@understood
def _rows(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if lacking:
            raise InputError(f"{path} lacks the column {', '.join(lacking)}. Cure: fetch it again.")
        rows = []
        for row in reader:
            try:
                name = file_name(row["youtube_id"], float(row["time_start"]), float(row["time_end"]))
            except (TypeError, ValueError, OverflowError):
                raise InputError(
                    f"{path}, line {reader.line_num}: times {row['time_start']!r}, {row['time_end']!r} are no numbers. "
                    "Cure: fetch it again."
                ) from None
            rows.append((name, row.get("label") or ""))
        return rows
