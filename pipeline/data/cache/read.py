"""Reading a cache: frames and distance maps of one benchmark, memory-mapped, in large Arrow IPC shards.

data/cache/<bench>/
  cache.json                  what was made with which parameters, every file with its size and XXH3-128
  index.parquet               one row for each video: where its frames and maps lie, its split and label
  frames-<key>-00000-0.arrow  one record batch for each video, one row for each frame (JPEG, or raw bytes)
  maps-<key>-00000-0.arrow    one row for each video: its distance maps, fp16

Opening checks the version, the size of every file, and the checksums of cache.json and index.parquet. JPEG frames
and maps are compared with their own checksums, which are bound to video and number, whenever they are read; raw frames
at a process's first read of each and at every RECHECK-th after it. Bytes that are found changed are never used.
`everest cache verify` compares all files' checksums.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.cache.maps import map_frames
from pipeline.errors import DamagedError, EverestError, InputError
from pipeline.params.declared import versions
from pipeline.system.sealed import is_whole, read_table, row_checksum

#: Written into cache.json and part of every shard's key: a cache of another version is refused and made anew.
VERSION = versions()["cache"]
INFO = "cache.json"
#: What cache.json must hold.
KEYS = {"benchmark", "videos", "frames", "maps", "index", "failed"}
INDEX = "index.parquet"
#: A raw frame is compared with its checksum when this process first reads it and at every so manieth read after that:
#: each time would cost a third of the reading. JPEGs and maps are compared each time.
RECHECK = 32
#: The number of a video's distance maps in their checksum; frames have theirs, from 0.
MAPS = -1

#: Videos whose place in the mapped files is remembered; more are looked up again.
REMEMBERED = 50_000

U8 = npt.NDArray[np.uint8]


class ClipError(EverestError):
    """One video's frames cannot be had. `video_id` and `reason` say which and why."""

    def __init__(self, video_id: str, reason: str) -> None:
        super().__init__(f"video {video_id}: {reason}")
        self.video_id = video_id
        self.reason = reason


