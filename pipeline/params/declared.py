"""What each stage's result depends on, as dvc.yaml declares it: DVC, work folders and checks read the same list.

A declared key is a dotted key of params.yaml, or a part of versions.yaml (here `versions.<part>`). Files are parsed as
DVC parses them (YAML 1.2), so that values compare with those that it notes.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import InputError
from pipeline.layout import fingerprint, record_file
from pipeline.params.load import flatten
from pipeline.params.schema import Params

#: The checkout whose code runs.
CODE = Path(__file__).resolve().parents[2]
FILES = ("dvc.yaml", "compare/dvc.yaml")
VERSIONS = "versions.yaml"
#: Settings of this machine: where files lie and how fast a stage is, never what it gives. Stages may read them without
#: declaring them; nothing else may be read so.
MACHINE = ("compute", "ingest.workers", "preprocess.workers", "benchmarks.*.data.raw")

#: [s] that a dvc.lock must stay as it is to be believed where it differs from what was computed.
REST_SECONDS = 1.0


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml; `key` is the benchmark or corpus that it works on."""

    name: str
    key: str | None
    params: tuple[str, ...]
    versions: tuple[str, ...]
    deps: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def address(self) -> str:
        """As `dvc repro` takes it."""
        return address(self.name, self.key)


def address(name: str, key: str | None) -> str:
    """`finetune@motion`, as DVC names a stage."""
    return f"{name}@{key}" if key else name


def declared(name: str, key: str | None) -> Stage:
    """A stage's declaration.

    Raises:
        InputError: no dvc.yaml declares it.
    """
    entries = _entries()
    if name not in entries:
        raise InputError(f"no dvc.yaml declares a stage {name!r}: there are {', '.join(entries)}. Cure: declare it.")
    entry = entries[name]
    body = entry.get("do", entry)
    here: list[str] = []
    versions: list[str] = []
    for item in body.get("params", []):
        if isinstance(item, Mapping):
            for file, keys in item.items():
                (versions if Path(file).name == VERSIONS else here).extend(keys)
        else:
            here.append(item)
    outs = [next(iter(out)) if isinstance(out, Mapping) else out for out in body.get("outs", [])]
    filled = [tuple(_fill(text, key) for text in texts) for texts in (here, versions, body.get("deps", []), outs)]
    return Stage(name, key, *filled)


def stages(raw: Mapping[str, Any]) -> list[Stage]:
    """All stages for the benchmarks and corpora of a params file's content."""
    found: list[Stage] = []
    for name, entry in _entries().items():
        each = lookup(raw, str(entry["foreach"]).strip("${}")) if "foreach" in entry else [None]
        found += [declared(name, key) for key in each]
    return found


def sources(stage: Stage, raw: Mapping[str, Any]) -> list[Stage]:
    """The stages whose outputs a stage reads."""
    deps = [re.sub(r"\$\{([\w.]+)\}", lambda match: str(lookup(raw, match[1])), dep) for dep in stage.deps]
    return [
        other
        for other in stages(raw)
        if any(out == dep or out.startswith(f"{dep}/") for out in other.outs for dep in deps)
    ]


def values(name: str, key: str | None, raw: Mapping[str, Any] | Params) -> dict[str, Any]:
    """Flat key -> value of everything that a stage declares; absent optional keys are left out."""
    content = raw.model_dump(mode="json", exclude_none=True) if isinstance(raw, Params) else raw
    stage = declared(name, key)
    read = {dotted: lookup(content, dotted) for dotted in stage.params}
    known = versions()
    return flatten(read) | {f"versions.{part}": known[part] for part in stage.versions}


def work_key(name: str, key: str | None, params: Params, *inputs: Any) -> str:
    """What a stage's unfinished work is named by: all that it declares, and what identifies its input files."""
    return fingerprint([values(name, key, params), *inputs])


def lookup(raw: Mapping[str, Any], dotted: str) -> Any:
    """The value of a dotted key; None where it is absent."""
    node: Any = raw
    for part in dotted.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


@functools.cache
def versions() -> Mapping[str, int]:
    """versions.yaml as the running code found it."""
    return read_versions()


