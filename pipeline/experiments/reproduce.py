"""`everest reproduce RUN`: the same code, data and parameters once more in a worktree, and the numbers compared."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pipeline import layout
from pipeline.errors import EverestError, InputError
from pipeline.experiments.restore import apply_patch, check_files, code_of, restore, tracked_changes, unknown_code
from pipeline.experiments.workspace import Report, Workspace, environment
from pipeline.tracking.context import UNKNOWN
from pipeline.tracking.names import MEASURED

if TYPE_CHECKING:
    from pipeline.tracking.store import Store, TrackedRun

#: What a stage computes besides its metrics, as tags of its run.
DIGESTS = {"everest.weights_sha256": "SHA-256 of the weights", "everest.predictions_sha256": "SHA-256 of predictions"}
STAGES = ("pretrain", "finetune", "evaluate")
FOLDER = layout.WORK / "reproduce"


class Comparison(TypedDict):
    """One metric of both runs: how many points the first has, and the last value of each."""

    metric: str
    points: int
    then: float | str | None
    now: float | str | None
    equal: bool


class DataHash(TypedDict):
    """A DVC output that was restored."""

    path: str
    hash: str


class Reproduction(TypedDict):
    """The outcome; `equal` where all of it is bit-equal, `folder` the worktree where it was kept."""

    equal: bool
    stage: str
    commit: str
    folder: str | None
    metrics: list[Comparison]
    data: list[DataHash]


def command(run: str, keep: bool = False) -> Reproduction:
    """Run a tracked stage again and compare every metric at every step.

    Args:
        run: id of a finished run of pretrain, finetune or evaluate.
        keep: leave the worktree behind, to look at.

    Raises:
        InputError: no such run, or its code or data are not here.
        Interrupted: Ctrl-C; nothing is left behind.
        BusyError: the same run is being reproduced already.
        EverestError: the stage failed.
    """
    from pipeline.experiments.stage import only_one
    from pipeline.tracking.store import Store

    store = Store.existing()
    tracked = store.run(run)
    _check_run(tracked)
    tags = tracked["tags"]
    stage, benchmark = tags["everest.stage"], tags.get("everest.benchmark")
    root = Path.cwd()
    with only_one(f"reproduce-{run}"), code_of(tags["git.commit"], (FOLDER / run).absolute(), keep) as folder:
        _restore_code(store, run, folder)
        for path, digest in tracked["inputs"].items():
            restore(path, digest, folder)
        check_files(json.loads(tags.get("everest.inputs", "{}")), folder, root)
        _run_stage(stage, benchmark, folder)
        rows = compare(store, tracked, *_again(folder, stage))
    return {
        "equal": all(row["equal"] for row in rows),
        "stage": f"{stage} {benchmark}" if benchmark else stage,
        "commit": tags["git.commit"],
        "folder": str(folder) if keep else None,
        "metrics": rows,
        "data": [{"path": path, "hash": digest} for path, digest in tracked["inputs"].items()],
    }


def _check_run(tracked: TrackedRun) -> None:
    """Refuse a run that no single version of code and data made, or that has no result."""
    run, status, tags = tracked["id"], tracked["status"], tracked["tags"]
    stage = tags.get("everest.stage")
    if stage not in STAGES:
        what = f"of the stage {stage}" if stage else "an experiment's, not a stage's"
        raise InputError(f"run {run} is {what}. Cure: name a run of {', '.join(STAGES)} (its children on the page).")
    if status != "FINISHED":
        raise InputError(f"run {run} is {status}, so it has no result to compare. Cure: name a finished run.")
    unknown = [name for name in ("git.commit", "git.dirty") if tags.get(name) == UNKNOWN]
    if "git.commit" not in tags:
        unknown.append("git.commit")
    if unknown:
        reason = tags.get("git.unknown", "it was made outside of a git repository")
        raise InputError(
            f"run {run}: {' and '.join(unknown)} unknown ({reason}), so its code is not known. Cure: name another run."
        )
    if "resumed.git.commit" in tags:
        raise InputError(
            f"run {run} was begun with the code of {tags['git.commit'][:12]} and resumed with that of "
            f"{tags['resumed.git.commit'][:12]}: no single version made it. Cure: name another run."
        )
    if not tracked["inputs"]:
        raise InputError(
            f"run {run} recorded no data hashes: it was made before `dvc repro` had written dvc.lock. "
            "Cure: name a run that `dvc repro` or `everest run` made."
        )


def _restore_code(store: Store, run: str, folder: Path) -> None:
    """Uncommitted changes and params.yaml, as the run had them."""
    kept = folder / layout.WORK / "artifacts"
    names = store.artifacts(run, "code")
    if "code/uncommitted.txt" in names:
        status = store.download(run, "code/uncommitted.txt", kept).read_text(encoding="utf-8")
        unknown = unknown_code(status)
        if unknown:
            raise InputError(
                f"run {run} used code that git did not know and nobody kept: {', '.join(unknown)}. "
                "Cure: commit such files before a run; this one cannot be reproduced."
            )
        if tracked_changes(status) and "code/uncommitted.diff" not in names:
            raise InputError(
                f"run {run} used uncommitted changes that nobody kept: git could not show them. Cure: name another run."
            )
    if "code/uncommitted.diff" in names:
        apply_patch(store.download(run, "code/uncommitted.diff", kept), folder)
    if "code/params.yaml" not in names:
        raise InputError(f"run {run} kept no code/params.yaml. Cure: name a run of a newer version.")
    shutil.copy(store.download(run, "code/params.yaml", kept), folder / "params.yaml")


def _again(folder: Path, stage: str) -> tuple[Store, TrackedRun]:
    """The store of the worktree, and the run that was just made there."""
    from pipeline.tracking.store import Store

    store = Store(_check_store(folder))
    made = store.search(query=f"tags.`everest.stage` = '{stage}'")
    if not made or made[0]["status"] != "FINISHED":
        raise EverestError(f"the repeated run was not recorded whole in {folder}. Cure: start again.")
    return store, made[0]


def compare(store: Store, then: TrackedRun, other: Store, now: TrackedRun) -> list[Comparison]:
    """Compare every metric of two runs at all steps, but for measured costs, and what their files hold.

    Equal means the same bits. A metric that only one of them has is different.
    """
    rows: list[Comparison] = []
    for name in sorted(n for n in then["metrics"] | now["metrics"] if not n.startswith(MEASURED)):
        before, after = store.history(then["id"], name), other.history(now["id"], name)
        rows.append(
            {
                "metric": name,
                "points": len(before),
                "then": then["metrics"].get(name),
                "now": now["metrics"].get(name),
                "equal": before == after,
            }
        )
    for tag, title in DIGESTS.items():
        if (digest := then["tags"].get(tag)) is not None:
            again = now["tags"].get(tag, "-")
            equal = digest == again
            rows.append({"metric": title, "points": 1, "then": digest[:12], "now": again[:12], "equal": equal})
    return rows


def _check_store(folder: Path) -> str:
    return f"sqlite:///{folder / layout.WORK / 'check.db'}"


def _run_stage(stage: str, benchmark: str | None, folder: Path) -> None:
    # A store and unfinished work of its own: a check is no experiment, and computes all of it.
    places = {"MLFLOW_TRACKING_URI": _check_store(folder), "EVEREST_RUNS": str(folder / layout.WORK / "runs")}
    variables = environment(Path.cwd(), folder, folder / layout.WORK, **places)
    for name in ("EVEREST_PARENT_RUN", layout.RUN_VARIABLE):
        variables.pop(name, None)
    report = Report(
        stopped="stopped; nothing is left behind. The same command starts again.",
        cure="mend what its message names; --keep leaves the folder.",
    )
    # Ctrl-C comes here alone and is handed on, so that all of it has ended before the worktree is removed.
    Workspace(folder.name, folder, Path.cwd(), variables).run_stage(
        stage, benchmark, report, at_our_death=signal.SIGINT
    )
