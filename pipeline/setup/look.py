"""What a set of your own videos is like: its classes, rates, sizes, lengths, and what cannot be used of it.

Everything is from the one decoding that `everest audit` and `everest ingest` share.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.audit.measuring import audited
from pipeline.audit.record import CLIP_FRAMES, Audited
from pipeline.audit.summary import Findings, findings
from pipeline.data.annotations.base import ListedVideo, Listing, classes_of, text_of
from pipeline.data.annotations.classes import NAMED
from pipeline.data.annotations.own import SPLIT_NAMES, from_folders, from_table, has_split_folders, read_rows
from pipeline.data.ingest.verdicts import REASONS, verdict
from pipeline.data.video.listing import video_files
from pipeline.errors import InputError
from pipeline.multilabel.labels import class_parts
from pipeline.params import IngestParams
from pipeline.system.csv_files import guarded
from pipeline.system.text import counted, printable, storable

#: Frames of a clip where more than SHORT_SHARE of the videos have so many and fewer than the paper's 16.
FEWER_FRAMES, SHORT_SHARE = 8, 0.2
#: [s] Median length below which a video is taken for one action that was cut out, as Something-Something's of 4 s are.
CUT_OUT = 4.0
#: Reason of a video that lies, with the same bytes, in two classes: nobody can say which is right.
CONTRADICTION = "two_classes"


@dataclass(frozen=True)
class OwnVideo:
    """A usable video.

    Attributes:
        path: relative to the set's folder.
        number, label: of its class; -1 and "" where it has none. Of several the first number, and names as `a|b`.
        split: that its folder or table gives it, or "".
        group: that the table gives it, or "".
        frames, fps, short_side: number, per second, [px].
        numbers: of all its classes, in a set whose videos have several; else ().
    """

    path: str
    number: int
    label: str
    split: str
    group: str
    frames: int
    fps: float
    short_side: int
    sha256: str
    numbers: tuple[int, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of its classes: one, none, or in a set whose videos have several all of `numbers`."""
        return tuple(class_parts(self.label)) if self.numbers else (self.label,) if self.label else ()


@dataclass(frozen=True)
class LeftOut:
    """A video that is not used, and why (`pipeline.data.ingest.verdicts.REASONS`, or CONTRADICTION)."""

    path: str
    label: str
    reason: str
    message: str


@dataclass(frozen=True)
class OwnSet:
    """A set of your own videos.

    Attributes:
        folder: that paths are relative to.
        table: CSV or Parquet file that lists them, or None for a folder for each class.
        numbered: whether the table gives classes by number.
        named: whether the numbers have names beside them.
        clip_frames: frames of a clip that fits these videos.
        whole: whether a clip is the whole of its video, since they are short; it may then repeat frames.
        problems: what listing them showed.
        records, findings: what the audit knows of each, and of all.
    """

    folder: Path
    table: Path | None
    numbered: bool
    named: bool
    videos: list[OwnVideo]
    left_out: list[LeftOut]
    clip_frames: int
    whole: bool
    problems: list[str]
    records: Mapping[str, Audited]
    findings: Findings

    @property
    def min_frames(self) -> int:
        """Frames that a video needs."""
        return _min_frames(self.clip_frames, self.whole)

    def classes(self) -> dict[str, int]:
        """Usable videos of each class."""
        return dict(sorted(Counter(name for video in self.videos for name in video.classes).items()))

    @property
    def several(self) -> bool:
        """Whether videos have several classes each."""
        return any(video.numbers for video in self.videos)

    def similar(self) -> list[list[str]]:
        """Groups of usable videos that show nearly the same pictures; of copies the one that is used stands for all."""
        used = {video.sha256: video.path for video in self.videos}
        hashes = ([self.records[path].measurement.sha256 for path in group] for group in self.findings.similar)
        kept = ([used[sha256] for sha256 in group if sha256 in used] for group in hashes)
        return [group for group in kept if len(group) > 1]


