"""`everest lineage`: where a checkpoint, a score or a run comes from: data, code, parameters, parents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import InputError


def command(target: str) -> dict[str, Any]:
    """Trace one thing back.

    Args:
        target: a run's id, `models:/...`, or a file or folder that a stage wrote.

    Returns:
        For files: `stages`, from the one that wrote it back to the data, each with command, dependencies and
        outputs (path, hash) and parameters. For models and runs: `run` with code, data hashes, parameters,
        parent and the models it registered. A model's folder has both.

    Raises:
        InputError: nothing is known of it.
    """
    path = Path(target)
    found: dict[str, Any] = {"target": target}
    if path.exists():
        found["stages"] = stages_behind(path)
        found["run"] = _run_of_model(path)
    elif target.startswith("models:"):
        from pipeline.tracking.models import resolve

        found["run"] = _run_of_model(resolve(target))
    else:
        found["run"] = run_facts(target)
    if not found.get("stages") and not found["run"]:
        raise InputError(
            f"nothing is known of {target}: no stage in dvc.lock wrote it and no registered model is it. "
            "Cure: name an output of a stage, a run's id or models:/NAME@ALIAS."
        )
    return found


def stages_behind(path: Path, lock: Path = Path("dvc.lock")) -> list[dict[str, Any]]:
    """The stage in dvc.lock that wrote `path`, then those that wrote what it read, back to the sources."""
    try:
        stages: dict[str, Any] = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {})
    except FileNotFoundError:
        return []
    try:
        name = path.resolve().relative_to(lock.resolve().parent).as_posix()
    except ValueError:
        return []
    writers = {out["path"]: stage for stage, entry in stages.items() for out in entry.get("outs", [])}
    waiting, rows, seen = [name], [], set()
    while waiting:
        wanted = waiting.pop(0)
        for stage in _writers(wanted, writers):
            if stage in seen:
                continue
            seen.add(stage)
            entry = stages[stage]
            rows.append(
                {
                    "stage": stage,
                    "command": entry.get("cmd", ""),
                    "reads": {dep["path"]: dep.get("md5", "") for dep in entry.get("deps", [])},
                    "writes": {out["path"]: out.get("md5", "") for out in entry.get("outs", [])},
                    "params": {k: v for group in entry.get("params", {}).values() for k, v in group.items()},
                }
            )
            waiting += [dep["path"] for dep in entry.get("deps", [])]
    return rows


def _writers(path: str, writers: dict[str, str]) -> list[str]:
    """Stages whose output is `path`, holds it, or lies in it."""
    return [
        stage
        for out, stage in writers.items()
        if out == path or path.startswith(out + "/") or out.startswith(path + "/")
    ]


def _run_of_model(path: Path) -> dict[str, Any]:
    """The run that registered the weights in a folder (or beside a file), found by their SHA-256; {} if none did."""
    from pipeline.tracking.models import FILES, sha256

    folder = path if path.is_dir() else path.parent
    if not (folder / FILES[0]).is_file():
        return {}
    from pipeline.tracking.store import Store

    versions = Store().versions_with("sha256", sha256(folder))
    return run_facts(versions[0]["run"]) if versions else {}


def run_facts(run: str) -> dict[str, Any]:
    """What the tracking server knows of a run, with its parent and the models it registered.

    Raises:
        InputError: there is no such run.
    """
    from pipeline.tracking.store import Store, StoreError

    store = Store()
    try:
        found = store.get_run(run)
    except StoreError as error:
        if not error.permanent:
            raise
        raise InputError(
            f"{run} is neither a path nor a run of {store.uri}. Cure: copy the id from the page."
        ) from None
    tags = found["tags"]
    parent = tags.get("mlflow.parentRunId")
    return {
        "id": found["id"],
        "name": found["name"],
        "status": found["status"],
        "code": {name: value for name, value in tags.items() if name.startswith("git.")},
        "stage": tags.get("dvc.stage"),
        "data": found["inputs"],
        "params": found["params"],
        "metrics": found["metrics"],
        "parent": None if parent is None else {"id": parent, "name": store.get_run(parent)["name"]},
        "flow_run": tags.get("prefect.flow_run_id"),
        "models": [f"models:/{v['name']}/{v['version']}" for v in store.versions_of_run(run)],
    }
