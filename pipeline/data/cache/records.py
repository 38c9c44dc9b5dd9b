"""What lies in a cache and in the store that it is made from: the records in its JSON files and in its index.

data/cache/<bench>/
  cache.json                  what was made with which parameters, every file with its size and XXH3-128 (`CacheInfo`)
  index.parquet               where each video's frames and maps lie, its split and label (`IndexRow`)
  frames-<key>-0.arrow        one record batch for each video, one row for each frame (JPEG, or raw bytes)
  maps-<key>-0.arrow          one row for each video: its distance maps, fp16

.work/preprocess/<bench>/shards/
  frames-<key>.json, maps-<key>.json    the two parts of a shard unit that are finished (`UnitRecord`), and their shards
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, NotRequired, TypedDict, TypeVar, cast, get_type_hints

from pipeline.errors import DamagedError, InputError
from pipeline.params.declared import versions
from pipeline.system.sealed import is_whole

if TYPE_CHECKING:
    import pyarrow as pa

#: Written into cache.json and part of every shard's key: a cache of another version is refused and made anew.
VERSION = versions()["cache"]
INFO = "cache.json"
INDEX = "index.parquet"
#: The number of a video's distance maps in their checksum; frames have theirs, from 0.
MAPS = -1

Part = Literal["frames", "maps"]


class FileRecord(TypedDict):
    """Size and XXH3-128 of a file, as they were when it was written."""

    bytes: int
    xxh3: str


class ShardRecord(FileRecord):
    file: str


class FrameRow(TypedDict):
    """Where one video's frames lie."""

    video_id: str
    file: str
    batch: int
    stored: int
    height: int
    width: int


class MapRow(TypedDict):
    """Where one video's distance maps lie, and their shape: starts x places."""

    video_id: str
    places: int
    starts: int
    file: str
    row: int


class FailedVideo(TypedDict):
    video_id: str
    reason: str


Row = TypeVar("Row", FrameRow, MapRow)


class UnitRecord(TypedDict, Generic[Row]):
    """What one part of a shard unit hands over when it is finished."""

    shards: list[ShardRecord]
    rows: list[Row]
    failed: list[FailedVideo]


class FrameKey(TypedDict):
    """What the bytes of frame shards depend on, beside the videos."""

    store: str
    short_side: int
    keep_every: int
    jpeg_quality: NotRequired[int]


class MapKey(TypedDict):
    """What the bytes of map shards depend on, beside the videos."""

    source: str
    frame_step: int | str
    resolution: int
    short_side: int
    weights_sha256: NotRequired[str | None]


Key = TypeVar("Key", FrameKey, MapKey)


class PartInfo(TypedDict, Generic[Key]):
    """All shards of one part of a cache, and what their bytes depend on."""

    params: Key
    bytes: int
    shards: list[ShardRecord]


class CacheInfo(TypedDict):
    """cache.json; `failed` are videos that did not decode, with the reason."""

    version: int
    benchmark: str
    videos: int
    frames: PartInfo[FrameKey]
    maps: PartInfo[MapKey]
    index: FileRecord
    failed: dict[str, str]


class IndexRow(TypedDict):
    """One video in index.parquet."""

    video_id: str
    split: str
    splits: str
    sha256: str
    frame_file: str
    map_file: str
    label: int
    frames: int
    stored: int
    height: int
    width: int
    batch: int
    map_row: int
    places: int
    labels: NotRequired[list[int]]
    fps: NotRequired[float]


#: Columns of index.parquet that not every cache has: all classes, where videos have several each; frames per second,
#: where clips are cut by time.
LABELS, RATES = "labels", "fps"


def files_of(info: CacheInfo) -> list[ShardRecord]:
    """All files that cache.json records: the shards and the index."""
    return [*info["frames"]["shards"], *info["maps"]["shards"], {"file": INDEX, **info["index"]}]


def index_schema(rows: Sequence[IndexRow] = ()) -> pa.Schema:
    """The columns of index.parquet, with those of LABELS and RATES that one of the rows has."""
    import pyarrow as pa

    arrow = {str: pa.string(), int: pa.int32()}
    more = {LABELS: pa.list_(pa.int32()), RATES: pa.float64()}
    columns = [(name, arrow[kind]) for name, kind in get_type_hints(IndexRow).items() if name not in more]
    return pa.schema([*columns, *((name, kind) for name, kind in more.items() if any(name in row for row in rows))])


def read_info(folder: Path) -> CacheInfo:
    """cache.json of a finished cache.

    Raises:
        InputError: there is none, it does not parse, another version wrote it, or it lacks a key.
    """
    path = folder / INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no cache ({INFO} is missing). Cure: `everest preprocess {folder.name}`."
        ) from None
    except ValueError as error:
        raise DamagedError(f"{path} does not parse ({error}). {repair(folder)}.") from None
    version = info.get("version") if isinstance(info, dict) else None
    if version != VERSION:
        raise InputError(
            f"{path}: written by cache version {version}, expected {VERSION}. "
            f"{repair(folder)} writes it anew from the videos."
        )
    if not is_whole(info):
        raise damaged(folder, f"{path}: its entries do not have the checksum that it records")
    if missing := sorted(CacheInfo.__required_keys__ - info.keys()):
        raise InputError(f"{path} lacks {', '.join(missing)}. {repair(folder)}.")
    return cast("CacheInfo", info)


def damaged(folder: Path, what: str) -> DamagedError:
    """The error for a cache that is not what was written."""
    return DamagedError(f"{what}: the cache is damaged. {repair(folder)}.")


def repair(folder: Path) -> str:
    """What to do about a damaged cache: the beginning of a sentence."""
    return f"Cure: `everest cache verify {folder.name} --repair`"
