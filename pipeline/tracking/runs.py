"""A stage's tracked run: opened before the work, closed whatever happens, sent in the background.

    with stage_run("finetune", "motion", flat_params, work) as run:
        ...                      # ranks append to run.spool
        run.metrics({"eval/top1": 0.81})

One parent run per set of parameters groups the stages' runs. A flow that wants to own the parent opens it
with :func:`open_parent` and passes its id in EVEREST_PARENT_RUN.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pipeline import layout
from pipeline.errors import Interrupted
from pipeline.params import flatten
from pipeline.params.frozen import params_content, params_text
from pipeline.system.redact import redact, redact_value
from pipeline.tracking import context
from pipeline.tracking.folder import (
    RunFolder,
    all_runs,
    is_alive,
    now_ms,
    process_identity,
    read_json,
    runs_dir,
    runs_lock,
    this_process,
    write_json,
)
from pipeline.tracking.spool import as_text
from pipeline.tracking.upload import Uploader, tidy, unsent
from pipeline.tracking.views import accuracy_against_cost

log = logging.getLogger(__name__)

PARENT_VARIABLE = "EVEREST_PARENT_RUN"


class StageRun:
    """What a stage says about itself. All methods return at once: they write to a file."""

    def __init__(self, folder: RunFolder, parent: RunFolder | None) -> None:
        self.folder = folder
        self.parent = parent
        self.spool = folder.spool.resolve()
        self._records = folder.records()

    @property
    def id(self) -> str:
        """The run's id here; the server's own id is `run_id`."""
        return self.folder.id

    @property
    def run_id(self) -> str | None:
        """The run's id on the server, None as long as that has not answered."""
        value = self.folder.remote().get("run_id")
        return None if value is None else str(value)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self._records.metrics(values, step)

    def params(self, values: Mapping[str, Any]) -> None:
        self._records.params(values)

    def tags(self, values: Mapping[str, Any]) -> None:
        self._records.tags(values)

    def artifact(self, path: Path | str, folder: str = "") -> None:
        self._records.artifact(path, folder)

    def text(self, text: str, name: str, folder: str = "") -> None:
        self._records.text(text, name, folder)

    def model(self, path: Path | str, name: str, tags: Mapping[str, Any], aliases: tuple[str, ...] = ()) -> None:
        """Register a model folder as the next version of `name` (`models:/<name>@<alias>`)."""
        self._records.model(path, name, tags, aliases)

    def summary(self, values: Mapping[str, float]) -> None:
        """Numbers for the parent run, under their whole names (`motion/eval/top1`); each value reaches it once.

        The report repeats those of all stages: of stages that were up to date the parent has not heard yet.
        """
        if self.parent is None:
            return
        with runs_lock():
            told = self.parent.path / "summary.json"
            before = read_json(told)
            new = {name: value for name, value in values.items() if before.get(name) != value}
            if new:
                with self.parent.records() as records:
                    records.metrics(new)
                write_json(told, before | new)

    def parent_artifact(self, path: Path | str, folder: str = "") -> None:
        """A file for the parent run."""
        if self.parent is not None:
            with self.parent.records() as records:
                records.artifact(path, folder)

    def close(self) -> None:
        self._records.close()


@contextmanager
def stage_run(
    stage: str,
    benchmark: str | None,
    params_flat: Mapping[str, Any],
    work: Path,
    tags: Mapping[str, Any] | None = None,
) -> Iterator[StageRun]:
    """Track one execution of a stage.

    Args:
        stage: name of the stage; `benchmark` the one it works on, None for stages of the whole experiment.
        params_flat: dotted name -> value, the stage's resolved parameters.
        work: the folder of the stage's unfinished work. A failed or killed run is continued by the next one
            with the
            same folder, as its checkpoints are.
        tags: more tags (world_size, device).
    """
    sweep()
    folder, parent = _open(stage, benchmark, params_flat, work, dict(tags or {}))
    run = StageRun(folder, parent)
    uploader = Uploader([parent, folder] if parent else [folder])
    uploader.start()
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    except BaseException as error:
        run.tags({"everest.error": redact(f"{type(error).__name__}: {error}")[:2000]})
        raise
    finally:
        run.close()
        _close(folder, parent, status)
        if uploader.finish():
            tidy(folder)
        else:
            waiting = unsent(uploader.own)
            reason = uploader.failure or "the tracking server has not taken all of them yet. Cure: wait a while."
            log.warning("tracking: %d records are kept here: %s Then `everest sync` sends them.", waiting, reason)


