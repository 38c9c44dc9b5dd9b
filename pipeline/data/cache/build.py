"""Building a cache in one decoding pass per video: which shards exist, which are missing, and making those.

The unit of work is a shard unit: some tens of videos whose frames (and whose distance maps) lie in one file
each. A unit's name is the hash of its videos' SHA-256 and of the parameters that its bytes depend on. So a
changed parameter or video makes exactly the units it touches missing; everything else is found and used
again, after an interruption as well as after a change. Units lie in the store
(.work/preprocess/<bench>/shards); a cache is hard links to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.data.arrays import U8
from pipeline.data.cache.maps import MapBuilder, num_places
from pipeline.data.cache.read import MAPS, VERSION
from pipeline.data.cache.write import Rows, ShardWriter, disk_full_error, jpeg
from pipeline.data.video import VideoError, VideoReader, open_video
from pipeline.data.video.shrink import shrink
from pipeline.errors import DamagedError
from pipeline.layout import fingerprint
from pipeline.params.declared import versions
from pipeline.system.files import write_text
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
class Video:
    """What building needs to know about one video of the manifest."""

    video_id: str
    path: str
    sha256: str
    frames: int
    height: int
    width: int
    reader: str = "pyav"
    jumps: str = ""


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
    #: A model folder whose tubelet embedding compares the frames, and the SHA-256 of its weights.
    weights: str | None = None
    weights_sha256: str | None = None

    def key(self) -> dict[str, Any]:
        values = {name: value for name, value in self.__dict__.items() if not name.startswith("weights")}
        return values | ({"weights_sha256": self.weights_sha256} if self.weights else {})


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
    sizes = [int(video.height * video.width * video.frames * JPEG_BYTES_PER_PIXEL) for video in videos]
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
    made_by = [VERSION, versions()["reading"]]
    for group in groups:
        if group:
            content = [video.sha256 for video in group]
            frames_key = fingerprint([made_by, "frames", frame_rule.key(), content])
            maps_key = fingerprint([made_by, "maps", map_rule.key(), content])
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
    with disk_full_error(store):
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
        decoded, scratch = 0, Scratch()
        try:
            maps: list[tuple[dict[str, Any], bytes, int]] = []
            for video in unit.videos:
                try:
                    frames, distance, size, count = _decode(video, unit, raw, parts, scratch)
                except VideoError as error:
                    failed.append({"video_id": video.video_id, "reason": f"{error.reason}: {error}"})
                    continue
                decoded += count
                if "frames" in parts:
                    sums = [row_checksum(frame, video.sha256, place) for place, frame in enumerate(frames)]
                    name, batch = writers["frames"].add(frames, sums)
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
                    data = distance.tobytes()
                    maps.append((row, data, row_checksum(data, video.sha256, MAPS)))
            if maps:
                name, _ = writers["maps"].add([data for _, data, _ in maps], [checksum for _, _, checksum in maps])
                rows["maps"] = [row | {"file": name, "row": place} for place, (row, _, _) in enumerate(maps)]
            for part in parts:
                record = {"shards": writers[part].finish(), "rows": rows[part], "failed": failed}
                write_text(_record(store, part, getattr(unit, part + "_key")), sealed_json(record))
        except BaseException:
            for writer in writers.values():
                writer.abandon()
            raise
    return decoded


def read_unit(store: Path, part: str, key: str) -> dict[str, Any]:
    """The record of a finished part: its shards, its rows and the videos that failed.

    Raises:
        DamagedError: it is not what was written.
    """
    path = _record(store, part, key)
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if not is_whole(record):
        raise DamagedError(f"{path} is damaged: its entries do not have the checksum that it records. Cure: remove it.")
    return record


def _record(store: Path, part: str, key: str) -> Path:
    return store / f"{part}-{key}.json"


def _decode(video: Video, unit: Unit, raw: Path, parts: Sequence[str], scratch: Scratch) -> _Decoded:
    with open_video(raw / video.path, video.reader, video.frames, video.jumps) as reader:
        return _one_pass(video, unit, reader, parts, scratch)


def _one_pass(video: Video, unit: Unit, reader: VideoReader, parts: Sequence[str], scratch: Scratch) -> _Decoded:
    rule, step = unit.frame_rule, unit.map_rule.frame_step
    stored = range(0, video.frames, rule.keep_every) if "frames" in parts else range(0)
    mapped = range(0, video.frames, step) if "maps" in parts else range(0)
    builder = MapBuilder(unit.map_rule.resolution, unit.map_rule.source, unit.map_rule.weights)
    blobs: list[bytes] = []
    block: U8 | None = None
    held, size = 0, (0, 0)
    wanted = sorted({*stored, *mapped})
    for number, full in zip(wanted, reader.pick(wanted), strict=True):
        frame = shrink(full[None], rule.short_side)[0]
        size = (frame.shape[0], frame.shape[1])
        if number in mapped:
            builder.add(frame)
        if number in stored:
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
    distance = builder.maps() if "maps" in parts else np.zeros((0, num_places(unit.map_rule.resolution)))
    return _Decoded(blobs if block is None else block, distance, size, len(wanted))


class _Decoded(NamedTuple):
    """What one pass over a video gives: rows of the frame shard, maps [J, L], (height, width), frames decoded."""

    rows: Rows
    maps: np.ndarray
    size: tuple[int, int]
    decoded: int


class Scratch:
    """One block of memory for the raw frames of one video after the other: fresh pages cost more than the copy."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def take(self, rows: int, row_bytes: int) -> U8:
        """Uninitialised, uint8 [rows, row_bytes]; what was taken before is written over."""
        if len(self._memory) < rows * row_bytes:
            self._memory = np.empty(rows * row_bytes, np.uint8)
        return self._memory[: rows * row_bytes].reshape(rows, row_bytes)


def total_failed(records: Iterable[dict[str, Any]]) -> dict[str, str]:
    """video_id -> reason over unit records; a video fails once, whichever parts were being made."""
    return {item["video_id"]: item["reason"] for record in records for item in record["failed"]}
