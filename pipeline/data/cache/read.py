"""Reading a cache: frames and distance maps of one benchmark, memory-mapped, in large Arrow IPC shards.

Opening checks the version, the size of every file, and the checksums of cache.json and index.parquet. JPEG frames
and maps are compared with their own checksums, which are bound to video and number, whenever they are read; raw frames
at a process's first read of each and at every RECHECK-th after it. Bytes that are found changed are never used.
`everest cache verify` compares all files' checksums. `pipeline.data.cache.records` says which files there are.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.arrays import U8, Halves, Ints
from pipeline.data.cache.records import INDEX, LABELS, MAPS, RATES, CacheInfo, damaged, files_of, read_info, repair
from pipeline.data.frame_source import ClipError, FrameSource
from pipeline.errors import DamagedError
from pipeline.system.sealed import read_table, row_checksum

if TYPE_CHECKING:
    import pyarrow as pa

#: A raw frame is compared with its checksum when this process first reads it and at every so manieth read after that:
#: each time would cost a third of the reading. JPEGs and maps are compared each time.
RECHECK = 32
#: Videos whose place in the mapped files is remembered; more are looked up again.
REMEMBERED = 50_000


@dataclass(frozen=True)
class IndexColumns:
    """The numbers of index.parquet, by row; as of `pipeline.data.cache.records.IndexRow`."""

    label: Ints
    frames: Ints
    stored: Ints
    height: Ints
    width: Ints
    batch: Ints
    map_row: Ints
    places: Ints

    @classmethod
    def of(cls, table: pa.Table) -> IndexColumns:
        return cls(**{field.name: table[field.name].to_numpy().astype(np.int64) for field in fields(cls)})


class Cache(FrameSource):
    """An open cache.

    Attributes:
        info: cache.json.
    """

    cure = "`everest cache verify`."

    def __init__(self, folder: Path, info: CacheInfo, table: pa.Table) -> None:
        self.folder, self.info = folder, info
        self.columns = IndexColumns.of(table)
        self.ids, self.splits = table["video_id"].to_pylist(), table["split"].to_pylist()
        self.labels, self.lengths = self.columns.label, self.columns.frames
        if LABELS in table.column_names:
            self.label_sets = [tuple(labels) for labels in table[LABELS].to_pylist()]
        if RATES in table.column_names:
            self.rates = table[RATES].to_pylist()
        stored_as = info["frames"]["params"]
        self.grid, self.short_side, self.store = stored_as["keep_every"], stored_as["short_side"], stored_as["store"]
        self.map_step = info["maps"]["params"]["frame_step"]
        self._sha256: list[str] = table["sha256"].to_pylist()
        self._frame_file = [sys.intern(name) for name in table["frame_file"].to_pylist()]
        self._map_file = [sys.intern(name) for name in table["map_file"].to_pylist()]
        self._begin = np.concatenate([[0], np.cumsum(self.columns.stored)])  # of a video's frames among all
        self._reads = bytearray(int(self._begin[-1]))  # of each frame, modulo 256
        self._forget()

    @classmethod
    def open(cls, folder: Path | str) -> Cache:
        """Open a finished cache.

        Raises:
            InputError: it does not exist, another version wrote it, a shard is missing or cut, or the index changed.
        """
        folder = Path(folder)
        info = read_info(folder)
        for record in files_of(info):
            path, expected = folder / record["file"], record["bytes"]
            size = path.stat().st_size if path.is_file() else None
            if size != expected:
                what = "is missing" if size is None else f"has {size} bytes"
                raise damaged(folder, f"{path} {what}, expected {expected} bytes")
        return cls(folder, info, read_table(folder / INDEX, f"{repair(folder)}.", expected=info["index"]["xxh3"]))

    def size(self, row: int) -> tuple[int, int]:
        return int(self.columns.height[row]), int(self.columns.width[row])

    def sha256(self, row: int) -> str:
        """SHA-256 of the video file that the frames were decoded from."""
        return self._sha256[row]

    def fill(self, row: int, frame_indices: npt.ArrayLike, target_THWC: U8) -> None:
        # A JPEG is decoded, or a raw frame copied, to its place; nothing else is moved.
        wanted = self._places(row, frame_indices)
        stored = self._frame_rows(row)
        height, width = self.size(row)
        due, begin = self._due(row, wanted), int(self._begin[row])
        if not due and target_THWC.flags.c_contiguous and target_THWC.shape[1:3] == (height, width):
            # One call for the clip: each that returns takes the interpreter from the thread that launches kernels.
            frames = stored.alike((height, width, 3))
            if frames is not None:
                for place in set(wanted):
                    self._count_read(begin + place)
                np.take(frames, wanted, axis=0, out=target_THWC, mode="clip")
                return
        done: dict[int, U8] = {}
        for place, frame in zip(wanted, target_THWC, strict=True):
            corner = frame[:height, :width]
            if place in done:
                corner[...] = done[place]
                continue
            content = stored.row(place)
            if place in due:
                self._check(content, stored, row, place, place)
            self._count_read(begin + place)  # only after a check that passed
            if self.store == "raw":
                corner[...] = content.reshape(height, width, 3)
            else:
                _decode_jpeg(content, self.ids[row], place * self.grid, corner)
            done[place] = corner

    def bytes_of(self, row: int, frame_indices: npt.ArrayLike) -> int:
        """Stored bytes of these frames: what reading them takes from the disk."""
        offsets = self._frame_rows(row).offsets
        return int(sum(offsets[place + 1] - offsets[place] for place in set(self._places(row, frame_indices))))

    def maps(self, row: int) -> Halves | None:
        # A view of the mapped file.
        if not self.map_step:
            return None
        rows = self._map_rows(row)
        place = int(self.columns.map_row[row])
        content = rows.row(place)
        self._check(content, rows, row, place, MAPS)
        return content.view(np.float16).reshape(-1, int(self.columns.places[row]))

    def _places(self, row: int, frame_indices: npt.ArrayLike) -> list[int]:
        """Where frames of these numbers stand among the stored ones."""
        wanted: list[int] = np.asarray(frame_indices, dtype=np.int64).tolist()
        grid, stored = self.grid, int(self.columns.stored[row])
        if wanted and (not 0 <= min(wanted) <= max(wanted) < stored * grid or any(i % grid for i in wanted)):
            raise ClipError(
                self.ids[row],
                f"frames {wanted} were asked for; the cache holds every {grid}. frame of "
                f"{self.num_frames(row)}. Cure: a frame step that is a multiple of preprocess.keep_every.",
            )
        return [index // grid for index in wanted]

    def _due(self, row: int, places: Sequence[int]) -> Collection[int]:
        """Those of a video's stored frames whose present read is compared with the checksum."""
        if self.store != "raw":
            return places
        reads, begin = self._reads, int(self._begin[row])
        return [place for place in places if not reads[begin + place] % RECHECK]

    def _count_read(self, frame: int) -> None:
        """Count a read of a frame, by its number among all."""
        self._reads[frame] = (self._reads[frame] + 1) & 255

    def _check(self, content: U8, rows: Rows, row: int, place: int, number: int) -> None:
        """Compare one stored row with its checksum."""
        if place >= len(rows.checksums) or row_checksum(content, self._sha256[row], number) != rows.checksums[place]:
            what = f"frame {number * self.grid}" if number >= 0 else "the distance maps"
            raise self._damage(row, number, f"{what} (row {place}) does not have its checksum")

    def _damage(self, row: int, number: int, what: str) -> DamagedError:
        return damaged(self.folder, f"{self.shard(row, number)}: {what}, of video {self.ids[row]}")

    def shard(self, row: int, number: int = 0) -> Path:
        """The file that holds a video's frames, or with the number MAPS its distance maps."""
        return self.folder / (self._map_file if number == MAPS else self._frame_file)[row]

    def _frame_rows(self, row: int) -> Rows:
        """The stored rows of a video, as views of the mapped file."""
        rows = self._frames_of.get(row)
        if rows is None:
            with self._lock:
                rows = self._batch(int(self.columns.batch[row]), row, 0)
                if len(self._frames_of) >= REMEMBERED:
                    self._frames_of.clear()
                self._frames_of[row] = rows
        return rows

    def _map_rows(self, row: int) -> Rows:
        """The maps of all videos in the file that holds this one's."""
        name = self.shard(row, MAPS).name
        rows = self._maps_of.get(name)
        if rows is None:
            with self._lock:
                rows = self._maps_of[name] = self._batch(0, row, MAPS)
        return rows

    def _batch(self, batch: int, row: int, number: int) -> Rows:
        import pyarrow as pa

        path = self.shard(row, number)
        try:
            if path.name not in self._open:
                self._open[path.name] = pa.ipc.open_file(pa.memory_map(str(path)))
            return Rows.of(self._open[path.name].get_batch(batch))
        except (pa.ArrowException, OSError, ValueError, IndexError, AttributeError) as error:
            # Bytes outside of the rows were changed: those that say where the rows lie.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise self._damage(row, number, f"its record batch {batch} does not parse ({reason})") from None

    def _forget(self) -> None:
        """Begin with no file mapped."""
        self._open: dict[str, pa.ipc.RecordBatchFileReader] = {}
        self._frames_of: dict[int, Rows] = {}
        self._maps_of: dict[str, Rows] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        # Another process maps the files itself.
        mapped = ("_open", "_frames_of", "_maps_of", "_lock", "_reads")
        return {name: value for name, value in self.__dict__.items() if name not in mapped}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__ = state
        self._reads = bytearray(int(self._begin[-1]))
        self._forget()