def look(place: Path, rules: IngestParams) -> OwnSet:
    """Look at a folder with a folder for each class, or at a table of videos beside it.

    Args:
        rules: of ingest; `min_frames` is chosen here.

    Raises:
        InputError: no such place, no video, a row that cannot be used, fewer than two classes.
        Interrupted: stopped by Ctrl-C; what was measured is kept.
    """
    if not place.exists():
        raise InputError(f"{place} does not exist. Cure: name the folder of your videos, or a CSV or Parquet table.")
    table = None if place.is_dir() else place
    folder = place.resolve() if table is None else place.parent.resolve()
    listing = _listed(folder, table)
    given = _given(listing, table)
    listed = Counter(listing.classes[label] for video in listing.videos for label in classes_of(video))
    _check_classes(place, listed, "lists")
    _check_numbers(place, listing)
    _check_names(listing)
    records = audited(folder, [video.path for video in listing.videos], rules)
    frames, whole = _clip_frames(records), _cut_out(records)
    rules = rules.model_copy(update={"min_frames": _min_frames(frames, whole)})
    summary = findings(records, rules)
    videos, left_out = _sorted_out(listing, records, rules, given)
    if summary is None or not videos:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(v.reason for v in left_out).most_common(4))
        raise InputError(
            f"none of the {counted(len(left_out), 'video')} of {place} can be used ({reasons}). "
            "Cure: `everest ingest` says why, file by file."
        )
    dataset = OwnSet(
        folder,
        table,
        numbered=given.numbered,
        named=any(name != str(number) for number, name in enumerate(listing.classes)),
        videos=videos,
        left_out=left_out,
        clip_frames=frames,
        whole=whole,
        problems=[problem for problem in listing.problems if "passed over" in problem or "no video at all" in problem],
        records=records,
        findings=summary,
    )  # fmt: skip
    _check_classes(place, Counter(dataset.classes()), "has usable videos of")
    if dataset.numbered and (gone := sorted(listed.keys() - dataset.classes().keys())):
        raise InputError(
            f"{place}: no video of class {gone[0]} can be used, and classes are numbered without a gap. "
            "Cure: `everest ingest` says why; or give classes by name."
        )
    return dataset


def _listed(folder: Path, table: Path | None) -> Listing:
    if table is not None:
        return from_table(table, folder)
    paths, others = video_files(folder)
    if not paths:
        raise InputError(
            f"{folder} holds no video ({others} other files). Cure: a folder with a folder for each class, or a table."
        )
    if not any("/" in path for path in paths):
        raise InputError(
            f"{folder} holds {counted(len(paths), 'video')} in no class's folder. Cure: CLASS/video.mp4, or a CSV "
            "with the columns path,label."
        )
    return from_folders(folder)


@dataclass(frozen=True)
class _Given:
    """What the folder or the table says beside the classes: splits and groups by path; whether classes are numbers."""

    splits: dict[str, str]
    groups: dict[str, str]
    numbered: bool


def _given(listing: Listing, table: Path | None) -> _Given:
    paths = [video.path for video in listing.videos]
    if table is None:
        split = has_split_folders(paths)
        return _Given({video.path: video.splits[0] for video in listing.videos if split}, {}, False)
    rows = dict(zip(paths, (row for _, row in read_rows(table)), strict=True))
    return _Given(
        {path: SPLIT_NAMES[text.lower()] for path, row in rows.items() if (text := text_of(row, "split"))},
        {path: text for path, row in rows.items() if (text := text_of(row, "group").strip())},
        all(
            part.strip().isdigit()
            for row in rows.values()
            if row["label"] != ""
            for part in class_parts(str(row["label"]))
        ),
    )


def _check_classes(place: Path, classes: Counter[str], verb: str) -> None:
    if len(classes) < 2:
        shown = f"one class, {next(iter(classes))!r}" if classes else "no class"
        raise InputError(
            f"{place} {verb} {shown}: a classifier needs two. Cure: a folder (or label) for each class; "
            "`everest audit` looks at videos without classes."
        )


