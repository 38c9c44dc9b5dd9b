"""What each stage's result depends on, as dvc.yaml declares it: DVC, work folders and checks read the same list.

A declared key is a dotted key of params.yaml, or a part of versions.yaml (here `versions.<part>`). Files are parsed as
DVC parses them (YAML 1.2), so that values compare with those that it notes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from ruamel.yaml import YAML

from pipeline.errors import InputError
from pipeline.layout import cache_dir, corpus_file, fingerprint
from pipeline.params.keys import flatten, lookup
from pipeline.params.schema import Params
from pipeline.system.files import sha256_of

#: The checkout whose code runs.
CODE = Path(__file__).resolve().parents[2]
FILES = ("dvc.yaml", "compare/dvc.yaml")
VERSIONS = "versions.yaml"
#: Settings of this machine: where files lie and how fast a stage is, never what it gives; and what only looks at a
#: pre-training. Stages may read them without declaring them; nothing else may be read so.
MACHINE = ("compute", "ingest.workers", "preprocess.workers", "benchmarks.*.data.raw", "pretrain.monitor")
_MACHINE = re.compile("|".join(re.escape(key).replace(r"\*", "[^.]+") + r"(\..+)?" for key in MACHINE))
#: Key that names a model's folder -> (key, value) where it is read. Its weights count, wherever they lie; DVC cannot
#: watch them, as its dependencies must be there, and null is none.
WEIGHTS = {"preprocess.map_weights": ("preprocess.map_source", "embedding")}


class StageEntry(TypedDict, total=False):
    """A stage in dvc.yaml, or the `do` of one that stands there for each benchmark."""

    params: list[str | dict[str, list[str]]]
    deps: list[str]
    outs: list[str | dict[str, object]]


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
    _, entry = entries[name]
    params: list[str] = []
    parts: list[str] = []
    for item in entry.get("params", []):
        if isinstance(item, str):
            params.append(item)
        else:
            for file, keys in item.items():
                (parts if Path(file).name == VERSIONS else params).extend(keys)
    outs = [out if isinstance(out, str) else next(iter(out)) for out in entry.get("outs", [])]
    filled = [
        tuple(re.sub(r"\$\{(key|item)\}", str(key), text) for text in texts)
        for texts in (params, parts, entry.get("deps", []), outs)
    ]
    return Stage(name, key, *filled)


def stages(content: Mapping[str, object]) -> list[Stage]:
    """All stages for the benchmarks and corpora of a params file's content."""
    every: list[Stage] = []
    for name, (foreach, _) in _entries().items():
        keys = lookup(content, foreach.strip("${}")) if foreach else [None]
        every += [declared(name, key) for key in keys] if isinstance(keys, Collection) else []
    return every


def sources(stage: Stage, content: Mapping[str, object]) -> list[Stage]:
    """The stages whose outputs a stage reads."""
    deps = [re.sub(r"\$\{([\w.]+)\}", lambda match: str(lookup(content, match[1])), dep) for dep in stage.deps]
    return [
        other
        for other in stages(content)
        if any(out == dep or out.startswith(f"{dep}/") for out in other.outs for dep in deps)
    ]


def reads_any(name: str, key: str | None, params: Params, remade: Collection[str]) -> bool:
    """Whether a stage reads an output of one of the stages at these addresses."""
    return any(source.address in remade for source in sources(declared(name, key), params.model_dump(mode="json")))


def values(name: str, key: str | None, content: Mapping[str, object] | Params) -> dict[str, object]:
    """Flat key -> value of everything that a stage declares; absent optional keys are left out."""
    if isinstance(content, Params):
        content = content.model_dump(mode="json", exclude_none=True)
    stage = declared(name, key)
    parts = {f"versions.{part}": versions()[part] for part in stage.versions}
    flat = flatten({dotted: lookup(content, dotted) for dotted in stage.params})
    return flat | weights(flat) | parts


def weights(flat: Mapping[str, object], folder: Path = Path()) -> dict[str, object]:
    """`<key>.sha256` of the weights in each folder that flat values name; paths are relative to `folder`."""
    hashes: dict[str, object] = {}
    for key, (switch, on) in WEIGHTS.items():
        path = folder / str(flat.get(key)) / "model.safetensors"
        if flat.get(key) is not None and flat.get(switch) == on and path.is_file():
            hashes[f"{key}.sha256"] = sha256_of(path)
    return hashes


def deciding(params: Params, benchmarks: Collection[str]) -> dict[str, object]:
    """Flat key -> value of what decides results on these benchmarks: no setting of the machine, nothing that is null.

    A key that comes later, null where it is not set, so leaves names of what was made before alone.
    """
    content = params.model_dump(mode="json", exclude_none=True)
    content["benchmarks"] = {name: entry for name, entry in content["benchmarks"].items() if name in benchmarks}
    return {key: value for key, value in flatten(content).items() if not _MACHINE.fullmatch(key)}


def work_key(name: str, key: str | None, params: Params, *inputs: object) -> str:
    """What a stage's unfinished work is named by: all that it declares, and what identifies its input files."""
    return fingerprint([values(name, key, params), *inputs])


def corpus_inputs(corpora: Collection[str]) -> dict[str, str]:
    """Path -> SHA-256 of what a pre-training reads of its corpora; what is absent is left out."""
    files = [path for name in corpora for path in (corpus_file(name), cache_dir(name) / "cache.json")]
    return {str(path): sha256_of(path) for path in files if path.exists()}


@functools.cache
def versions() -> Mapping[str, int]:
    """versions.yaml as the running code found it."""
    return read_versions()


def read_versions() -> dict[str, int]:
    """versions.yaml as it is now."""
    parts: dict[str, int] = parse((CODE / VERSIONS).read_text(encoding="utf-8"))  # type: ignore[assignment]
    return parts


def data_versions() -> dict[str, int]:
    """The versions that decide what data the stages before the trainings make."""
    return versions_of("download", "preprocess", "corpus")


def versions_of(*names: str) -> dict[str, int]:
    """The versions that these stages declare."""
    parts = {part for name in names for part in declared(name, "any").versions}
    return {part: versions()[part] for part in sorted(parts)}


def parse(text: str) -> dict[str, object]:
    """A YAML file's content as DVC sees it."""
    content: dict[str, object] = YAML(typ="safe", pure=True).load(text)
    return content


def file_of(name: str) -> str:
    """The dvc.yaml that declares a stage."""
    return next(file for file in FILES if name in _entries_of(file))


def _entries() -> dict[str, tuple[str, StageEntry]]:
    """Name -> (what it stands for each of, or nothing; its entry)."""
    return {name: entry for file in FILES for name, entry in _entries_of(file).items()}


@functools.cache
def _entries_of(file: str) -> dict[str, tuple[str, StageEntry]]:
    class Repeated(StageEntry, total=False):
        foreach: str
        do: StageEntry

    entries: dict[str, Repeated] = parse((CODE / file).read_text(encoding="utf-8"))["stages"]  # type: ignore[assignment]
    return {name: (entry.get("foreach", ""), entry.get("do", entry)) for name, entry in entries.items()}
