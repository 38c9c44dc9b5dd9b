"""The manifest: one row for each video of a benchmark, good or bad, as a Parquet file.

It names every file with its SHA-256, what ingest found in it, and why it is not used where it is not. Its bytes
are compared with its own checksum whenever it is read; only the columns and rows asked for are then loaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NotRequired, TypedDict, get_type_hints

from pipeline.errors import DamagedError, InputError
from pipeline.system.files import atomic_path, write_text
from pipeline.system.sealed import NoChecksum, is_whole, read_table, sealed_json, write_table
from pipeline.system.text import storable

if TYPE_CHECKING:
    import pyarrow as pa

#: The file beside the manifest that names the classes.
CLASSES = "classes.json"

String = Annotated[str, "string"]
Int32 = Annotated[int, "int32"]
Int64 = Annotated[int, "int64"]
Double = Annotated[float, "double"]


class Row(TypedDict):
    """One video: the columns, with their Arrow types.

    `path` is relative to the folder of raw videos; `split` is the one of `data.split`, `splits` are all of them,
    comma-separated; `label` is -1 where the publisher gives none; `labels` are all class numbers of a video, ascending,
    in a set whose videos have several (`label` is then the first); `jumps` are the frames that the file may be entered
    at, as ingest has proven ("": it is read from its start).
    """

    video_id: String
    path: String
    split: String
    splits: String
    label: Int32
    label_name: String
    source: String
    sha256: String
    bytes: Int64
    frames_declared: Int32
    frames_decoded: Int32
    fps: Double
    width: Int32
    height: Int32
    rotation: Int32
    reader: String
    jumps: String
    repeated_run: Int32
    status: String
    reason: String
    labels: NotRequired[list[int]]


#: The column of a set whose videos have several classes each: all class numbers of a video. No other set has it.
LABELS = "labels"
#: Columns that every manifest has, and their Arrow types.
SCHEMA: dict[str, str] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Row, include_extras=True).items() if name != LABELS
}

STATUS = ("ok", "quarantined")
SPLITS = ("train", "val", "test", "unused")


def arrow_schema(several: bool = False) -> pa.Schema:
    """SCHEMA as Arrow knows it; with the column LABELS where videos have several classes each."""
    import pyarrow as pa

    more = [(LABELS, pa.list_(pa.int32()))] if several else []
    return pa.schema([*((name, pa.type_for_alias(kind)) for name, kind in SCHEMA.items()), *more])


def from_rows(rows: Sequence[Row]) -> pa.Table:
    """A manifest from its rows; sorted, so that equal videos give an equal file."""
    import pyarrow as pa

    ordered = sorted(rows, key=lambda row: (row["path"], row["video_id"]))
    return pa.Table.from_pylist(storable(ordered), schema=arrow_schema(any(LABELS in row for row in rows)))


def save(table: pa.Table, path: Path) -> None:
    """Write a manifest atomically; equal tables give equal bytes.

    Raises:
        InputError: a column is missing, of another type, or unknown.
    """

    several = LABELS in table.column_names
    wrong = sorted((set(table.column_names) - {LABELS}) ^ set(SCHEMA))
    if wrong:
        raise InputError(
            f"{path}: the manifest's columns differ from the expected ones in: {', '.join(wrong)}. "
            f"Cure: write exactly {', '.join(SCHEMA)}."
        )
    with atomic_path(path) as temporary:
        schema = arrow_schema(several)
        write_table(table.select(schema.names).cast(schema), temporary)


def load(
    path: Path, columns: Sequence[str] | None = None, split: str | None = None, status: str | None = "ok"
) -> pa.Table:
    """Read a manifest.

    Args:
        path: manifest.parquet.
        columns: those to read; None reads all of SCHEMA.
        split: only rows of "train", "val", "test" or "unused"; None for all.
        status: "ok" (default), "quarantined", or None for both.

    Raises:
        InputError: no such file, not a manifest, an unknown column, or bytes that are not those that were written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    unknown = [name for name in columns or [] if name not in SCHEMA and name != LABELS]
    if unknown:
        raise InputError(f"{path}: no column {', '.join(unknown)}. Cure: use some of {', '.join(SCHEMA)}.")
    filters: list[tuple[str, str, object]] = [
        (key, "==", value) for key, value in (("split", split), ("status", status)) if value is not None
    ]
    wanted = list(columns or SCHEMA)
    cure = "Cure: run `everest download` for this benchmark again."
    try:
        try:
            return read_table(path, cure, columns=wanted, filters=filters or None)
        except NoChecksum:
            # Today's have a checksum and this column: what has neither, a former version wrote.
            if "jumps" in pq.read_schema(path).names:
                raise
        stored = [name for name in wanted if name != "jumps"]
        return _unproven(pq.read_table(path, columns=stored, filters=filters or None)).select(wanted)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Cure: run `everest download` for this benchmark first.") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a readable manifest: {error}. {cure}") from None


