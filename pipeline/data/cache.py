"""Reading a cache: frames and distance maps of one benchmark, memory-mapped, in large Arrow IPC shards.

data/cache/<bench>/
  cache.json                  what was made with which parameters, every file with its size and XXH3-128
  index.parquet               one row for each video: where its frames and maps lie, its split and label
  frames-<key>-00000-0.arrow  one record batch for each video, one row for each frame (JPEG, or raw bytes)
  maps-<key>-00000-0.arrow    one row for each video: its distance maps, fp16

Opening checks the version and the size of every file; `everest cache verify` compares their checksums too.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.files import checksum_of
from pipeline.data.informativeness import map_frames
from pipeline.errors import EverestError, InputError

#: Written into cache.json and part of every shard's key: a cache of another version is refused and made anew.
#: 2: checksums are XXH3; interlaced H.264 is read by decord (its pixels differed in caches of version 1).
#: 3: larger frames are resized by torch, which differs from Pillow by one grey level in some pixels.
VERSION = 4
INFO = "cache.json"
#: What cache.json must hold.
KEYS = {"benchmark", "videos", "frames", "maps", "index", "failed"}
INDEX = "index.parquet"

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
    """An open cache. Rows are numbered 0..len-1 in the manifest's order; reading is safe from several
    threads.

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
        self._open: dict[str, Any] = {}
        self._frames_of: dict[int, tuple[U8, npt.NDArray[np.int64]]] = {}
        self._maps_of: dict[int, tuple[U8, npt.NDArray[np.int64]]] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: Path | str) -> Cache:
        """Open a finished cache.

        Raises:
            InputError: it does not exist, another version wrote it, a shard is missing or cut, or the index changed.
        """
        import pyarrow.parquet as pq

        folder = Path(folder)
        info = read_info(folder)
        for part in ("frames", "maps"):
            for shard in info[part]["shards"]:
                _check_size(folder / shard["file"], int(shard["bytes"]), folder)
        _check_size(folder / INDEX, int(info["index"]["bytes"]), folder)
        if checksum_of(folder / INDEX) != info["index"]["xxh3"]:  # small, and read whole in any case
            raise _damaged(folder, f"{folder / INDEX}: its checksum differs from the recorded one")
        return cls(folder, info, pq.read_table(folder / INDEX).to_pydict())

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
        """
        wanted = np.asarray(frame_indices, dtype=np.int64)
        found = np.empty((len(wanted), *self.size(row), 3), np.uint8)
        self.fill(row, wanted, found)
        return found

    def fill(self, row: int, frame_indices: Sequence[int] | npt.ArrayLike, target_THWC: U8) -> None:
        """As :meth:`frames`, into the top left of memory that is there: a JPEG is decoded, a raw frame copied to its
        place, and nothing else is moved.
        """
        wanted = self._stored_rows(row, np.asarray(frame_indices, dtype=np.int64))
        data, offsets = self._frame_buffers(row)
        height, width = self.size(row)
        done: dict[int, U8] = {}
        for place, frame in zip(wanted, target_THWC, strict=True):
            corner = frame[:height, :width]
            if place in done:
                corner[...] = done[place]
                continue
            stored = data[offsets[place] : offsets[place + 1]]
            if self.store == "raw":
                corner[...] = stored.reshape(height, width, 3)
            else:
                _decode_jpeg(stored, self.ids[row], place * self.grid, corner)
            done[place] = corner

    def bytes_of(self, row: int, frame_indices: Sequence[int] | npt.ArrayLike) -> int:
        """Stored bytes of these frames: what reading them takes from the disk."""
        _, offsets = self._frame_buffers(row)
        wanted = sorted(set(self._stored_rows(row, np.asarray(frame_indices, dtype=np.int64))))
        return int(sum(offsets[place + 1] - offsets[place] for place in wanted))

    @property
    def has_maps(self) -> bool:
        return self.map_step > 0

    def maps(self, row: int) -> npt.NDArray[np.float16] | None:
        """Distance maps [J, L] fp16 of one video as a view of the mapped file, or None."""
        if not self.has_maps:
            return None
        data, offsets = self._map_buffers(int(self._map_file[row]))
        place = int(self._column["map_row"][row])
        values = data[offsets[place] : offsets[place + 1]].view(np.float16)
        return values.reshape(-1, int(self._column["places"][row]))

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

    def _frame_buffers(self, row: int) -> tuple[U8, npt.NDArray[np.int64]]:
        """All stored bytes of a video's shard and where its frames begin in them, as views of the mapped file."""
        found = self._frames_of.get(row)
        if found is None:
            with self._lock:
                reader = self._reader(str(self._frame_files[self._frame_file[row]]))
                found = _buffers(reader.get_batch(int(self._column["batch"][row])))
                if len(self._frames_of) >= REMEMBERED:
                    self._frames_of.clear()
                self._frames_of[row] = found
        return found

    def _map_buffers(self, file: int) -> tuple[U8, npt.NDArray[np.int64]]:
        found = self._maps_of.get(file)
        if found is None:
            with self._lock:
                found = _buffers(self._reader(str(self._map_files[file])).get_batch(0))
                self._maps_of[file] = found
        return found

    def _reader(self, name: str) -> Any:
        if name not in self._open:
            import pyarrow as pa

            self._open[name] = pa.ipc.open_file(pa.memory_map(str(self.folder / name)))
        return self._open[name]

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the files itself.
        return self.__dict__ | {"_open": {}, "_frames_of": {}, "_maps_of": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state | {"_lock": threading.Lock()}


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
        raise InputError(
            f"{path} does not parse ({error}). Cure: `everest cache verify {folder.name} --repair`."
        ) from None
    if not isinstance(info, dict) or info.get("version") != VERSION:
        found = info.get("version") if isinstance(info, dict) else None
        raise InputError(
            f"{path}: written by cache version {found}, expected {VERSION}. "
            f"Cure: `everest cache verify {folder.name} --repair` writes it anew from the videos."
        )
    if missing := sorted(KEYS - set(info)):
        raise InputError(f"{path} lacks {', '.join(missing)}. Cure: `everest cache verify {folder.name} --repair`.")
    return info


def _buffers(batch: Any) -> tuple[U8, npt.NDArray[np.int64]]:
    column = batch.column(0)
    _, offsets, data = column.buffers()
    return np.frombuffer(data, dtype=np.uint8), np.frombuffer(offsets, np.int64)[: len(column) + 1]


def _check_size(path: Path, expected: int, folder: Path) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found != expected:
        what = "is missing" if found is None else f"has {found} bytes"
        raise _damaged(folder, f"{path} {what}, expected {expected} bytes")


def _damaged(folder: Path, what: str) -> InputError:
    return InputError(f"{what}: the cache is damaged. Cure: `everest cache verify {folder.name} --repair`.")


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
