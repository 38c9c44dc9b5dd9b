"""The values that a stage's outputs were computed with: in its own record beside them, and in DVC's dvc.lock."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypedDict

from ruamel.yaml.error import YAMLError

from pipeline.errors import DamagedError
from pipeline.layout import record_file
from pipeline.params import declared
from pipeline.params.keys import flatten
from pipeline.system.files import write_text

#: [s] that a dvc.lock must stay as it is to be believed where it differs from what was computed.
REST_SECONDS = 1.0


class LockEntry(TypedDict, total=False):
    """A stage in dvc.lock, as far as it is read here: file -> key -> value."""

    params: dict[str, dict[str, object]]


def differences(then: Mapping[str, object], now: Mapping[str, object]) -> Iterator[tuple[str, object, object]]:
    """(key, value then, value now) of every key that differs; an absent key counts as null."""
    for key in sorted({*then, *now}):
        if then.get(key) != now.get(key):
            yield key, then.get(key), now.get(key)


def write_record(name: str, key: str | None, values: Mapping[str, object]) -> Path:
    """Leave the values that a stage computed with beside its outputs."""
    path = record_file(name, key)
    # A new file takes its place: the old one may be DVC's, linked from its cache and not to be written to.
    write_text(path, json.dumps(values, indent=1, sort_keys=True) + "\n")
    return path


def read_record(name: str, key: str | None, folder: Path = Path()) -> dict[str, object] | None:
    """The values that a stage's present outputs in `folder` were computed with; None where nothing says so.

    Raises:
        DamagedError: the record cannot be read.
    """
    path = folder / record_file(name, key)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        cure = f"dvc repro --force --single-item {declared.address(name, key)}"
        raise DamagedError(f"{path} is damaged: it is not the JSON that {name} wrote. Cure: `{cure}` makes it anew.")
    return content


def finished(name: str, key: str | None, folder: Path) -> bool:
    """Whether a stage ran to its end in `folder`, with the versions of the running code, and its outputs are there.

    DVC asks this for the chain; for the trainings of a comparison or a repetition it is asked here.
    """
    record, stage = read_record(name, key, folder), declared.declared(name, key)
    return (
        record is not None
        and all(record.get(f"versions.{part}") == declared.versions()[part] for part in stage.versions)
        and all((folder / out).exists() for out in stage.outs)
    )


def noted(lock: Path, stage: str) -> dict[str, object] | None:
    """The values with which a dvc.lock has a stage; None where it has no such stage, or is half written."""
    return _noted(lock.read_text(encoding="utf-8"), stage) if lock.is_file() else None


@functools.lru_cache(maxsize=64)
def _noted(text: str, stage: str) -> dict[str, object] | None:
    flat: dict[str, object] = {}
    try:
        files = _entries(text)[stage].get("params") or {}
        for file, content in files.items():
            values = flatten(content)
            versions = Path(file).name == declared.VERSIONS
            flat |= {f"versions.{part}": value for part, value in values.items()} if versions else values
    except (YAMLError, LookupError, TypeError, AttributeError):
        return None
    return flat


@functools.lru_cache(maxsize=2)
def _entries(text: str) -> dict[str, LockEntry]:
    entries: dict[str, LockEntry] = declared.parse(text)["stages"]  # type: ignore[assignment]
    return entries


def misrecorded(address: str, folder: Path = Path()) -> str | None:
    """How what dvc.lock notes for a stage differs from what its outputs were computed with; None if it does not.

    DVC reads params.yaml once more after a stage has ended: an edit in that moment is noted in place of the values that
    were computed with. Nor does it see other weights in a folder that params.yaml names.
    """
    file, _, stage = address.rpartition(":")
    name, _, key = stage.partition("@")
    lock, computed = folder / Path(file or "dvc.yaml").with_suffix(".lock"), read_record(name, key or None, folder)
    if computed is None:
        return None
    before = None
    while True:
        text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
        values = _noted(text, stage)
        now = {} if values is None else values | declared.weights(values, folder)
        lines = [f"{key} = {then!r}, noted as {new!r}" for key, then, new in differences(computed, now)]
        if values is not None and not lines:
            return None
        if text == before:
            return f"{stage} was computed with {'; '.join(lines)}" if values is not None else None
        # DVC writes the file in place, and another stage may be noted at this moment: only what rests is believed.
        before = text
        time.sleep(REST_SECONDS)
