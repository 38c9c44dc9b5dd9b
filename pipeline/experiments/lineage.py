"""`everest lineage`: where a checkpoint, a score or a run comes from: data, code, parameters, parents."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import NotRequired, TypedDict

from pipeline import layout
from pipeline.errors import EverestError, InputError
from pipeline.model_folder import FILES
from pipeline.system.files import sha256_of
from pipeline.tracking.context import dvc_hashes, dvc_stages

LOCK = Path("dvc.lock")
_RUN = re.compile(r"[0-9a-f]{32}")


class StageFacts(TypedDict):
    """A stage in dvc.lock; `reads` and `writes` are hashes by path."""

    stage: str
    command: str
    reads: dict[str, str]
    writes: dict[str, str]
    params: dict[str, object]


class RunName(TypedDict):
    """A tracked run that another one refers to."""

    id: str
    name: str


class RunFacts(TypedDict, total=False):
    """A tracked run with what it comes from and what it registered; empty where none is known."""

    id: str
    name: str
    status: str
    code: dict[str, str]
    resumed: dict[str, str]
    stage: str | None
    data: dict[str, str]
    files: dict[str, str]
    weights_from: list[RunName]
    params: dict[str, str]
    metrics: dict[str, float]
    parent: RunName | None
    flow_run: str | None
    models: list[str]


class Lineage(TypedDict):
    """Where a target comes from.

    Of a file or folder: `stages`, from the one that wrote it back to the data; `unchanged`, whether a file is still
    what that stage wrote (None where that cannot be said); `run_unknown`, why its run is not known.
    """

    target: str
    stages: NotRequired[list[StageFacts]]
    unchanged: NotRequired[bool | None]
    run: NotRequired[RunFacts]
    run_unknown: NotRequired[str]


def command(target: str) -> Lineage:
    """Trace one thing back.

    Args:
        target: a run's id, `models:/...`, or a file or folder that a stage wrote.

    Raises:
        InputError: nothing is known of it.
    """
    path = Path(target)
    if not path.exists():
        return {"target": target, "run": _run_named(target)}
    lineage: Lineage = {"target": target, "stages": stages_behind(path)}
    if lineage["stages"] and path.is_file():
        lineage["unchanged"] = unchanged(path)
    try:
        lineage["run"] = _run_of(path)
    except EverestError as error:
        # dvc.lock tells of a file also where no tracking store is at hand.
        lineage |= {"run": {}, "run_unknown": str(error)}
    if not lineage["stages"] and not lineage["run"]:
        raise InputError(
            f"nothing is known of {target}: no stage in dvc.lock wrote it and no tracked run has it. "
            "Cure: name an output of a stage, a run's id or models:/NAME@ALIAS."
        )
    return lineage


def _run_named(target: str) -> RunFacts:
    """The run with an id, or the one that made a registered model."""
    if target.startswith("models:"):
        from pipeline.inference.models import resolve

        return _run_with("everest.weights_sha256", resolve(target))
    if _RUN.fullmatch(target):
        return run_facts(target)
    raise InputError(
        f"{target!r} is no file here, and no run's id (32 digits and letters a-f). "
        "Cure: name an output of a stage, a run's id or models:/NAME@ALIAS."
    )


def stages_behind(path: Path) -> list[StageFacts]:
    """The stage in dvc.lock that wrote `path`, then those that wrote what it read, back to the sources."""
    stages = dvc_stages(LOCK)
    try:
        name = path.resolve().relative_to(LOCK.resolve().parent).as_posix()
    except ValueError:
        return []
    writers = {out["path"]: stage for stage, entry in stages.items() for out in entry.get("outs", [])}
    waiting, rows = [name], dict[str, StageFacts]()
    while waiting:
        for stage in _writers(waiting.pop(0), writers):
            if stage in rows:
                continue
            entry = stages[stage]
            rows[stage] = {
                "stage": stage,
                "command": entry.get("cmd", ""),
                "reads": {dep["path"]: dep.get("md5", "") for dep in entry.get("deps", [])},
                "writes": {out["path"]: out.get("md5", "") for out in entry.get("outs", [])},
                "params": {k: v for group in entry.get("params", {}).values() for k, v in group.items()},
            }
            waiting += [dep["path"] for dep in entry.get("deps", [])]
    return list(rows.values())


def _writers(path: str, writers: dict[str, str]) -> list[str]:
    """Stages whose output is `path`, holds it, or lies in it."""
    return [
        stage
        for out, stage in writers.items()
        if out == path or path.startswith(out + "/") or out.startswith(path + "/")
    ]


def unchanged(path: Path) -> bool | None:
    """Whether a file has the bytes that dvc.lock notes for it; None where that cannot be said.

    What is in a folder is told by the listing that DVC keeps in its cache.
    """
    name = path.resolve().relative_to(LOCK.resolve().parent).as_posix()
    for out, digest in dvc_hashes(LOCK).items():
        if out == name:
            return _md5(path) == digest
        if name.startswith(out + "/"):
            listing = Path(".dvc/cache/files/md5") / digest[:2] / digest[2:]
            if not listing.is_file():
                return None
            entries = {e["relpath"]: e["md5"] for e in json.loads(listing.read_text(encoding="utf-8"))}
            return entries.get(name.removeprefix(out + "/")) == _md5(path)
    return None


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _run_of(path: Path) -> RunFacts:
    """The run that made a stage's output or metrics file, found by the SHA-256 of what it wrote; {} if none is."""
    stage = _stage_of(path)
    folder = path if path.is_dir() else path.parent
    if stage is not None:
        folder = layout.output_dir(*stage)
    for tag, name in (("everest.weights_sha256", FILES[0]), ("everest.predictions_sha256", "predictions.parquet")):
        if (folder / name).is_file():
            return _run_with(tag, folder, name)
    return {}


