"""Lists of your own videos, and what is suspicious about them.

- A folder for each class: CLASS/clip.mp4 (split by the hash of the path: 70/10/20 %); with splits:
  train/CLASS/clip.mp4, val/..., test/...
- A table (CSV or Parquet): columns path, label, split; path relative to the videos' folder. `label` is a class's
  name or number, empty for none; `split` may be absent (then by hash); video_id, label_name, sha256 are optional.
  Where a label names several classes (`a|b`, `0|3`), the videos of the table have several each (pipeline.multilabel).
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.data.annotations.base import ListedVideo, Listing, classes_of, text_of
from pipeline.data.annotations.classes import NAMED, alike_fault, counted_from_one
from pipeline.data.annotations.several import labels_of, names_of, separator_fault
from pipeline.data.video.listing import video_files
from pipeline.errors import InputError
from pipeline.multilabel.labels import SEPARATOR
from pipeline.system.text import printable

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "unused": "unused",
}

#: Shares of a set that comes without splits, in percent: the rest is for training.
TEST_PERCENT, VAL_PERCENT = 20, 10

#: Class numbers end here: a larger one is a mistake (a video's number, a date), and would ask for as many names.
MAX_CLASSES = 100_000

COLUMNS_CURE = "Cure: columns path, label, split (and optionally video_id, label_name, sha256), comma-separated."


def from_folders(folder: Path) -> Listing:
    """List a folder with one folder for each class, below split folders or not.

    Raises:
        InputError: the folder does not exist, no class's folder holds a video, or only some of its folders are splits.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist. Cure: name the videos' folder, or their CSV or Parquet table.")
    paths, others = video_files(folder)
    problems = [f"{others} files without a video's suffix were passed over"] if others else []
    if fault := _mixed_fault(folder, paths):
        raise InputError(fault)
    has_splits = has_split_folders(paths)
    entries: list[tuple[str, str, str]] = []
    for path in paths:
        parts = path.split("/")
        if len(parts) < (3 if has_splits else 2):
            problems.append(f"{printable(path)}: lies in no class's folder, passed over")
            continue
        split = SPLIT_NAMES[parts[0].lower()] if has_splits else split_by_hash(path)
        entries.append((path, split, parts[1] if has_splits else parts[0]))
    if not entries:
        raise InputError(
            f"{folder} holds no video. Cure: put them in a folder for each class (or train/CLASS, test/CLASS), or "
            "name a table of them."
        )
    classes = sorted({name for _, _, name in entries})
    if fault := alike_fault(str(folder), classes) or separator_fault(folder, classes):
        raise InputError(fault)
    number = {name: index for index, name in enumerate(classes)}
    ids = _identities([path for path, _, _ in entries])
    videos = [ListedVideo(ids[p], p, (split,), number[name], name, "folder") for p, split, name in entries]
    problems += _empty_folders(folder, has_splits, set(classes))
    return Listing(classes, videos, problems + suspicions(classes, videos))


def has_split_folders(paths: Sequence[str]) -> bool:
    """Whether videos lie in train/CLASS, test/CLASS rather than in CLASS."""
    tops = {path.split("/", 1)[0] for path in paths if "/" in path}
    return bool(tops) and all(top.lower() in SPLIT_NAMES for top in tops)


def _mixed_fault(folder: Path, paths: Sequence[str]) -> str | None:
    """The message where splits lie beside other folders: all of them would be classes, and the splits forgotten."""
    parts = [path.split("/") for path in paths]
    splits = sorted({part[0] for part in parts if len(part) > 2 and part[0].lower() in SPLIT_NAMES})
    others = sorted({part[0] for part in parts if len(part) > 1 and part[0].lower() not in SPLIT_NAMES})
    if not splits or not others:
        return None
    shown = ", ".join(printable(name) for name in others[:NAMED]) + (", ..." if len(others) > NAMED else "")
    return (
        f"{folder}: {', '.join(splits)} hold folders of classes as splits do, and beside them lie {shown}, which are "
        "no splits. Cure: move them away, or rename them train, val, test or unused; a class needs another name than a "
        "split's."
    )


