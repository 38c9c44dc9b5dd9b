"""Building a cache in one decoding pass per video: which shards exist, which are missing, and making those.

The unit of work is a shard unit: some tens of videos whose frames (and whose distance maps) lie in one file
each. A unit's name is the hash of its videos' SHA-256 and of the parameters that its bytes depend on. So a
changed parameter or video makes exactly the units it touches missing; everything else is found and used
again, after an interruption as well as after a change. Units lie in the store
(.work/preprocess/<bench>/shards); a cache is hard links to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.cache import VERSION
from pipeline.data.cache_write import ShardWriter, disk_full_said, jpeg, shrink
from pipeline.data.files import write_text
from pipeline.data.informativeness import U8, MapBuilder, num_places
from pipeline.data.video import VideoError, open_video
from pipeline.layout import fingerprint

#: Bytes a pixel that JPEG is planned with; a file that grows larger than its bound is continued in a second
#: one.
JPEG_BYTES_PER_PIXEL = 0.25
#: A benchmark is cut into at least this many units where they keep MIN_UNIT bytes, so that workers share it.
MIN_UNITS, MIN_UNIT = 16, 8 << 20
#: Raw frames of one video are held in memory until they are written.
MAX_VIDEO_BYTES = 4 << 30
#: Frames that are decoded together.
CHUNK = 16


@dataclass(frozen=True)
class Video:
    """What building needs to know about one video of the manifest."""

    video_id: str
    path: str
    sha256: str
    frames: int
    height: int
    width: int
    reader: str


@dataclass(frozen=True)
class FrameRule:
    """How frames are stored. A change makes all frame shards missing."""

    store: str
    jpeg_quality: int
    short_side: int
    keep_every: int

    def key(self) -> dict[str, Any]:
        values = {"store": self.store, "short_side": self.short_side, "keep_every": self.keep_every}
        return values | ({"jpeg_quality": self.jpeg_quality} if self.store == "jpeg" else {})


@dataclass(frozen=True)
class MapRule:
    """How distance maps are computed. They are taken on frames at the cached size."""

    source: str
    frame_step: int
    resolution: int
    short_side: int

    def key(self) -> dict[str, Any]:
        return dict(self.__dict__)


@dataclass(frozen=True)
class Unit:
    """Some videos and the names of their frame and map shards; a part is None where it exists already."""

    videos: tuple[Video, ...]
    frames_key: str
    maps_key: str
    frame_rule: FrameRule
    map_rule: MapRule
    bound: int

    def missing(self, store: Path) -> list[str]:
        """The parts that the store does not hold."""
        keys = {"frames": self.frames_key, "maps": self.maps_key}
        return [part for part, key in keys.items() if not _record(store, part, key).is_file()]


def plan(videos: Sequence[Video], frame_rule: FrameRule, map_rule: MapRule, shard_bytes: int) -> list[Unit]:
    """Cut the videos, in order, into units of at most about `shard_bytes`."""
    sizes = [_estimate(video, frame_rule) for video in videos]
    target = min(shard_bytes, max(MIN_UNIT, sum(sizes) // MIN_UNITS))
    groups: list[list[Video]] = [[]]
    filled = 0
    for video, size in zip(videos, sizes, strict=True):
        if groups[-1] and filled + size > target:
            groups.append([])
            filled = 0
        groups[-1].append(video)
        filled += size
    units = []
    for group in groups:
        if group:
            content = [video.sha256 for video in group]
            frames_key = fingerprint([VERSION, "frames", frame_rule.key(), content])
            maps_key = fingerprint([VERSION, "maps", map_rule.key(), content])
            units.append(Unit(tuple(group), frames_key, maps_key, frame_rule, map_rule, shard_bytes))
    return units


def build_unit(unit: Unit, store: Path, raw: Path) -> int:
    """Decode the unit's videos once and write its missing parts; returns the number of frames decoded.

    Videos that do not decode are listed in the unit's record with their reason. Safe to repeat: a part is
    found or is made anew, never half made.
    """
    parts = unit.missing(store)
    if not parts:
        return 0
    with disk_full_said(store):
        store.mkdir(parents=True, exist_ok=True)
        writers = {
            part: ShardWriter(
                store,
                f"{part}-{getattr(unit, part + '_key')}",
                "frame" if part == "frames" else part,
                unit.bound,
            )
            for part in parts
        }
        rows: dict[str, list[dict[str, Any]]] = {part: [] for part in parts}
        failed: list[dict[str, str]] = []
        decoded = 0
        try:
            maps: list[tuple[dict[str, Any], bytes]] = []
            for video in unit.videos:
                try:
                    frames, distance, size, count = _decode(video, unit, raw, parts)
                except VideoError as error:
                    failed.append({"video_id": video.video_id, "reason": f"{error.reason}: {error}"})
                    continue
                decoded += count
                if "frames" in parts:
                    name, batch = writers["frames"].add(frames)
                    rows["frames"].append(
                        {"video_id": video.video_id, "file": name, "batch": batch, "stored": len(frames)}
                        | {"height": size[0], "width": size[1]}
                    )
                if "maps" in parts:
                    row = {
                        "video_id": video.video_id,
                        "places": distance.shape[1],
                        "starts": distance.shape[0],
                    }
                    maps.append((row, distance.tobytes()))
            if maps:
                name, _ = writers["maps"].add([data for _, data in maps])
                rows["maps"] = [row | {"file": name, "row": place} for place, (row, _) in enumerate(maps)]
            for part in parts:
                record = {"shards": writers[part].finish(), "rows": rows[part], "failed": failed}
                write_text(_record(store, part, getattr(unit, part + "_key")), json.dumps(record))
        except BaseException:
            for writer in writers.values():
                writer.abandon()
            raise
    return decoded


def read_unit(store: Path, part: str, key: str) -> dict[str, Any]:
    """The record of a finished part: its shards, its rows and the videos that failed."""
    record: dict[str, Any] = json.loads(_record(store, part, key).read_text(encoding="utf-8"))
    return record


def _record(store: Path, part: str, key: str) -> Path:
    return store / f"{part}-{key}.json"


def _estimate(video: Video, rule: FrameRule) -> int:
    scale = min(1.0, rule.short_side / max(1, min(video.height, video.width)))
    pixels = video.height * video.width * scale * scale * -(-video.frames // rule.keep_every)
    return int(pixels * (3 if rule.store == "raw" else JPEG_BYTES_PER_PIXEL))


def _decode(video: Video, unit: Unit, raw: Path, parts: Sequence[str]) -> tuple[list[Any], Any, tuple[int, int], int]:
    """One pass: (stored rows, maps [J, L], (height, width), frames decoded)."""
    rule, step = unit.frame_rule, unit.map_rule.frame_step
    stored = range(0, video.frames, rule.keep_every) if "frames" in parts else range(0)
    mapped = range(0, video.frames, step) if "maps" in parts else range(0)
    builder = MapBuilder(unit.map_rule.resolution, unit.map_rule.source)
    rows: list[Any] = []
    held, seen, size = 0, 0, (0, 0)
    for number, full in needed_frames(video, raw, sorted({*stored, *mapped})):
        frame = shrink(full, rule.short_side)
        size = (frame.shape[0], frame.shape[1])
        seen += 1
        if number in mapped:
            builder.add(frame)
        if number in stored:
            rows.append(jpeg(frame, rule.jpeg_quality) if rule.store == "jpeg" else _flat(frame))
            held += len(rows[-1])
            if held > MAX_VIDEO_BYTES:
                raise VideoError("too_long", f"its frames take more than {MAX_VIDEO_BYTES >> 30} GiB. Cure: cut it.")
    distance = builder.maps() if "maps" in parts else np.zeros((0, num_places(unit.map_rule.resolution)))
    return rows, distance, size, seen


def needed_frames(video: Video, raw: Path, wanted: Sequence[int]) -> Iterator[tuple[int, U8]]:
    """(frame number, uint8 [H, W, 3]) of the wanted frames in order, in one decoding pass.

    Raises:
        VideoError: the video does not open, or fewer frames decode than the manifest records.
    """
    with open_video(raw / video.path, _reader(video.reader)) as reader:
        if reader.reader == "decord":
            # decord skips the frames between without converting them.
            for start in range(0, len(wanted), CHUNK):
                chunk = wanted[start : start + CHUNK]
                yield from zip(chunk, reader.frames(chunk), strict=True)
            return
        waiting = iter(wanted)
        upcoming = next(waiting, None)
        for number, frame in enumerate(reader.all_frames()):
            if upcoming is None:
                return
            if number == upcoming:
                yield number, frame
                upcoming = next(waiting, None)
    if upcoming is not None:
        raise VideoError(
            "declared_more_than_decoded",
            f"frame {upcoming} does not decode, though the manifest records {video.frames} frames",
        )


def _reader(name: str) -> Any:
    return name if name in ("decord", "pyav") else "auto"


def _flat(frame_HWC: U8) -> memoryview:
    return np.ascontiguousarray(frame_HWC).data.cast("B")


def total_failed(records: Iterable[dict[str, Any]]) -> dict[str, str]:
    """video_id -> reason over unit records; a video fails once, whichever parts were being made."""
    return {item["video_id"]: item["reason"] for record in records for item in record["failed"]}
