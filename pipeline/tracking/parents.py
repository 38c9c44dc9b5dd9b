"""The run of an experiment, the parent of its stages' runs.

One parent for each set of parameters, opened by the first stage and kept by all of them. A flow that wants to own the
parent opens it with :func:`open_parent` and passes its id in EVEREST_PARENT_RUN.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pipeline import layout
from pipeline.params import flatten
from pipeline.params.frozen import params_content, params_text
from pipeline.tracking import context
from pipeline.tracking.folder import (
    RunFolder,
    all_runs,
    now_ms,
    process_identity,
    runs_dir,
    runs_lock,
)
from pipeline.tracking.spool import Spool, as_texts
from pipeline.tracking.upload import Uploader
from pipeline.tracking.views import accuracy_against_cost

PARENT_VARIABLE = "EVEREST_PARENT_RUN"


def open_parent(name: str | None = None, tags: Mapping[str, object] | None = None) -> str:
    """Open a parent run that a flow owns, and return its id for EVEREST_PARENT_RUN.

    It becomes KILLED where the calling process dies without a word.

    Args:
        name: what the tracking UI calls it; the recipe by default.
        tags: more tags (a flow run's id, links).
    """
    with runs_lock():
        folder = _create(name, tags or {}, managed=False)
        folder.update(owner=process_identity(os.getpid()))
    return folder.id


def close_parent(identity: str, status: str) -> None:
    """Give a parent run opened by :func:`open_parent` its final status and send it."""
    folder = RunFolder(runs_dir() / identity)
    if not folder.about():
        return
    folder.update(status=status, ended=now_ms())
    uploader = Uploader([folder])
    uploader.start()
    uploader.finish()


def parent_run() -> tuple[str, RunFolder | None]:
    """The parent's id and, where it is kept here, its folder; called under :func:`runs_lock`."""
    given = os.environ.get(PARENT_VARIABLE)
    if given:
        folder = RunFolder(runs_dir() / given)
        return given, (folder if folder.about() else None)
    key = _key(_params())
    for folder in all_runs():
        about = folder.about()
        if about.get("kind") == "parent" and about.get("key") == key and about.get("managed"):
            folder.update(status="RUNNING", ended=None)
            return folder.id, folder
    folder = _create(None, {}, managed=True)
    return folder.id, folder


def _create(name: str | None, tags: Mapping[str, object], managed: bool) -> RunFolder:
    params = _params()
    series = context.series()
    every_tag: dict[str, object] = {**context.code_tags(), **context.series_tags(), "everest.kind": "experiment"}
    every_tag |= tags
    flow = context.flow_run()
    if flow:
        every_tag.setdefault("prefect.flow_run_id", flow)
    folder = RunFolder.create(
        {
            "kind": "parent",
            "key": _key(params),
            "managed": managed,
            "experiment": experiment_name(),
            "name": name or (series[1] if series else _name_of(params)),
            "parent": None,
            "tags": as_texts(every_tag),
            "inputs": {},
            "experiment_tags": accuracy_against_cost(_benchmarks(params)),
        }
    )
    if managed:
        # Its stages speak for it: between two of them no process owns it.
        folder.update(owner=None)
    with folder.records() as records:
        records.params(params)
        record_params_file(records)
        records.text(context.environment_lock(), "environment.txt", "code")
        record_code(records)
    return folder


def _name_of(params: Mapping[str, object]) -> str:
    """What a reader of the list of runs tells experiments apart by."""
    seed = f"seed {params['seed']}" if "seed" in params else None
    words = [_recipe(params), params.get("pretrain.strategy"), seed, _key(params)[:6]]
    return " ".join(str(word) for word in words if word)


def _benchmarks(params: Mapping[str, object]) -> list[str]:
    return list(dict.fromkeys(name.split(".")[1] for name in params if name.startswith("benchmarks.")))


def settle(parent: RunFolder, status: str) -> None:
    """A parent that its stages manage stands as the last of them ended, and runs while one runs."""
    about = parent.about()
    if not about.get("managed"):
        return
    running = any(f.about().get("parent") == parent.id and f.about().get("status") == "RUNNING" for f in all_runs())
    parent.update(status="RUNNING" if running else status, ended=None if running else now_ms())


def record_params_file(records: Spool, folder: str = "") -> None:
    """params.yaml as it is written, comments and all."""
    text = params_text()
    if text is not None:
        records.text(text, "params.yaml", folder)


def record_code(records: Spool) -> None:
    """Uncommitted changes; where git cannot tell of them, the tag git.dirty says so."""
    difference = context.dirty_diff()
    if difference.text:
        records.text(difference.text, "uncommitted.diff", "code")
    changes, _ = context.dirty_files()
    if changes:
        records.text("\n".join(changes) + "\n", "uncommitted.txt", "code")


def experiment_name() -> str:
    """The experiment on the server that holds all runs of the recipe."""
    return f"everest-{_recipe(_params())}"


def _recipe(params: Mapping[str, object]) -> str:
    return str(params.get("recipe", "everest"))


def _params() -> dict[str, object]:
    """Dotted name -> value of params.yaml in the current folder."""
    return flatten(params_content())


def _key(params: Mapping[str, object]) -> str:
    """What makes two stages parts of one experiment: the checkout and the parameters.

    The group `compute` is left out: with another number of ranks it is the same experiment, which a resumed stage
    continues.
    """
    decisive = {name: value for name, value in params.items() if not name.startswith("compute.")}
    return layout.fingerprint([str(Path.cwd()), decisive])
