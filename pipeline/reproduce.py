"""`everest reproduce RUN`: the same code, data and parameters once more, in a worktree; are the numbers the same?"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline import layout
from pipeline.errors import EverestError, InputError

#: Measured costs differ from run to run; everything else has to be equal.
MEASURED = ("efficiency/",)
FOLDER = layout.WORK / "reproduce"


def command(run: str, keep: bool = False) -> dict[str, Any]:
    """Run a tracked stage again and compare every metric.

    Args:
        run: id of a stage's run (pretrain, finetune or evaluate).
        keep: leave the worktree behind, to look at.

    Returns:
        equal (all metrics are bit-equal), metrics (name, then, now, equal), commit, data, folder.

    Raises:
        InputError: no such run, its commit or data are not here.
        EverestError: the stage failed.
    """
    from pipeline.tracking.store import Store, StoreError

    store = Store()
    try:
        found = store.get_run(run)
    except StoreError as error:
        if not error.permanent:
            raise
        raise InputError(f"{run} is not a run of {store.uri}. Cure: copy the id from the tracking page.") from None
    tags = found["tags"]
    stage, benchmark = tags.get("everest.stage"), tags.get("everest.benchmark")
    commit, parent = tags.get("git.commit"), tags.get("mlflow.parentRunId")
    if not stage or not commit or not parent:
        raise InputError(f"run {run} lacks its stage, commit or parent. Cure: name a stage's run, not an experiment's.")
    folder = (FOLDER / run).absolute()
    _worktree(commit, folder)
    try:
        artifacts = folder / layout.WORK / "artifacts"
        shutil.copy(store.download(parent, "params.yaml", artifacts), folder / "params.yaml")
        if "code/uncommitted.diff" in store.artifacts(run):
            _apply(store.download(run, "code/uncommitted.diff", artifacts), folder)
        for path, digest in found["inputs"].items():
            restore(path, digest, folder)
        _run_stage(stage, benchmark, folder)
        now = json.loads((folder / layout.metrics_file(stage, benchmark)).read_text(encoding="utf-8"))
    finally:
        if not keep:
            _git("worktree", "remove", "--force", str(folder))
    rows = compare_metrics(found["metrics"], now)
    return {
        "equal": bool(rows) and all(row["equal"] for row in rows),
        "metrics": rows,
        "commit": commit,
        "data": found["inputs"],
        "folder": str(folder) if keep else None,
    }


def compare_metrics(then: dict[str, float], now: dict[str, Any]) -> list[dict[str, Any]]:
    """Metrics of both, costs left out; equal means the same bits."""
    names = sorted(name for name in then if name in now and not name.startswith(MEASURED))
    return [{"metric": n, "then": then[n], "now": float(now[n]), "equal": then[n] == float(now[n])} for n in names]


def restore(path: str, digest: str, folder: Path, root: Path | None = None) -> None:
    """Put the version of a DVC output with this hash to its path below `folder`, from the DVC cache.

    Raises:
        InputError: the cache lacks it.
    """
    objects = _cache(root or Path.cwd()) / "files" / "md5"
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if digest.endswith(".dir"):
        for entry in json.loads(_object(objects, digest, path).read_text(encoding="utf-8")):
            inner = target / entry["relpath"]
            inner.parent.mkdir(parents=True, exist_ok=True)
            _link(_object(objects, entry["md5"], path), inner)
    else:
        _link(_object(objects, digest, path), target)


def _object(objects: Path, digest: str, path: str) -> Path:
    place = objects / digest[:2] / digest[2:]
    if not place.exists():
        raise InputError(f"{path} with hash {digest} is not in the DVC cache {objects}. Cure: `dvc fetch` it first.")
    return place


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _cache(root: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"{root} is no DVC project: {done.stderr.strip()}. Cure: run in the project's root.")
    return Path(root, done.stdout.strip().splitlines()[-1])


def _run_stage(stage: str, benchmark: str | None, folder: Path) -> None:
    words = [stage, *([benchmark] if benchmark else [])]
    root = Path.cwd()
    environment = {
        **os.environ,
        # The worktree's code, and a store of its own: a check is no experiment.
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        "EVEREST_DATA": str((root / layout.data_root()).absolute()),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / layout.WORK / 'check.db'}",
        "EVEREST_RUNS": str(folder / layout.WORK / "runs"),
    }
    environment.pop("EVEREST_PARENT_RUN", None)
    program = [sys.executable, "-c", "from pipeline.cli import main; main()", *words]
    code = subprocess.call(program, cwd=folder, env=environment)
    if code:
        raise EverestError(f"{' '.join(words)} ended with code {code} in {folder}. Cure: mend what its message names.")


def _worktree(commit: str, folder: Path) -> None:
    if folder.exists():
        _git("worktree", "remove", "--force", str(folder), check=False)
        shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _git("worktree", "prune")
    _git("worktree", "add", "--detach", str(folder), commit)


def _apply(patch: Path, folder: Path) -> None:
    # params.yaml is restored from the run already.
    _git("-C", str(folder), "apply", "--whitespace=nowarn", "--exclude=params.yaml", str(patch.absolute()))


def _git(*words: str, check: bool = True) -> None:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise InputError(f"git {words[0]}: {done.stderr.strip()}. Cure: fetch the commit, or mend what git names.")
