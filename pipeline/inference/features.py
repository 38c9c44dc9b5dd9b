"""Files of features: a row for each clip, with the video, its place, and in the metadata what they were made with.

A `.parquet` file is written in parts, so that it may be larger than memory; an `.npz` file holds the same columns as
arrays. Unfinished work lies beside the file in `.NAME.parts/`, and goes when the file is whole.

Shapes: R rows, D width, S slots, N tokens.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import layout
from pipeline.errors import InputError
from pipeline.inference.pooling import Pool
from pipeline.system.files import atomic_path
from pipeline.system.text import storable

FORMATS = (".parquet", ".npz")
#: Key of the file's metadata.
ABOUT = b"everest"
#: Columns before those of the features.
COLUMNS = {
    "video": pa.string(),
    "label": pa.string(),
    "split": pa.string(),
    "clip": pa.int32(),
    "first_frame": pa.int64(),
    "last_frame": pa.int64(),
    "start_seconds": pa.float64(),
    "end_seconds": pa.float64(),
    "content": pa.string(),
}
FEATURES, KEPT = "features", "kept"


class ClipSource(TypedDict):
    """Where a benchmark's frames come from: `clip.source`, the frames between those it has, their short side."""

    kept_in: str
    grid: int
    short_side: int


class FeaturesOrigin(TypedDict):
    """What a file's features were made with, as its metadata say it; all but `model` decides them.

    Attributes:
        model: its folder.
        shape: of a clip's features: [D], [S, D] or [N, D].
        grid: [slots, rows, columns] of a clip's tokens.
        keep_ratio: share of tokens that the encoder saw.
        frames, frame_step: of a clip; `clips` of a video.
        resolution, short_side: [pixels].
        source: of a benchmark's frames.
        versions: of the code that decides them, by its part.
    """

    model: str
    model_sha256: str
    architecture: str
    stage: str
    pool: Pool
    shape: list[int]
    grid: list[int]
    strategy: str | None
    keep_ratio: float
    frames: int
    frame_step: int | str
    clips: int
    resolution: int
    short_side: int | None
    source: NotRequired[ClipSource]
    versions: dict[str, int]


@dataclass(frozen=True)
class ClipFeatures:
    """One clip's row.

    Attributes:
        video: its path, or its id in a benchmark.
        label, split: of a benchmark, else "".
        clip: its number in the video.
        first_frame, last_frame, start_seconds, end_seconds: its place.
        content: what tells that the video has not changed since: SHA-256, or size and modification time.
        features: float32, of the shape that the file's metadata says.
        kept: which tokens were computed, bool [N]; None where features are pooled.
    """

    video: str
    label: str
    split: str
    clip: int
    first_frame: int
    last_frame: int
    start_seconds: float
    end_seconds: float
    content: str
    features: np.ndarray
    kept: np.ndarray | None = None


@dataclass(frozen=True)
class Features:
    """A file of features: `about` its making, all columns as a table, and the features [R, D], [R, S, D], [R, N, D]."""

    about: FeaturesOrigin
    table: pa.Table
    values: np.ndarray

    def column(self, name: Literal["video", "label", "split", "content"]) -> list[str]:
        """The values of one of COLUMNS that holds text."""
        values: list[str] = self.table[name].to_pylist()
        return values


class FeatureFile:
    """A file that is being written, from what it held before and from parts; each part appears whole or not at all."""

    def __init__(self, path: Path, about: FeaturesOrigin) -> None:
        """Take up what was finished with the same `about` before.

        Raises:
            InputError: the file is there and holds something else.
        """
        self.path, self.about = path, about.copy()
        self._schema = schema(about)
        self._parts = path.with_name(f".{path.name}.parts") / layout.fingerprint(_made_with(about))
        if path.exists():
            _check_same(path, about)
            self._parts.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".npz":
                _write(self._parts / "0-before.parquet", read(path).table, self._schema)

    def finished(self) -> set[tuple[str, str]]:
        """(video, content) of the videos that need not be computed again."""
        videos: set[tuple[str, str]] = set()
        for source in self._sources():
            table = pq.read_table(source, columns=["video", "content"])
            videos.update(zip(table["video"].to_pylist(), table["content"].to_pylist(), strict=True))
        return videos

    def keep_others(self, videos: Sequence[str]) -> None:
        """Refuse to write over features of other videos alone.

        Raises:
            InputError: none of these videos is among those that are there.
        """
        before = {video for video, _ in self.finished()}
        if before and before.isdisjoint(videos):
            # What an interrupted call has kept lies beside the file that it has not written yet.
            place = self.path if self.path.exists() else self._parts.parent
            raise InputError(
                f"{place} holds features of other videos ({len(before)}, for example {min(before)}), which would "
                f"be lost. Cure: name another file with --out, or remove {place}."
            )

    def add(self, rows: Sequence[ClipFeatures]) -> None:
        """Keep whole videos' rows."""
        if rows:
            self._parts.mkdir(parents=True, exist_ok=True)
            number = len(list(self._parts.glob("*.parquet")))
            _write(self._parts / f"1-{number:06d}.parquet", to_table(rows, self._schema), self._schema)

    def finish(self, wanted: Mapping[tuple[str, str], tuple[str, str]]) -> int:
        """Write the file with the rows of these (video, content), and remove the parts; returns the number of rows.

        Args:
            wanted: label and split of each; those that rows were kept with may have been corrected since.
        """
        count = 0
        with atomic_path(self.path) as temporary:
            if self.path.suffix == ".npz":
                table = pa.concat_tables([self._schema.empty_table(), *self._wanted(wanted)])
                count = len(table)
                _write_npz(temporary, table, self.about)
            else:
                with pq.ParquetWriter(temporary, self._schema, compression="zstd") as writer:
                    for table in self._wanted(wanted):
                        writer.write_table(table)
                        count += len(table)
        shutil.rmtree(self._parts.parent)
        return count

    def _wanted(self, wanted: Mapping[tuple[str, str], tuple[str, str]]) -> Iterator[pa.Table]:
        seen: set[tuple[str, str]] = set()
        for source in self._sources():
            for group in range(pq.ParquetFile(source).num_row_groups):
                table = pq.ParquetFile(source).read_row_group(group)
                keys = list(zip(table["video"].to_pylist(), table["content"].to_pylist(), strict=True))
                mask = [key in wanted and key not in seen for key in keys]
                seen |= set(keys)
                kept = [wanted[key] for key, keep in zip(keys, mask, strict=True) if keep]
                table = table.filter(pa.array(mask, pa.bool_()))
                for place, name in enumerate(("label", "split")):
                    now = pa.array([storable(one[place]) for one in kept], COLUMNS[name])
                    table = table.set_column(table.column_names.index(name), name, now)
                yield table.cast(self._schema)

    def _sources(self) -> list[Path]:
        before = [self.path] if self.path.suffix == ".parquet" and self.path.exists() else []
        return before + sorted(self._parts.glob("[!.]*.parquet"))