def open_parent(name: str | None = None, owner_pid: int | None = None, tags: Mapping[str, Any] | None = None) -> str:
    """Open a parent run that a flow owns, and return its id for EVEREST_PARENT_RUN.

    Args:
        name: what the tracking UI calls it; the recipe by default.
        owner_pid: the process whose death without a word makes the run KILLED; the caller's by default.
        tags: more tags (a flow run's id, links).
    """
    recipe, flat, key = _experiment()
    with runs_lock():
        folder = _new_parent(recipe, flat, key, name, dict(tags or {}), managed=False)
        folder.update(owner=process_identity(owner_pid or os.getpid()))
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


def sweep() -> list[str]:
    """Mark the runs of dead processes KILLED; their ids."""
    with runs_lock():
        swept = []
        for folder in all_runs():
            about = folder.about()
            owner = about.get("owner")
            if about.get("status") != "RUNNING" or not owner or is_alive(owner):
                continue
            folder.update(status="KILLED", ended=_last_sign_of_life(folder))
            swept.append(folder.id)
            parent = RunFolder(runs_dir() / str(about.get("parent")))
            _settle(parent, "KILLED")
        return swept


def _last_sign_of_life(folder: RunFolder) -> int:
    files = [path for path in (folder.spool, folder.path / "run.json") if path.exists()]
    return max(int(path.stat().st_mtime * 1000) for path in files)


def _open(
    stage: str, benchmark: str | None, flat: Mapping[str, Any], work: Path, tags: dict[str, Any]
) -> tuple[RunFolder, RunFolder | None]:
    work.mkdir(parents=True, exist_ok=True)
    named = read_json(work / "tracking.json").get("run")
    recipe, whole, key = _experiment()
    with runs_lock():
        earlier = RunFolder(runs_dir() / str(named))
        parent_id, parent = _parent(recipe, whole, key)
        stopped = earlier.about().get("status") in ("FAILED", "KILLED")
        if stopped and earlier.about().get("parent") == parent_id:
            folder = earlier
            folder.update(status="RUNNING", owner=this_process(), ended=None)
            _note_resumption(folder, {**context.code_tags(), **tags})
            return folder, parent
        all_tags = {**context.stage_tags(stage, benchmark), **tags, "everest.stage": stage}
        if benchmark:
            all_tags["everest.benchmark"] = benchmark
        folder = RunFolder.create(
            {
                "kind": "stage",
                "experiment": f"everest-{recipe}",
                "name": f"{stage} {benchmark}" if benchmark else stage,
                "parent": parent_id,
                "tags": {name: as_text(redact_value(name, value)) for name, value in all_tags.items()},
                "inputs": context.stage_inputs(stage, benchmark),
            }
        )
        if stopped:
            _take_up(earlier, folder, {**context.code_tags(), **tags})
        else:
            with folder.records() as records:
                records.params(flat)
                records.text(yaml.safe_dump(redact_value("", dict(flat)), sort_keys=True), "params.yaml")
                # What `everest reproduce` starts from; the group `compute` may differ from the parent's.
                _record_params_file(records, "code")
                _record_code(records)
        write_json(work / "tracking.json", {"run": folder.id})
    return folder, parent


def _take_up(earlier: RunFolder, folder: RunFolder, tags: Mapping[str, Any]) -> None:
    """Begin a run of another experiment with all that a stopped run of the same saved work recorded.

    Its points with their steps and times, its parameters and its code describe the part that is not computed again:
    without them the run would be neither complete nor reproducible. Models are left out, each registers its own.
    """
    before = earlier.about()
    began = {name: value for name, value in before["tags"].items() if name in tags or name.startswith("git.")}
    folder.update(started=before["started"], tags={**folder.about()["tags"], **began})
    folder.copy_records(earlier)
    _note_resumption(folder, tags)