def has_several(path: Path) -> bool:
    """Whether the videos of a manifest have several classes each, so that it has the column LABELS.

    Raises:
        InputError: no such file, or not a manifest.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return LABELS in pq.read_schema(path).names
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. Cure: run `everest download` for this benchmark first.") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a readable manifest: {error}. Cure: run `everest download` again.") from None


def _unproven(table: pa.Table) -> pa.Table:
    """An older manifest, of whose files nothing was proven: all are read by PyAV, from their start."""
    import pyarrow as pa

    def constant(value: str) -> pa.Array:
        return pa.array([value] * table.num_rows, pa.string())

    if "reader" in table.column_names:
        table = table.set_column(table.column_names.index("reader"), "reader", constant("pyav"))
    return table.append_column("jumps", constant(""))


def save_classes(folder: Path, classes: Sequence[str], problems: Sequence[str]) -> None:
    """Write the list of classes beside the manifest, with its checksum."""
    record = storable({"classes": list(classes), "problems": list(problems)})
    write_text(folder / CLASSES, sealed_json(record, readable=True))


def read_classes(path: Path) -> list[str]:
    """Names by class number from a list that :func:`save_classes` wrote.

    Raises:
        InputError: there is none, or it is no list of names.
        DamagedError: it is not what was written.
    """
    cure = f"Cure: `everest download {path.parent.name}`, which writes it."
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        names = record["classes"]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. {cure}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no list of classes ({error!r}). {cure}") from None
    # A former version wrote these two entries and no checksum.
    if record.keys() != {"classes", "problems"} and not is_whole(record):
        raise DamagedError(f"{path} is not what was written: its entries do not have the checksum in it. {cure}")
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{path}: classes = {str(names)[:200]}, expected a list of names. {cure}")
    return names


def class_names(folder: Path, expected: int) -> list[str]:
    """Names by class number, as the download listed them beside the manifest: what a training notes in its model.

    Args:
        folder: of the manifest.
        expected: how many there must be.

    Raises:
        InputError: there is no list, another number of names, or a name twice.
        DamagedError: the list is not what was written.
    """
    path = folder / CLASSES
    names = read_classes(path)
    if len(names) != expected:
        raise InputError(
            f"{path} names {len(names)} classes, expected data.classes = {expected}. "
            f"Cure: set classes to {len(names)}, or `everest download {folder.name}` again."
        )
    if len(set(names)) != len(names):
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise InputError(
            f"{path} names the class {twice!r} more than once. Cure: rename one of them where it is listed."
        )
    return names


def counts(table: pa.Table) -> dict[str, dict[str, int]]:
    """Videos by split and status: {"train": {"ok": 9, "quarantined": 1}}; needs these two columns."""
    grouped = table.group_by(["split", "status"]).aggregate([([], "count_all")]).to_pylist()
    result: dict[str, dict[str, int]] = {}
    for row in sorted(grouped, key=lambda row: (str(row["split"]), str(row["status"]))):
        result.setdefault(row["split"], {})[row["status"]] = row["count_all"]
    return result