def _stage_of(path: Path) -> tuple[str, str | None] | None:
    """Stage and benchmark of a path below metrics/, whose run is told by what lies in outputs/."""
    try:
        parts = path.resolve().relative_to(Path.cwd() / "metrics").with_suffix("").parts
    except ValueError:
        return None
    return (parts[0], parts[1] if len(parts) > 1 else None) if parts else None


def _run_with(tag: str, folder: Path, name: str = FILES[0]) -> RunFacts:
    from pipeline.tracking.store import Store

    store = Store.existing()
    digest = sha256_of(folder / name)
    runs = store.search(query=f"tags.`{tag}` = '{digest}'", limit=1)
    if runs:
        return run_facts(runs[0]["id"])
    versions = store.models.with_tag("sha256", digest)
    run = versions[0]["run"] if versions else None
    return run_facts(run) if run else {}


def run_facts(run: str) -> RunFacts:
    """What the tracking server knows of a run, with its parent and the models it registered.

    Raises:
        InputError: there is no such run.
    """
    from pipeline.tracking.store import Store

    store = Store.existing()
    tracked = store.run(run)
    tags = tracked["tags"]
    parent = tags.get("mlflow.parentRunId")
    files = json.loads(tags.get("everest.inputs", "{}"))
    return {
        "id": tracked["id"],
        "name": tracked["name"],
        "status": tracked["status"],
        "code": {name: value for name, value in tags.items() if name.startswith("git.")},
        "resumed": {name: value for name, value in tags.items() if name.startswith("resumed.")},
        "stage": tags.get("dvc.stage"),
        "data": tracked["inputs"],
        "files": files,
        "weights_from": [
            {"id": earlier["id"], "name": earlier["name"]}
            for path, digest in files.items()
            if path.endswith(FILES[0])
            for earlier in store.search(query=f"tags.`everest.weights_sha256` = '{digest}'", limit=1)
        ],
        "params": tracked["params"],
        "metrics": tracked["metrics"],
        "parent": None if parent is None else {"id": parent, "name": store.get_run(parent)["name"]},
        "flow_run": tags.get("prefect.flow_run_id"),
        "models": [f"models:/{v['name']}/{v['version']}" for v in store.models.of_run(run)],
    }