class Cache:
    """An open cache.

    Rows are numbered 0..len-1 in the manifest's order; reading is safe from several threads.

    Attributes:
        ids: video ids by row.
        grid: stored frames are the multiples of this frame number.
        short_side: [pixels] larger frames were shrunk to it.
        map_step: frame step of the distance maps, 0 where the cache has none.
        info: cache.json.
    """

    def __init__(self, folder: Path, info: dict[str, Any], index: dict[str, list[Any]]) -> None:
        self.folder = folder
        self.info = info
        self.ids: list[str] = index["video_id"]
        self.grid = int(info["frames"]["params"]["keep_every"])
        self.short_side = int(info["frames"]["params"]["short_side"])
        self.store = str(info["frames"]["params"]["store"])
        self.map_step = int(info["maps"]["params"]["frame_step"])
        self._splits: list[str] = index["split"]
        self._sha256: list[str] = index["sha256"]
        names = ("label", "frames", "stored", "height", "width", "batch", "map_row", "places")
        self._column = {name: np.asarray(index[name], dtype=np.int64) for name in names}
        self._frame_files, self._frame_file = np.unique(np.asarray(index["frame_file"]), return_inverse=True)
        self._map_files, self._map_file = np.unique(np.asarray(index["map_file"]), return_inverse=True)
        self._begin = np.concatenate([[0], np.cumsum(self._column["stored"])])  # of a video's frames among all
        self._reads = bytearray(int(self._begin[-1]))  # of each frame, modulo 256
        self._open: dict[str, Any] = {}
        self._frames_of: dict[int, Rows] = {}
        self._maps_of: dict[int, Rows] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: Path | str) -> Cache:
        """Open a finished cache.

        Raises:
            InputError: it does not exist, another version wrote it, a shard is missing or cut, or the index changed.
        """
        folder = Path(folder)
        info = read_info(folder)
        for part in ("frames", "maps"):
            for shard in info[part]["shards"]:
                _check_size(folder / shard["file"], int(shard["bytes"]), folder)
        _check_size(folder / INDEX, int(info["index"]["bytes"]), folder)
        table = read_table(folder / INDEX, _cure(folder), expected=info["index"]["xxh3"])
        return cls(folder, info, table.to_pydict())

    def __len__(self) -> int:
        return len(self.ids)

    def num_frames(self, row: int) -> int:
        """Frames of the video (of which every `grid`-th is stored)."""
        return int(self._column["frames"][row])

    def size(self, row: int) -> tuple[int, int]:
        """(height, width) of the stored frames, in pixels."""
        return int(self._column["height"][row]), int(self._column["width"][row])

    def label(self, row: int) -> int:
        """Class number, -1 where there is none."""
        return int(self._column["label"][row])

    def split(self, row: int) -> str:
        return self._splits[row]

    def sha256(self, row: int) -> str:
        """SHA-256 of the video file that the frames were decoded from."""
        return self._sha256[row]

    def rows(self, split: str | None = None) -> list[int]:
        """Rows of one split, in order."""
        return [row for row, own in enumerate(self._splits) if split is None or own == split]

    def frames(self, row: int, frame_indices: Sequence[int] | npt.ArrayLike) -> U8:
        """Frames of one video by frame number, uint8 RGB [n, h, w, 3].

        Raises:
            ClipError: a frame number is not stored, or a stored frame does not decode.
            DamagedError: a stored frame is not what was written.
        """
        wanted = np.asarray(frame_indices, dtype=np.int64)
        found = np.empty((len(wanted), *self.size(row), 3), np.uint8)
        self.fill(row, wanted, found)
        return found

    def fill(self, row: int, frame_indices: Sequence[int] | npt.ArrayLike, target_THWC: U8) -> None:
        """As :meth:`frames`, into the top left of memory that is there.

        A JPEG is decoded, or a raw frame copied, to its place; nothing else is moved.
        """
        wanted = self._stored_rows(row, np.asarray(frame_indices, dtype=np.int64))
        stored_rows = self._frame_buffers(row)
        height, width = self.size(row)
        due, begin = self._due(row, wanted), int(self._begin[row])
        done: dict[int, U8] = {}
        for place, frame in zip(wanted, target_THWC, strict=True):
            corner = frame[:height, :width]
            if place in done:
                corner[...] = done[place]
                continue
            stored = stored_rows.row(place)
            if place in due:
                self._check(stored, stored_rows, row, place, place)
            self._reads[begin + place] = (self._reads[begin + place] + 1) & 255  # only after a check that passed
            if self.store == "raw":
                corner[...] = stored.reshape(height, width, 3)
            else:
                _decode_jpeg(stored, self.ids[row], place * self.grid, corner)
            done[place] = corner

    def bytes_of(self, row: int, frame_indices: Sequence[int] | npt.ArrayLike) -> int:
        """Stored bytes of these frames: what reading them takes from the disk."""
        offsets = self._frame_buffers(row).offsets
        wanted = sorted(set(self._stored_rows(row, np.asarray(frame_indices, dtype=np.int64))))
        return int(sum(offsets[place + 1] - offsets[place] for place in wanted))

    @property
    def has_maps(self) -> bool:
        return self.map_step > 0

    def maps(self, row: int) -> npt.NDArray[np.float16] | None:
        """Distance maps [J, L] fp16 of one video as a view of the mapped file, or None.

        Raises:
            DamagedError: they are not what was written.
        """
        if not self.has_maps:
            return None
        rows = self._map_buffers(row)
        place = int(self._column["map_row"][row])
        stored = rows.row(place)
        self._check(stored, rows, row, place, MAPS)
        return stored.view(np.float16).reshape(-1, int(self._column["places"][row]))

    def _due(self, row: int, places: Sequence[int]) -> Collection[int]:
        """Those of a video's stored frames whose present read is compared with the checksum."""
        if self.store != "raw":
            return places
        reads, begin = self._reads, int(self._begin[row])
        return [place for place in places if not reads[begin + place] % RECHECK]

    def _check(self, stored: U8, rows: Rows, row: int, place: int, number: int) -> None:
        """Compare one stored row with its checksum."""
        if place >= len(rows.checksums) or row_checksum(stored, self._sha256[row], number) != rows.checksums[place]:
            what = f"frame {number * self.grid}" if number >= 0 else "the distance maps"
            raise self._damage(row, number, f"{what} (row {place}) does not have its checksum")

    def _damage(self, row: int, number: int, what: str) -> DamagedError:
        files, file = (self._frame_files, self._frame_file) if number >= 0 else (self._map_files, self._map_file)
        shard = self.folder / str(files[file[row]])
        return _damaged(self.folder, f"{shard}: {what}, of video {self.ids[row]}")

    def map_starts(self, row: int) -> npt.NDArray[np.int64]:
        """Frame numbers at which the slots of :meth:`maps` start."""
        return map_frames(self.num_frames(row), self.map_step)

    def _stored_rows(self, row: int, indices: npt.NDArray[np.int64]) -> list[int]:
        wanted: list[int] = indices.tolist()
        grid, stored = self.grid, int(self._column["stored"][row])
        if wanted and (not 0 <= min(wanted) <= max(wanted) < stored * grid or any(i % grid for i in wanted)):
            raise ClipError(
                self.ids[row],
                f"frames {indices.tolist()} were asked for; the cache holds every {self.grid}. frame of "
                f"{self.num_frames(row)}. Cure: a frame step that is a multiple of preprocess.keep_every.",
            )
        return [index // grid for index in wanted]

    def _frame_buffers(self, row: int) -> Rows:
        """The stored rows of a video, as views of the mapped file."""
        found = self._frames_of.get(row)
        if found is None:
            with self._lock:
                name, batch = str(self._frame_files[self._frame_file[row]]), int(self._column["batch"][row])
                found = self._batch(name, batch, row, 0)
                if len(self._frames_of) >= REMEMBERED:
                    self._frames_of.clear()
                self._frames_of[row] = found
        return found

    def _map_buffers(self, row: int) -> Rows:
        file = int(self._map_file[row])
        found = self._maps_of.get(file)
        if found is None:
            with self._lock:
                found = self._batch(str(self._map_files[file]), 0, row, MAPS)
                self._maps_of[file] = found
        return found

    def _batch(self, name: str, number: int, row: int, part: int) -> Rows:
        from pyarrow import ArrowException

        try:
            return _rows(self._reader(name).get_batch(number))
        except (ArrowException, OSError, ValueError, IndexError, AttributeError) as error:
            # Bytes outside of the rows were changed: those that say where the rows lie.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise self._damage(row, part, f"its record batch {number} does not parse ({reason})") from None

    def _reader(self, name: str) -> Any:
        if name not in self._open:
            import pyarrow as pa

            self._open[name] = pa.ipc.open_file(pa.memory_map(str(self.folder / name)))
        return self._open[name]

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the files itself.
        return self.__dict__ | {"_open": {}, "_frames_of": {}, "_maps_of": {}, "_lock": None, "_reads": b""}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state | {"_lock": threading.Lock(), "_reads": bytearray(int(state["_begin"][-1]))}


def read_info(folder: Path) -> dict[str, Any]:
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
        raise DamagedError(
            f"{path} does not parse ({error}). Cure: `everest cache verify {folder.name} --repair`."
        ) from None
    if not isinstance(info, dict) or info.get("version") != VERSION:
        found = info.get("version") if isinstance(info, dict) else None
        raise InputError(
            f"{path}: written by cache version {found}, expected {VERSION}. "
            f"Cure: `everest cache verify {folder.name} --repair` writes it anew from the videos."
        )
    if not is_whole(info):
        raise _damaged(folder, f"{path}: its entries do not have the checksum that it records")
    if missing := sorted(KEYS - set(info)):
        raise InputError(f"{path} lacks {', '.join(missing)}. Cure: `everest cache verify {folder.name} --repair`.")
    return info


class Rows(NamedTuple):
    """One record batch: all rows' bytes, where each begins, and each one's checksum."""

    data: U8
    offsets: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint64]

    def row(self, place: int) -> U8:
        """The bytes of one row; too few where the offsets lead out of the data."""
        if place + 1 >= len(self.offsets) or self.offsets[place] < 0:
            return self.data[:0]
        return self.data[self.offsets[place] : self.offsets[place + 1]]