def _note_resumption(folder: RunFolder, tags: Mapping[str, Any]) -> None:
    """What has changed since the run began (code, device, ranks), as tags `resumed.<name>`.

    The run's own tags describe its first part alone.
    """
    before = folder.about().get("tags", {})
    now = {name: as_text(redact_value(name, value)) for name, value in tags.items()}
    different = {f"resumed.{name}": value for name, value in now.items() if before.get(name, value) != value}
    if different:
        with folder.records() as records:
            records.tags(different)


def _record_params_file(records: Any, folder: str = "") -> None:
    """params.yaml as it is written, comments and all."""
    text = params_text()
    if text is not None:
        records.text(text, "params.yaml", folder)


def _record_code(records: Any) -> None:
    """Uncommitted changes; where git cannot tell of them, the tag git.dirty says so."""
    difference = context.dirty_diff()
    if difference.text:
        records.text(difference.text, "uncommitted.diff", "code")
    changes, _ = context.dirty_files()
    if changes:
        records.text("\n".join(changes) + "\n", "uncommitted.txt", "code")


def _parent(recipe: str, flat: dict[str, Any], key: str) -> tuple[str, RunFolder | None]:
    """The parent's id and, where it is kept here, its folder."""
    given = os.environ.get(PARENT_VARIABLE)
    if given:
        folder = RunFolder(runs_dir() / given)
        return given, (folder if folder.about() else None)
    for folder in all_runs():
        about = folder.about()
        if about.get("kind") == "parent" and about.get("key") == key and about.get("managed"):
            folder.update(status="RUNNING", ended=None)
            return folder.id, folder
    folder = _new_parent(recipe, flat, key, None, {}, managed=True)
    return folder.id, folder


def _new_parent(
    recipe: str, flat: dict[str, Any], key: str, name: str | None, tags: dict[str, Any], managed: bool
) -> RunFolder:
    series = context.series()
    every = {**context.code_tags(), **context.series_tags(), "everest.kind": "experiment", **tags}
    flow = context.flow_run()
    if flow:
        every.setdefault("prefect.flow_run_id", flow)
    folder = RunFolder.create(
        {
            "kind": "parent",
            "key": key,
            "managed": managed,
            "experiment": f"everest-{recipe}",
            "name": name or (series[1] if series else _name_of(recipe, flat, key)),
            "parent": None,
            "tags": {name: as_text(redact_value(name, value)) for name, value in every.items()},
            "inputs": {},
            "experiment_tags": accuracy_against_cost(_benchmarks(flat)),
        }
    )
    if managed:
        # Its stages speak for it: between two of them no process owns it.
        folder.update(owner=None)
    with folder.records() as records:
        records.params(flat)
        _record_params_file(records)
        records.text(context.environment_lock(), "environment.txt", "code")
        _record_code(records)
    return folder


def _name_of(recipe: str, flat: Mapping[str, Any], key: str) -> str:
    """What a reader of the list of runs tells experiments apart by."""
    words = [recipe, flat.get("pretrain.strategy"), f"seed {flat['seed']}" if "seed" in flat else None, key[:6]]
    return " ".join(str(word) for word in words if word)


def _benchmarks(flat: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name.split(".")[1] for name in flat if name.startswith("benchmarks.")))


def _close(folder: RunFolder, parent: RunFolder | None, status: str) -> None:
    with runs_lock():
        folder.update(status=status, ended=now_ms())
        if parent is not None:
            _settle(parent, status)


def _settle(parent: RunFolder, status: str) -> None:
    """A parent that its stages manage stands as the last of them ended, and runs while one runs."""
    about = parent.about()
    if not about.get("managed"):
        return
    running = any(f.about().get("parent") == parent.id and f.about().get("status") == "RUNNING" for f in all_runs())
    parent.update(status="RUNNING" if running else status, ended=None if running else now_ms())


def _experiment() -> tuple[str, dict[str, Any], str]:
    """Recipe, flat parameters and the key of the parent run, from params.yaml in the project's root.

    The key is made of the checkout and the parameters. The group `compute` is left out: with another number
    of ranks it is the same experiment, which a resumed stage continues.
    """
    raw = params_content()
    flat = flatten(raw)
    own = {name: value for name, value in flat.items() if not name.startswith("compute.")}
    key = layout.fingerprint([str(Path.cwd()), own])
    return str(raw.get("recipe", "everest")), flat, key
