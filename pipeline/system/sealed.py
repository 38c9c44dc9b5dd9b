"""Files that know their own checksum: Parquet tables and JSON records whose damage is told where they are read.

A table carries the XXH3-128 of all its bytes in its footer, taken while the place of the checksum itself held zeros: so
one file is enough, and any Parquet reader opens it. What was compared is what is parsed: the bytes are read once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from xxhash import xxh3_64_intdigest, xxh3_128_hexdigest

from pipeline.errors import DamagedError, InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

#: Entry of a table's footer, and of a JSON record, that holds the checksum.
KEY, BLANK = "everest.xxh3", "0" * 32
#: The entry in a footer: its name, the bytes in which Thrift announces a text of 32 characters, the text.
_ENTRY = re.compile(re.escape(KEY.encode()) + rb"\x18\x20([0-9a-f]{32})")


class NoChecksum(InputError):
    """A file that records no checksum of itself."""


def row_checksum(data: npt.NDArray[np.uint8] | bytes, content: str, number: int) -> int:
    """XXH3-64 of one stored row, bound to its video (`content`, its SHA-256) and its number there.

    A row that lies at another place, or another video's, has another checksum although its bytes are whole.
    """
    seed = (xxh3_64_intdigest(content.encode()) + number) & (2**64 - 1)
    return xxh3_64_intdigest(data, seed)  # type: ignore[arg-type]  # an array is a buffer, which its type does not say


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table with its checksum in its footer. The caller makes it appear whole (`atomic_path`)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    # The schema is not stored a second time: it would hold the checksum's name twice.
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({KEY: BLANK})
    content = bytearray(sink.getvalue())
    place = _place(content)
    if place is None:
        raise AssertionError(f"Parquet no longer writes {KEY} as this module expects")
    content[place : place + len(BLANK)] = xxh3_128_hexdigest(content).encode()
    path.write_bytes(content)


def read_table(
    path: Path,
    cure: str,
    columns: list[str] | None = None,
    filters: list[tuple[str, str, object]] | None = None,
    expected: str | None = None,
) -> pa.Table:
    """Read a table that :func:`write_table` wrote, after its bytes were compared with its checksum.

    Args:
        cure: how to make the file again, for messages.
        columns, filters: as for pyarrow.parquet.read_table.
        expected: XXH3-128 of the whole file, where another file records it.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: its bytes are not those that were written.
        NoChecksum: it is no such table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer, content = _read(path)
    if expected is not None and xxh3_128_hexdigest(content) != expected:
        raise DamagedError(f"{path}: its checksum differs from the recorded one. {cure}")
    place = _place(content)
    if place is None:
        raise NoChecksum(
            f"{path} is no table with a checksum: another program or a former version wrote it, or it is damaged. "
            f"{cure}"
        )
    recorded = bytes(content[place : place + len(BLANK)]).decode()
    content[place : place + len(BLANK)] = BLANK.encode()
    if xxh3_128_hexdigest(content) != recorded:
        raise DamagedError(f"{path} is damaged: its bytes do not have the checksum that it records. {cure}")
    return pq.read_table(pa.BufferReader(buffer), columns=columns, filters=filters)


def _read(path: Path) -> tuple[pa.Buffer, memoryview]:
    """A file's bytes in memory of Arrow's own, and a view of them to write through.

    Memory of Python's would be given back by whichever of Arrow's threads lets go of it last; where that comes while
    the interpreter ends, the thread cannot take its lock, and the process aborts (SIGABRT) after all its work.
    """
    import pyarrow as pa

    with path.open("rb") as file:
        buffer = pa.allocate_buffer(os.fstat(file.fileno()).st_size)
        content = memoryview(buffer).cast("B")
        length = file.readinto(content)
    return buffer.slice(0, length), content[:length]


def _place(content: memoryview | bytearray) -> int | None:
    """Where the checksum lies in a table's bytes."""
    length = int.from_bytes(content[-8:-4], "little")
    start = len(content) - 8 - length
    if length <= 0 or start < 0:
        return None
    places = [match.start(1) for match in _ENTRY.finditer(content, start)]
    return places[0] if len(places) == 1 else None


def sealed_json(values: Mapping[str, object], readable: bool = False) -> str:
    """A JSON record with the checksum of its entries.

    Args:
        readable: text outside ASCII stays as it is; all of it must be UTF-8.
    """
    rest = {name: value for name, value in values.items() if name != KEY}
    return json.dumps({**rest, KEY: _checksum(rest)}, indent=1, ensure_ascii=not readable) + "\n"


def is_whole(values: Mapping[str, object]) -> bool:
    """Whether a parsed record's entries are those that :func:`sealed_json` wrote."""
    return values.get(KEY) == _checksum({name: value for name, value in values.items() if name != KEY})


def _checksum(values: Mapping[str, object]) -> str:
    return xxh3_128_hexdigest(json.dumps(values, sort_keys=True).encode())