def _rows(batch: Any) -> Rows:
    column, checksums = batch.column(0), batch.column(1)
    _, offsets, data = column.buffers()
    return Rows(
        np.frombuffer(data, dtype=np.uint8),
        np.frombuffer(offsets, np.int64)[: len(column) + 1],
        np.frombuffer(checksums.buffers()[1], np.uint64)[: len(checksums)],
    )


def _check_size(path: Path, expected: int, folder: Path) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found != expected:
        what = "is missing" if found is None else f"has {found} bytes"
        raise _damaged(folder, f"{path} {what}, expected {expected} bytes")


def _damaged(folder: Path, what: str) -> DamagedError:
    return DamagedError(f"{what}: the cache is damaged. {_cure(folder)}")


def _cure(folder: Path) -> str:
    return f"Cure: `everest cache verify {folder.name} --repair`."


def _decode_jpeg(blob: U8, video_id: str, frame: int, target_HWC: U8) -> None:
    from simplejpeg import decode_jpeg

    # Rows of a clip that is smaller than its batch do not lie one after the other.
    into = target_HWC if target_HWC.flags.c_contiguous else np.empty(target_HWC.shape, np.uint8)
    try:
        picture = decode_jpeg(blob, "RGB", fastdct=False, fastupsample=False, buffer=into)
    except ValueError as error:
        raise ClipError(video_id, f"cached frame {frame} does not decode: {str(error).splitlines()[0]}") from None
    if picture.shape != target_HWC.shape:
        found, expected = list(picture.shape[:2]), list(target_HWC.shape[:2])
        raise ClipError(video_id, f"cached frame {frame} has size {found}, expected {expected}")
    if into is not target_HWC:
        target_HWC[...] = into