def read(path: Path) -> Features:
    """A file of features.

    Raises:
        InputError: there is none, or it is not one.
    """
    about = _about(path)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            columns = {name: pa.array(arrays[name], kind) for name, kind in COLUMNS.items()}
            values = arrays[FEATURES]
            columns[FEATURES] = _fixed(values, pa.float32())
            if KEPT in arrays:
                columns[KEPT] = _fixed(arrays[KEPT], pa.bool_())
        table = pa.table(columns)
    else:
        table = pq.read_table(path)
        values = _values(table, about["shape"])
    return Features(about, table, values)


def to_table(rows: Sequence[ClipFeatures], kind: pa.Schema) -> pa.Table:
    """Rows as a table of this schema."""
    columns = {name: pa.array([storable(getattr(row, name)) for row in rows], COLUMNS[name]) for name in COLUMNS}
    columns[FEATURES] = _fixed(np.stack([row.features for row in rows]), pa.float32())
    if KEPT in kind.names:
        columns[KEPT] = _fixed(np.stack([row.kept for row in rows if row.kept is not None]), pa.bool_())
    return pa.table(columns).cast(kind)


def schema(about: FeaturesOrigin) -> pa.Schema:
    """The columns of a file, with its metadata."""
    shape = about["shape"]
    fields = [pa.field(name, kind) for name, kind in COLUMNS.items()]
    fields.append(pa.field(FEATURES, pa.list_(pa.float32(), int(np.prod(shape)))))
    if about["pool"] == "tokens":
        fields.append(pa.field(KEPT, pa.list_(pa.bool_(), shape[0])))
    return pa.schema(fields, metadata={ABOUT: json.dumps(about).encode()})


def _made_with(about: FeaturesOrigin) -> dict[str, object]:
    """What decides the features: not where the model lay."""
    return {name: value for name, value in about.items() if name != "model"}


def _about(path: Path) -> FeaturesOrigin:
    cure = "Cure: name a file that `everest embed` wrote, or another one to write."
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                text = str(arrays["about"])
        else:
            text = (pq.read_schema(path).metadata or {})[ABOUT].decode()
        about: FeaturesOrigin = json.loads(text)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist. {cure}") from None
    except (KeyError, ValueError, OSError, pa.ArrowException) as error:
        raise InputError(f"{path} holds no features of this project ({type(error).__name__}). {cure}") from None
    return about


def _check_same(path: Path, about: FeaturesOrigin) -> None:
    before, now = _made_with(_about(path)), _made_with(json.loads(json.dumps(about)))
    differs = [f"{name} {before.get(name)}, now {now.get(name)}" for name in now if before.get(name) != now[name]]
    if differs:
        raise InputError(
            f"{path} holds features that were made otherwise: {'; '.join(differs)}. Cure: name another file with "
            "--out, "
            "or remove this one."
        )


def _fixed(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    flat = values.reshape(len(values), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel(), kind), flat.shape[1])


def _values(table: pa.Table, shape: Sequence[int]) -> np.ndarray:
    flat = table[FEATURES].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    values: np.ndarray = flat.reshape(len(table), *shape)
    return values


def _write(path: Path, table: pa.Table, kind: pa.Schema) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table.cast(kind), temporary, compression="zstd")


def _write_npz(path: Path, table: pa.Table, about: FeaturesOrigin) -> None:
    arrays = {name: np.array(table[name].to_pylist()) for name in COLUMNS}
    arrays = {name: values if len(values) else values.astype("U1") for name, values in arrays.items()}
    arrays[FEATURES] = _values(table, about["shape"])
    if KEPT in table.column_names:
        kept = table[KEPT].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        arrays[KEPT] = kept.reshape(len(table), about["shape"][0])
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