def from_table(table: Path, folder: Path) -> Listing:
    """List the videos of a CSV or Parquet table.

    Raises:
        InputError: the table is missing or unreadable, lists nothing, lacks a column, or a row cannot be understood.
    """
    numbered = read_rows(table)
    rows = [row for _, row in numbered]
    several = labels_of(numbered, table)
    for line, row in numbered:
        for label in several[line] if several else [row["label"]]:
            _check_label(label, line, table)
    problems: list[str] = []
    every = [label for labels in several.values() for label in labels] if several else [row["label"] for row in rows]
    named = sorted({str(label) for label in every if not _is_number(label) and label != ""})
    if fault := alike_fault(f"{table}, column label", named):
        raise InputError(fault)
    if named and any(_is_number(label) for label in every):
        raise InputError(f"{table}: column label mixes numbers and names. Cure: use one or the other.")
    names: dict[int, str] = dict(enumerate(named))
    number = {name: index for index, name in names.items()}
    videos: list[ListedVideo] = []
    paths = [_path(row["path"], line, table) for line, row in numbered]
    ids = _identities(paths)
    for (line, row), path in zip(numbered, paths, strict=True):
        given = several[line] if several else [] if row["label"] == "" else [row["label"]]
        labels = [int(label) if _is_number(label) else number[label] for label in given]
        told = [names[label] for label in labels] if named else names_of(row, labels, several is not None, line, table)
        for label, name in zip(labels, told, strict=True):
            if names.setdefault(label, name) != name:
                raise InputError(
                    f"{table}, row {line}: label {label} has label_name {name!r}, an earlier row has {names[label]!r}. "
                    "Cure: one name for each number, in every row."
                )
        split = text_of(row, "split").lower()
        if split and split not in SPLIT_NAMES:
            raise InputError(f"{table}, row {line}: split = {split!r}. Cure: train, val, test or unused.")
        videos.append(
            ListedVideo(
                video_id=text_of(row, "video_id") or ids[path],
                path=path,
                splits=(SPLIT_NAMES[split] if split else split_by_hash(path),),
                label=min(labels, default=-1),
                label_name=SEPARATOR.join(names[label] for label in sorted(labels)),
                source="folder",
                sha256=text_of(row, "sha256") or None,
                labels=tuple(sorted(labels)) if several else (),
            )
        )
    classes = [names.get(index, str(index)) for index in range(max(names, default=-1) + 1)]
    repeated = [video for video, count in Counter(video.video_id for video in videos).items() if count > 1]
    if repeated:
        raise InputError(
            f"{table}: {len(repeated)} videos are listed more than once, the first is {repeated[0]!r}. "
            "Cure: one row for each video; a video belongs to one split."
        )
    _check_numbers(table, names, {label for video in videos for label in classes_of(video)})
    missing = sum(not (folder / path).exists() for path in paths)
    if missing:
        problems.append(f"{missing} of {len(paths)} listed files are not in {folder.name}")
    return Listing(classes, videos, problems + suspicions(classes, videos))


def split_by_hash(path: str) -> str:
    """A split that depends on nothing but the video's path, so that new videos move no old one."""
    digest = hashlib.sha256(path.encode(errors="surrogateescape")).digest()
    percent = int.from_bytes(digest[:4], "big") % 100
    return "test" if percent < TEST_PERCENT else "val" if percent < TEST_PERCENT + VAL_PERCENT else "train"


def suspicions(classes: list[str], videos: list[ListedVideo]) -> list[str]:
    """Classes without training videos, and recordings that seem to lie in more than one split."""
    problems = []
    trained = {label for video in videos if video.splits[0] == "train" for label in classes_of(video)}
    for label, name in enumerate(classes):
        if label not in trained:
            problems.append(f"class {name!r} has no training video")
    where: dict[tuple[str, str], set[str]] = defaultdict(set)
    for video in videos:
        where[video.label_name, PurePosixPath(video.path).name].add(video.splits[0])
    leaks = sorted(name for (_, name), splits in where.items() if len(splits - {"unused"}) > 1)
    if leaks:
        problems.append(f"{len(leaks)} file names occur in more than one split (leak?), the first is {leaks[0]!r}")
    return problems


def _identities(paths: list[str]) -> dict[str, str]:
    """Path without suffix, or with it where two files differ in nothing else."""
    ids = {path: str(PurePosixPath(path).with_suffix("")) for path in paths}
    while True:  # with its suffix a file may be named as another one without: a.mp4, a.avi, a.mp4.avi
        count = Counter(ids[path] for path in paths)
        distinct = {path: path if count[name] > 1 else name for path, name in ids.items()}
        if distinct == ids:
            return ids
        ids = distinct