def read_versions() -> dict[str, int]:
    """versions.yaml as it is now."""
    return parse((CODE / VERSIONS).read_text(encoding="utf-8"))


def parse(text: str) -> dict[str, Any]:
    """A YAML file's content as DVC sees it."""
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return content


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(key, value then, value now) of every key that differs; an absent key counts as null."""
    for key in sorted({*then, *now}):
        if then.get(key) != now.get(key):
            yield key, then.get(key), now.get(key)


def read_record(name: str, key: str | None) -> dict[str, Any] | None:
    """The values that a stage's present outputs were computed with; None where nothing says so."""
    try:
        content: dict[str, Any] = json.loads(record_file(name, key).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content


def finished(name: str, key: str | None, folder: Path) -> bool:
    """Whether a stage ran to its end in `folder`, with the versions of the running code.

    DVC asks this for the chain; for the trainings of a comparison or a repetition it is asked here.
    """
    record = folder / record_file(name, key)
    if not record.is_file():
        return False
    then = json.loads(record.read_text(encoding="utf-8"))
    return all(then.get(f"versions.{part}") == versions()[part] for part in declared(name, key).versions)


def reads_any(name: str, key: str | None, params: Params, remade: Collection[str]) -> bool:
    """Whether a stage reads an output of one of the stages at these addresses."""
    found = sources(declared(name, key), params.model_dump(mode="json"))
    return any(source.address in remade for source in found)


def data_versions() -> dict[str, int]:
    """The versions that decide what data the stages before the trainings make."""
    parts = {part for name in ("download", "preprocess", "corpus") for part in declared(name, "any").versions}
    return {part: versions()[part] for part in sorted(parts)}


def locked_values(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The same values as dvc.lock's entry of a stage has them."""
    found: dict[str, Any] = {}
    for file, content in (entry.get("params") or {}).items():
        flat = flatten(dict(content))
        found |= {f"versions.{part}": value for part, value in flat.items()} if Path(file).name == VERSIONS else flat
    return found


def misrecorded(address: str, folder: Path = Path()) -> str | None:
    """How what dvc.lock notes for a stage differs from what its outputs were computed with; None if it does not.

    DVC reads params.yaml once more after a stage has ended: an edit in that moment is noted in place of the values that
    were computed with.
    """
    file, _, stage = address.rpartition(":")
    lock, record = folder / Path(file or "dvc.yaml").with_suffix(".lock"), folder / record_file(*_split(stage))
    if not record.is_file():
        return None
    computed = json.loads(record.read_text(encoding="utf-8"))
    before = None
    while True:
        text = lock.read_text(encoding="utf-8") if lock.is_file() else ""
        noted = _noted(text, stage)
        said = [f"{key} = {then!r}, noted as {now!r}" for key, then, now in differences(computed, noted or {})]
        if noted is not None and not said:
            return None
        if text == before:
            return f"{stage} was computed with {'; '.join(said)}" if noted is not None else None
        # DVC writes the file in place, and another stage may be noted at this moment: only what rests is believed.
        before = text
        time.sleep(REST_SECONDS)


def _noted(text: str, stage: str) -> dict[str, Any] | None:
    """The values in the text of a dvc.lock; None where it has no such stage, or is half written."""
    try:
        entry = parse(text)["stages"][stage]
        return locked_values(entry)
    except (YAMLError, LookupError, TypeError, AttributeError):
        return None


def _split(stage: str) -> tuple[str, str | None]:
    name, _, key = stage.partition("@")
    return name, key or None


def file_of(name: str) -> str:
    """The dvc.yaml that declares a stage."""
    return next(file for file in FILES if name in _entries_of(file))


def _entries() -> dict[str, Any]:
    return {name: entry for file in FILES for name, entry in _entries_of(file).items()}


@functools.cache
def _entries_of(file: str) -> dict[str, Any]:
    entries: dict[str, Any] = parse((CODE / file).read_text(encoding="utf-8"))["stages"]
    return entries


def _fill(text: str, key: str | None) -> str:
    return text.replace("${key}", str(key)).replace("${item}", str(key))