def _check_numbers(place: Path, listing: Listing) -> None:
    """Refuse what the download would refuse, before anything is decoded."""
    absent = sorted(set(range(len(listing.classes))).difference(*map(classes_of, listing.videos)))
    if absent:
        shown = ", ".join(map(str, absent[:NAMED])) + (", ..." if len(absent) > NAMED else "")
        raise InputError(
            f"{place} numbers its classes up to {len(listing.classes) - 1}, and no video has {shown}. Cure: number "
            f"them from 0 to {len(listing.classes) - len(absent) - 1} without a gap, or give classes by name."
        )


def _check_names(listing: Listing) -> None:
    for name in listing.classes:
        if storable(name) != name:
            raise InputError(
                f"class {printable(name)} has a name that is no UTF-8 text, which no table can hold. Cure: rename it."
            )
        if guarded(name) != name:
            raise InputError(
                f"class {name!r} begins with a sign that a spreadsheet runs as a formula. Cure: another name for it."
            )


def _min_frames(clip_frames: int, whole: bool) -> int:
    return clip_frames // 2 if whole else clip_frames


def _cut_out(records: Mapping[str, Audited]) -> bool:
    """Whether these videos are short ones, each cut out around what it shows."""
    read = [record.measurement for record in records.values()]
    seconds = [one.frames_decoded / one.fps for one in read if one.frames_decoded and one.fps]
    return bool(seconds) and float(np.median(seconds)) < CUT_OUT


def _clip_frames(records: Mapping[str, Audited]) -> int:
    """The paper's, unless many videos would be lost by it that fewer frames keep."""
    frames = [record.measurement.frames_decoded for record in records.values()]
    frames = [count for count in frames if count >= FEWER_FRAMES]
    short = sum(count < CLIP_FRAMES for count in frames)
    return FEWER_FRAMES if frames and short > SHORT_SHARE * len(frames) else CLIP_FRAMES


def _sorted_out(
    listing: Listing, records: Mapping[str, Audited], rules: IngestParams, given: _Given
) -> tuple[list[OwnVideo], list[LeftOut]]:
    """Videos that can be used, of equal ones the first, and the others with their reasons."""
    good: dict[str, list[ListedVideo]] = defaultdict(list)
    left_out = []
    for video in sorted(listing.videos, key=lambda video: video.path):
        measured = records[video.path].measurement
        reason = verdict(measured, rules)
        if not reason and video.sha256 and video.sha256.lower() != measured.sha256:
            reason = "wrong_hash"
        if reason:
            message = measured.message or REASONS[reason]
            left_out.append(LeftOut(video.path, video.label_name, reason, message))
        else:
            good[measured.sha256].append(video)
    videos = []
    for sha256, same in good.items():
        labels = sorted({video.label_name for video in same if video.label >= 0})
        if len(labels) > 1:
            message = f"the same bytes lie in the classes {', '.join(labels)}"
            left_out += [LeftOut(video.path, video.label_name, CONTRADICTION, message) for video in same]
            continue
        # A copy with a class says more than one without; else the first by name.
        first = min(same, key=lambda video: (video.label < 0, video.path))
        left_out += [
            LeftOut(video.path, video.label_name, "duplicate", f"the same bytes as {first.path}")
            for video in same
            if video is not first
        ]
        measured = records[first.path].measurement
        label = first.label_name if first.label >= 0 else ""
        videos.append(
            OwnVideo(
                first.path, first.label, label, given.splits.get(first.path, ""), given.groups.get(first.path, ""),
                measured.frames_decoded, measured.fps, min(measured.width, measured.height), sha256, first.labels,
            )
        )  # fmt: skip
    return sorted(videos, key=lambda video: video.path), sorted(left_out, key=lambda video: video.path)