def _empty_folders(folder: Path, has_splits: bool, classes: set[str]) -> list[str]:
    parents = [entry for entry in folder.iterdir() if entry.is_dir()] if has_splits else [folder]
    names = {entry.name for parent in parents for entry in parent.iterdir() if entry.is_dir() and entry.name[0] != "."}
    return [f"class {name!r} has no video at all" for name in sorted(names - classes)]


def read_rows(table: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line of the file, or number of the row in Parquet; row) of a table; no label is "".

    Raises:
        InputError: the table is missing or unreadable, lists nothing, or lacks a column.
    """
    if not table.is_file():
        raise InputError(f"source.annotations: {table} does not exist. Cure: name a CSV or Parquet file.")
    columns, rows = _read_parquet(table) if table.suffix.lower() in (".parquet", ".pq") else _read_csv(table)
    lacking = [name for name in ("path", "label") if name not in columns]
    if lacking:
        # As Python writes strings: a blank, a tab or another separator within a name is seen.
        has = ", ".join(repr(name) for name in columns) or "none"
        raise InputError(f"{table} lacks the column {', '.join(lacking)}; it has {has}. {COLUMNS_CURE}")
    twice = sorted(name for name, count in Counter(columns).items() if count > 1)
    if twice:
        raise InputError(f"{table} has the column {twice[0]!r} more than once. {COLUMNS_CURE}")
    if not rows:
        raise InputError(f"{table} lists no video. Cure: one row for each video below the columns' names.")
    for _, row in rows:
        row["label"] = "" if row["label"] is None else row["label"]
    return rows


def _read_parquet(table: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = pq.read_table(table)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{table} is not a readable Parquet file: {error}.") from None
    return content.column_names, list(enumerate(content.to_pylist(), 1))


def _read_csv(table: Path) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            # Strict: a quote that nothing closes would swallow the rest of the file without a word.
            reader = csv.reader(file, strict=True)
            columns = next(reader, [])
            rows = []
            for fields in reader:
                if len(fields) not in (0, len(columns)):
                    raise InputError(
                        f"{table}, row {reader.line_num}: {len(fields)} fields, the first line names {len(columns)}. "
                        "Cure: as many fields as columns; put a field that holds a comma in double quotes."
                    )
                if fields:
                    rows.append((reader.line_num, dict(zip(columns, fields, strict=True))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{table} is not a readable CSV file in UTF-8: {error}. "
            "Cure: save it as CSV in UTF-8, each double quote within a field doubled."
        ) from None
    return columns, rows


def _path(value: object, line: int, table: Path) -> str:
    path = PurePosixPath(str(value or ""))
    if not path.name or path.is_absolute() or ".." in path.parts:
        raise InputError(
            f"{table}, row {line}: path = {value!r}. Cure: a path relative to the videos' folder, without '..'."
        )
    # The system knows no such file: its calls refuse a NUL and a name of more than 255 bytes.
    if "\0" in str(path) or any(len(part.encode(errors="surrogateescape")) > 255 for part in path.parts):
        raise InputError(f"{table}, row {line}: path = {str(path)[:200]!r} is no file's name. Cure: the video's path.")
    return str(path)


def _check_numbers(table: Path, names: dict[int, str], labels: set[int]) -> None:
    if counted_from_one(labels):
        raise InputError(
            f"{table}, column label: the {len(labels)} classes are numbered from 1, expected from 0: class 0 would be "
            f"empty. Cure: subtract 1 from every label (0 to {len(labels) - 1}) and set classes to {len(labels)}."
        )
    if fault := alike_fault(f"{table}, column label_name", names.values()):
        raise InputError(fault)
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        numbers = sorted(number for number, name in names.items() if name == twice[0])
        raise InputError(
            f"{table}, column label_name: {twice[0]!r} is the name of {numbers}. Cure: one number for each class."
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and value.isascii() and value.isdigit())


def is_name(label: object) -> bool:
    """Whether a table's label is a class's name, and is not read as a number."""
    return isinstance(label, str) and not _is_number(label) and not re.fullmatch(r"-\d+|-?\d+\.\d*", label)


def _check_label(value: object, line: int, table: Path) -> None:
    number = _is_number(value) and not isinstance(value, bool) and 0 <= int(str(value)) < MAX_CLASSES
    if not (number or is_name(value)):
        raise InputError(
            f"{table}, row {line}: label = {value!r}. Cure: a class's name, its number from 0 to {MAX_CLASSES - 1:,}, "
            "or nothing where there is none."
        )
