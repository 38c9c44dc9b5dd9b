"""Building a cache in one decoding pass per video: which shards exist, which are missing, and making those.

The unit of work is a shard unit: some tens of videos whose frames (and whose distance maps) lie in one file
each. A unit's name is the hash of its videos' SHA-256 and of the parameters that its bytes depend on. So a
changed parameter or video makes exactly the units it touches missing; everything else is found and used
again, after an interruption as well as after a change. Units lie in the store
(.work/preprocess/<bench>/shards); a cache is hard links to them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.data.arrays import U8, Halves
from pipeline.data.cache.maps import MapBuilder
from pipeline.data.cache.records import (
    MAPS,
    VERSION,
    FailedVideo,
    FrameKey,
    FrameRow,
    MapKey,
    MapRow,
    Part,
    UnitRecord,
)
from pipeline.data.cache.write import Rows, ShardWriter, disk_full_error, jpeg
from pipeline.data.frame_source import VideoFile
from pipeline.data.frame_step import Step, tick_frames
from pipeline.data.video import VideoError
from pipeline.data.video.shrink import shrink
from pipeline.errors import DamagedError
from pipeline.layout import fingerprint
from pipeline.params.declared import versions
from pipeline.system.files import sha256_of, write_text
from pipeline.system.sealed import is_whole, row_checksum, sealed_json

#: Units are planned as if every frame were stored as JPEG of this many bytes a pixel, however frames are stored: so
#: the same videos share a unit whatever the parameters, and a changed one leaves the other part's shards as they are.
#: A file that would grow larger than its bound is continued in a second one.
JPEG_BYTES_PER_PIXEL = 0.25
#: A benchmark is cut into at least this many units where they keep MIN_UNIT bytes, so that workers share it.
MIN_UNITS, MIN_UNIT = 16, 1 << 20
#: Raw frames of one video are held in memory until they are written.
MAX_VIDEO_BYTES = 4 << 30


@dataclass(frozen=True)
class FrameRule:
    """How frames are stored. A change makes all frame shards missing."""

    store: str
    jpeg_quality: int
    short_side: int
    keep_every: int

    def key(self) -> FrameKey:
        values: FrameKey = {"store": self.store, "short_side": self.short_side, "keep_every": self.keep_every}
        if self.store == "jpeg":
            values["jpeg_quality"] = self.jpeg_quality
        return values


@dataclass(frozen=True)
class MapRule:
    """How distance maps are computed. They are taken on frames at the cached size."""

    source: str
    step: Step
    resolution: int
    short_side: int
    #: A model folder whose tubelet embedding compares the frames, and the SHA-256 of its weights.
    weights: str | None = None
    weights_sha256: str | None = None

    def key(self) -> MapKey:
        values: MapKey = {
            "source": self.source,
            "frame_step": self.step.entry,
            "resolution": self.resolution,
            "short_side": self.short_side,
        }
        if self.weights:
            values["weights_sha256"] = self.weights_sha256
        return values


@dataclass(frozen=True)
class Unit:
    """Some videos, and what the shards of their frames and of their maps are named by."""

    videos: tuple[VideoFile, ...]
    frames_key: str
    maps_key: str
    frame_rule: FrameRule
    map_rule: MapRule
    bound: int

    @property
    def stems(self) -> dict[Part, str]:
        """The name of each part: its record is `<stem>.json`, its shards `<stem>-0.arrow` and so on."""
        return {"frames": f"frames-{self.frames_key}", "maps": f"maps-{self.maps_key}"}

    def missing(self, store: Path) -> list[Part]:
        """The parts that the store does not hold, or holds under other names of the videos.

        A name is no part of a key: a renamed video has the bytes that it had.
        """
        return [part for part, stem in self.stems.items() if not self._holds(store, stem)]

    def _holds(self, store: Path, stem: str) -> bool:
        if not (store / f"{stem}.json").is_file():
            return False
        record = read_unit(store, stem)
        named = sorted(video["video_id"] for video in [*record["rows"], *record["failed"]])
        return named == sorted(video.video_id for video in self.videos)


def plan(videos: Sequence[VideoFile], frame_rule: FrameRule, map_rule: MapRule, shard_bytes: int) -> list[Unit]:
    """Cut the videos, in order, into units of at most about `shard_bytes`."""
    sizes = [int(video.height * video.width * video.frames * JPEG_BYTES_PER_PIXEL) for video in videos]
    target = min(shard_bytes, max(MIN_UNIT, sum(sizes) // MIN_UNITS))
    groups: list[list[VideoFile]] = [[]]
    filled = 0
    for video, size in zip(videos, sizes, strict=True):
        if groups[-1] and filled + size > target:
            groups.append([])
            filled = 0
        groups[-1].append(video)
        filled += size
    units = []
    made_by = [VERSION, versions()["reading"]]
    for group in groups:
        if group:
            content = [video.sha256 for video in group]
            frames_key = fingerprint([made_by, "frames", frame_rule.key(), content])
            maps_key = fingerprint([made_by, "maps", map_rule.key(), content])
            units.append(Unit(tuple(group), frames_key, maps_key, frame_rule, map_rule, shard_bytes))
    return units


def build_unit(unit: Unit, store: Path) -> int:
    """Decode the unit's videos once and write its missing parts; returns the number of frames decoded.

    Videos that do not decode are listed in the unit's record with their reason. Safe to repeat: a part is
    found or is made anew, never half made.
    """
    parts = unit.missing(store)
    if not parts:
        return 0
    with disk_full_error(store):
        store.mkdir(parents=True, exist_ok=True)
        columns = {"frames": "frame", "maps": "maps"}
        writers = {part: ShardWriter(store, unit.stems[part], columns[part], unit.bound) for part in parts}
        try:
            return _write(unit, store, writers)
        except BaseException:
            for writer in writers.values():
                writer.abandon()
            raise


def _write(unit: Unit, store: Path, writers: dict[Part, ShardWriter]) -> int:
    frames: list[FrameRow] = []
    maps: list[tuple[VideoFile, Halves]] = []
    failed: list[FailedVideo] = []
    decoded, scratch = 0, Scratch()
    for video in unit.videos:
        try:
            content = _decode(video, unit, writers.keys(), scratch)
        except VideoError as error:
            failed.append({"video_id": video.video_id, "reason": f"{error.reason}: {error}"})
            continue
        decoded += content.decoded
        if "frames" in writers:
            sums = [row_checksum(frame, video.sha256, place) for place, frame in enumerate(content.rows)]
            file, batch = writers["frames"].add(content.rows, sums)
            height, width = content.size
            frames.append(
                {
                    "video_id": video.video_id,
                    "file": file,
                    "batch": batch,
                    "stored": len(content.rows),
                    "height": height,
                    "width": width,
                }
            )
        maps.append((video, content.maps))
    rows: dict[Part, list[FrameRow] | list[MapRow]] = {"frames": frames}
    if "maps" in writers:
        rows["maps"] = _write_maps(maps, writers["maps"])
    for part, writer in writers.items():
        record = {"shards": writer.finish(), "rows": rows[part], "failed": failed}
        write_text(store / f"{unit.stems[part]}.json", sealed_json(record))
    return decoded


def _write_maps(maps: Sequence[tuple[VideoFile, Halves]], writer: ShardWriter) -> list[MapRow]:
    """Write the maps of all videos as one batch."""
    if not maps:
        return []
    content = [values.tobytes() for _, values in maps]
    sums = [row_checksum(data, video.sha256, MAPS) for data, (video, _) in zip(content, maps, strict=True)]
    file, _ = writer.add(content, sums)
    return [
        {
            "video_id": video.video_id,
            "places": values.shape[1],
            "starts": values.shape[0],
            "file": file,
            "row": row,
        }
        for row, (video, values) in enumerate(maps)
    ]


def read_unit(store: Path, stem: str) -> UnitRecord[Any]:
    """The record of a finished part.

    Raises:
        DamagedError: it is not what was written.
    """
    path = store / f"{stem}.json"
    record: UnitRecord[Any] = json.loads(path.read_text(encoding="utf-8"))
    if not is_whole(record):
        raise DamagedError(f"{path} is damaged: its entries do not have the checksum that it records. Cure: remove it.")
    return record


class _Decoded(NamedTuple):
    """What one pass over a video gives: rows of the frame shard, maps [J, L], (height, width), frames decoded."""

    rows: Rows
    maps: Halves
    size: tuple[int, int]
    decoded: int


def _decode(video: VideoFile, unit: Unit, parts: Collection[Part], scratch: Scratch) -> _Decoded:
    _check_bytes(video)
    rule = unit.frame_rule
    stored = range(0, video.frames, rule.keep_every) if "frames" in parts else range(0)
    # How often each frame is one of the maps': by time one may stand for several.
    mapped = Counter(_mapped(video, unit.map_rule.step) if "maps" in parts else ())
    builder = MapBuilder(unit.map_rule.resolution, unit.map_rule.source, unit.map_rule.weights)
    blobs: list[bytes] = []
    block: U8 | None = None
    held, size = 0, (0, 0)
    wanted = sorted({*stored, *mapped})
    with video.open() as reader:
        for number, full in zip(wanted, reader.pick(wanted), strict=True):
            frame = shrink(full[None], rule.short_side)[0]
            size = (frame.shape[0], frame.shape[1])
            for _ in range(mapped[number]):
                builder.add(frame)
            if number not in stored:
                continue
            if rule.store == "jpeg":
                blobs.append(jpeg(frame, rule.jpeg_quality))
                held += len(blobs[-1])
            else:
                held = len(stored) * frame.size
            if held > MAX_VIDEO_BYTES:
                raise VideoError("too_long", f"its frames take more than {MAX_VIDEO_BYTES >> 30} GiB. Cure: cut it.")
            if rule.store == "raw":
                block = scratch.take(len(stored), frame.size) if block is None else block
                block[number // rule.keep_every].reshape(frame.shape)[...] = frame
    return _Decoded(blobs if block is None else block, builder.maps(), size, len(wanted))


def _check_bytes(video: VideoFile) -> None:
    """Refuse another file than the one whose hash names what is made of it.

    Raises:
        VideoError: its bytes are others, or cannot be read.
    """
    try:
        same = not video.sha256 or sha256_of(video.path) == video.sha256
    except OSError as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        raise VideoError(reason, f"{video.path}: {error.strerror}") from None
    if not same:
        raise VideoError("wrong_hash", f"{video.path} is not the file that was downloaded. Cure: `everest download`.")


def _mapped(video: VideoFile, step: Step) -> Sequence[int]:
    """The frames that a video's distance maps are computed on, in order."""
    if not step.own:
        return range(0, video.frames, step.frames)
    numbers: list[int] = tick_frames(video.frames, step.of(video.frames, video.fps)).tolist()
    return numbers


class Scratch:
    """One block of memory for the raw frames of one video after the other: fresh pages cost more than the copy."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def take(self, rows: int, row_bytes: int) -> U8:
        """Uninitialised, uint8 [rows, row_bytes]; what was taken before is written over."""
        if len(self._memory) < rows * row_bytes:
            self._memory = np.empty(rows * row_bytes, np.uint8)
        return self._memory[: rows * row_bytes].reshape(rows, row_bytes)
