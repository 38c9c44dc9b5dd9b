"""Writing cache shards: Arrow IPC files of bounded size, their checksums taken on the way, whole or absent."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from xxhash import xxh3_128

from pipeline.data.arrays import U8
from pipeline.data.cache.records import ShardRecord
from pipeline.errors import EverestError
from pipeline.system.files import begin_writeback, publish_file

if TYPE_CHECKING:
    import pyarrow as pa

#: Name of the column of checksums.
CHECKSUM = "xxh3"
#: Binary rows: pieces, or uint8 [rows, bytes of a row] in one block of memory.
Rows = Sequence[bytes] | U8


class ShardWriter:
    """Writes record batches of one binary column and its rows' checksums to `<stem>-0.arrow`, `<stem>-1.arrow`, ...

    A file ends before it would exceed `bound` bytes, unless one batch alone is larger. Files get their final
    names in :meth:`finish`, after their contents are on the disk; before that nothing exists under a final
    name.
    """

    def __init__(self, folder: Path, stem: str, column: str, bound: int) -> None:
        self._folder, self._stem, self._column, self._bound = folder, stem, column, bound
        self._done: list[ShardRecord] = []
        self._file: _HashingFile | None = None
        self._batches = 0

    def add(self, rows: Rows, checksums: Sequence[int]) -> tuple[str, int]:
        """Append one record batch of binary rows, each with its :func:`~pipeline.system.sealed.row_checksum`.

        Returns (file name, number of the batch in it).
        """
        import pyarrow as pa

        size = rows.nbytes if isinstance(rows, np.ndarray) else sum(len(row) for row in rows)
        if self._file is not None and self._batches and self._file.size + size > self._bound:
            self._close()
        file = self._begin() if self._file is None else self._file
        before = file.size
        columns = [_binary_array(rows), pa.array(checksums, pa.uint64())]
        batch = pa.record_batch(columns, names=[self._column, CHECKSUM])
        self._writer.write_batch(batch)
        begin_writeback(file.raw.fileno(), before, file.size - before)
        self._batches += 1
        return self._name, self._batches - 1

    def finish(self) -> list[ShardRecord]:
        """Complete the last file and give all files their names."""
        self._close()
        for entry in self._done:
            publish_file(self._folder / f".{entry['file']}.part", self._folder / entry["file"])
        return self._done

    def abandon(self) -> None:
        """Remove everything written so far."""
        if self._file is not None:
            self._file.raw.close()
            self._file = None
        for path in self._folder.glob(f".{self._stem}-*.part"):
            path.unlink(missing_ok=True)

    def _begin(self) -> _HashingFile:
        import pyarrow as pa

        self._name = f"{self._stem}-{len(self._done)}.arrow"
        self._file = _HashingFile((self._folder / f".{self._name}.part").open("wb", buffering=0))
        schema = pa.schema([(self._column, pa.large_binary()), (CHECKSUM, pa.uint64())])
        self._writer = pa.ipc.new_file(pa.PythonFile(self._file, mode="w"), schema)
        self._batches = 0
        return self._file

    def _close(self) -> None:
        if self._file is None:
            return
        self._writer.close()
        self._file.raw.close()
        self._done.append({"file": self._name, "bytes": self._file.size, "xxh3": self._file.digest.hexdigest()})
        self._file = None


class _HashingFile(io.RawIOBase):
    """A file to write to that knows the XXH3-128 of what was written."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.raw = raw
        self.size = 0
        self.digest = xxh3_128()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]  # what pyarrow hands over
        view = memoryview(data).cast("B")
        self.digest.update(view)
        done = 0
        while done < len(view):
            done += self.raw.write(view[done:])
        self.size += len(view)
        return len(view)

    def tell(self) -> int:
        return self.size


def _binary_array(rows: Rows) -> pa.LargeBinaryArray:
    """A large_binary array of the rows; a block of memory is not copied."""
    import pyarrow as pa

    if isinstance(rows, np.ndarray):
        offsets = np.arange(len(rows) + 1, dtype=np.int64) * rows.shape[1]
        data: bytes | U8 = rows
    else:
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        data = b"".join(rows)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(rows), buffers)


def jpeg(frame_HWC: U8, quality: int) -> bytes:
    """One frame as JPEG bytes (4:2:0)."""
    from simplejpeg import encode_jpeg

    data: bytes = encode_jpeg(np.ascontiguousarray(frame_HWC), quality, colorsubsampling="420", fastdct=False)
    return data


@contextmanager
def disk_full_error(folder: Path) -> Iterator[None]:
    """Turns "no space left" and "read-only" into an error that says what was kept and how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise EverestError(
                f"{folder}: the disk is full. Finished shards are kept. Cure: free some space and run the same command "
                "again; it continues with the next shard."
            ) from None
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise EverestError(f"{folder}: cannot be written ({error.strerror}). Cure: mend its rights.") from None
        raise
