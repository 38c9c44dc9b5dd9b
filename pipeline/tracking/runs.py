"""A stage's tracked run: opened before the work, closed whatever happens, sent in the background.

    with stage_run("finetune", "motion", flat_params, work) as run:
        ...                      # ranks append to the same spool, run.path
        run.metrics({"eval/top1": 0.81})

Stages with the same parameters share a parent run (:mod:`pipeline.tracking.parents`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import yaml

from pipeline.errors import Interrupted
from pipeline.system.files import read_json, write_json
from pipeline.system.redact import redact, redact_value
from pipeline.tracking import context
from pipeline.tracking.folder import (
    RunFolder,
    all_runs,
    is_alive,
    is_here,
    now_ms,
    process_identity,
    runs_dir,
    runs_lock,
)
from pipeline.tracking.parents import (
    experiment_name,
    parent_run,
    record_code,
    record_params_file,
    settle,
)
from pipeline.tracking.spool import Spool, as_texts
from pipeline.tracking.upload import Uploader, tidy, unsent

log = logging.getLogger(__name__)


class StageRun(Spool):
    """The records of a stage's run and of its parent. All methods return at once: they write to a file."""

    def __init__(self, folder: RunFolder, parent: RunFolder | None) -> None:
        super().__init__(folder.spool.resolve())
        self.folder = folder
        self.parent = parent

    def summary(self, values: Mapping[str, float]) -> None:
        """Numbers for the parent run, under their whole names (`motion/eval/top1`); each value reaches it once.

        The report repeats those of all stages: of stages that were up to date the parent has not heard yet.
        """
        if self.parent is None:
            return
        with runs_lock():
            file = self.parent.path / "summary.json"
            before = read_json(file)
            new = {name: value for name, value in values.items() if before.get(name) != value}
            if new:
                with self.parent.records() as records:
                    records.metrics(new)
                write_json(file, before | new)

    def parent_artifact(self, path: Path | str, folder: str = "") -> None:
        """A file for the parent run."""
        if self.parent is not None:
            with self.parent.records() as records:
                records.artifact(path, folder)


@contextmanager
def stage_run(
    stage: str,
    benchmark: str | None,
    params: Mapping[str, object],
    work: Path,
    tags: Mapping[str, object] | None = None,
) -> Iterator[StageRun]:
    """Track one execution of a stage.

    Args:
        stage: name of the stage; `benchmark` the one it works on, None for stages of the whole experiment.
        params: dotted name -> value, the stage's resolved parameters.
        work: the folder of the stage's unfinished work. A failed or killed run is continued by the next one with the
            same folder, as its checkpoints are.
        tags: more tags (world_size, device).
    """
    sweep()
    folder, parent = _open(stage, benchmark, params, work, dict(tags or {}))
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
            waiting = unsent(uploader.folders)
            reason = uploader.failure or "the tracking server has not taken all of them yet. Cure: wait a while."
            log.warning("tracking: %d records are kept here: %s Then `everest sync` sends them.", waiting, reason)


def sweep() -> list[str]:
    """Mark the runs of dead processes KILLED; their ids."""
    with runs_lock():
        swept = []
        for folder in all_runs():
            about = folder.about()
            owner = about.get("owner")
            if about.get("status") != "RUNNING" or not owner or is_alive(owner):
                continue
            _mark_killed(folder)
            swept.append(folder.id)
        return swept


def _mark_killed(folder: RunFolder) -> None:
    folder.update(status="KILLED", ended=_last_sign_of_life(folder))
    settle(RunFolder(runs_dir() / str(folder.about().get("parent"))), "KILLED")


def _last_sign_of_life(folder: RunFolder) -> int:
    files = [path for path in (folder.spool, folder.path / "run.json") if path.exists()]
    return max(int(path.stat().st_mtime * 1000) for path in files)


def _open(
    stage: str, benchmark: str | None, params: Mapping[str, object], work: Path, tags: dict[str, object]
) -> tuple[RunFolder, RunFolder | None]:
    """The folder of a stage's run, the stopped one of the same saved work or a new one, and that of its parent."""
    work.mkdir(parents=True, exist_ok=True)
    earlier = RunFolder(runs_dir() / str(read_json(work / "tracking.json").get("run")))
    surroundings = {**context.code_tags(), **tags}
    with runs_lock():
        parent_id, parent = parent_run()
        if earlier.about().get("status") == "RUNNING" and not is_here(earlier.about().get("owner")):
            # A container that was killed, say, under the name that it had: who works in the folder now holds it.
            _mark_killed(earlier)
        stopped = earlier.about().get("status") in ("FAILED", "KILLED")
        if stopped and earlier.about().get("parent") == parent_id:
            earlier.update(status="RUNNING", owner=process_identity(os.getpid()), ended=None)
            _note_resumption(earlier, surroundings)
            return earlier, parent
        every_tag = {**context.stage_tags(stage, benchmark), **tags, "everest.stage": stage}
        if benchmark:
            every_tag["everest.benchmark"] = benchmark
        folder = RunFolder.create(
            {
                "kind": "stage",
                "experiment": experiment_name(),
                "name": f"{stage} {benchmark}" if benchmark else stage,
                "parent": parent_id,
                "tags": as_texts(every_tag),
                "inputs": context.stage_inputs(stage, benchmark),
            }
        )
        if stopped:
            _take_up(earlier, folder, surroundings)
        else:
            with folder.records() as records:
                records.params(params)
                records.text(yaml.safe_dump(redact_value("", dict(params)), sort_keys=True), "params.yaml")
                # What `everest reproduce` starts from; the group `compute` may differ from the parent's.
                record_params_file(records, "code")
                record_code(records)
        write_json(work / "tracking.json", {"run": folder.id})
    return folder, parent


def _take_up(earlier: RunFolder, folder: RunFolder, tags: Mapping[str, object]) -> None:
    """Begin a run of another experiment with all that a stopped run of the same saved work recorded.

    Its points with their steps and times, its parameters and its code describe the part that is not computed again:
    without them the run would be neither complete nor reproducible. Models are left out, each registers its own.
    """
    before = earlier.about()
    began = {name: value for name, value in before["tags"].items() if name in tags or name.startswith("git.")}
    folder.update(started=before["started"], tags={**folder.about()["tags"], **began})
    folder.copy_records(earlier)
    _note_resumption(folder, tags)


def _note_resumption(folder: RunFolder, tags: Mapping[str, object]) -> None:
    """What has changed since the run began (code, device, ranks), as tags `resumed.<name>`.

    The run's own tags describe its first part alone.
    """
    before = folder.about().get("tags", {})
    now = as_texts(tags)
    different = {f"resumed.{name}": value for name, value in now.items() if before.get(name, value) != value}
    if different:
        with folder.records() as records:
            records.tags(different)


def _close(folder: RunFolder, parent: RunFolder | None, status: str) -> None:
    with runs_lock():
        folder.update(status=status, ended=now_ms())
        if parent is not None:
            settle(parent, status)