class Rows(NamedTuple):
    """One record batch: all rows' bytes, where each begins, and each one's checksum."""

    data: U8
    offsets: Ints
    checksums: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Rows:
        column, checksums = batch.column(0), batch.column(1)
        _, offsets, data = column.buffers()
        return cls(
            np.frombuffer(data, dtype=np.uint8),
            np.frombuffer(offsets, np.int64)[: len(column) + 1],
            np.frombuffer(checksums.buffers()[1], np.uint64)[: len(checksums)],
        )

    def alike(self, shape: tuple[int, ...]) -> U8 | None:
        """All rows, of this shape each [rows, *shape], whatever the offsets say; None where there are other bytes."""
        count = len(self.offsets) - 1
        return self.data.reshape(count, *shape) if len(self.data) == count * math.prod(shape) else None

    def row(self, place: int) -> U8:
        """The bytes of one row; too few where the offsets lead out of the data."""
        if place + 1 >= len(self.offsets) or self.offsets[place] < 0:
            return self.data[:0]
        return self.data[self.offsets[place] : self.offsets[place + 1]]


def _decode_jpeg(blob: U8, video_id: str, frame: int, target_HWC: U8) -> None:
    from simplejpeg import decode_jpeg

    # Rows of a clip that is smaller than its batch do not lie one after the other.
    into = target_HWC if target_HWC.flags.c_contiguous else np.empty(target_HWC.shape, np.uint8)
    try:
        picture = decode_jpeg(blob, "RGB", fastdct=False, fastupsample=False, buffer=into)
    except ValueError as error:
        raise ClipError(video_id, f"cached frame {frame} does not decode: {str(error).splitlines()[0]}") from None
    if picture.shape != target_HWC.shape:
        size, expected = list(picture.shape[:2]), list(target_HWC.shape[:2])
        raise ClipError(video_id, f"cached frame {frame} has size {size}, expected {expected}")
    if into is not target_HWC:
        target_HWC[...] = into
