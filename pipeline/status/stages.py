"""The executions of stages in one place: who runs, who ended and how, and what goes on with them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.distributed.heartbeat import lives
from pipeline.errors import InputError
from pipeline.params import Params, check_params
from pipeline.params.declared import values
from pipeline.params.records import differences
from pipeline.status.places import Place
from pipeline.status.processes import log_of
from pipeline.status.records import Gpu, Stage, State
from pipeline.status.training import heartbeats, read_training
from pipeline.status.words import ago
from pipeline.system.files import read_json
from pipeline.system.redact import redact
from pipeline.tracking.folder import RunFolder, is_alive
from pipeline.tracking.upload import unsent

#: Stages whose work folders hold a training.
TRAIN = ("pretrain", "finetune")
#: [byte] at the end of a spool that are searched for the run's error.
SPOOL_END = 64 << 10
#: [s] between the ranks' account of their end and that of their run, at most.
SAME_END_SECONDS = 120.0
#: Parameters that differ from those of stopped work: so many are named.
NAMED = 3


def read_stages(place: Place, params: Params | None, gpus: Sequence[Gpu]) -> list[Stage]:
    """All executions of stages that left something in a place, but for those that ended well; running ones first.

    Args:
        params: params.yaml of the place as it is now; None where it cannot be read.
    """
    stages = [stage for folder in _work_folders(place) if (stage := _read(place, folder, params, gpus))]
    return sorted(stages, key=lambda stage: (stage.state not in ("running", "lost"), -stage.at))


def _work_folders(place: Place) -> Iterator[Path]:
    """`.work/<stage>/<benchmark>/<key>` of every tracked execution."""
    for path in place.work.glob("*/*/*/tracking.json"):
        if path.parts[-4] not in ("compare", "repeat", "worktrees", "reproduce") or path.parts[-3] == "all":
            yield path.parent


def _read(place: Place, work: Path, params: Params | None, gpus: Sequence[Gpu]) -> Stage | None:
    name, benchmark = work.parts[-3], None if work.parts[-2] == "all" else work.parts[-2]
    run = _run(place, work)
    about = run.about() if run else {}
    if run is None or about.get("status") not in ("RUNNING", "KILLED", "FAILED"):
        return None  # ended well
    owner = about.get("owner")
    alive = about["status"] == "RUNNING" and owner is not None and is_alive(owner)
    training = read_training(work, alive, gpus) if name in TRAIN else None
    ranks = [beat.pid for beat in heartbeats(work) if beat.phase != "finished" and lives(beat.pid)]
    state: State = "running" if alive else "lost" if ranks and about["status"] == "RUNNING" else _ended(about["status"])
    began, log = (about.get("started") or 0) / 1000, _log(place, name, benchmark)
    stage = Stage(
        stage=name,
        benchmark=benchmark,
        series=place.series,
        state=state,
        at=began if alive else _last_sign(run, work, log),
        pid=owner["pid"] if alive and owner else ranks[0] if ranks else None,
        training=training,
        log=log or (log_of(owner["pid"]) if alive and owner else None),
        doing=_noted(place, name, benchmark) if alive else "",
        message="" if alive else _message(run, work),
        unsent=unsent([run]),
    )
    return stage if alive else _with_sentence(stage, place, work, params)


def _run(place: Place, work: Path) -> RunFolder | None:
    """The tracked run of a work folder; None where it was sent and removed."""
    identity = read_json(work / "tracking.json").get("run")
    runs = [RunFolder(folder / str(identity)) for folder in place.runs]
    return next((run for run in runs if run.path.is_dir()), None)


def _ended(status: str) -> State:
    return {"KILLED": "stopped", "FAILED": "failed"}.get(status, "killed")  # type: ignore[return-value]


def _last_sign(run: RunFolder, work: Path, log: str | None = None) -> float:
    """When an execution that does not run was last heard of.

    Args:
        log: with the words of a stage that tells little else, such as a comparison. Trainings have a history; the
            newest log may be that of another flow run, which goes on.
    """
    ended = run.about().get("ended")
    if ended:
        return ended / 1000
    history = work / "history.csv"
    signs = [run.spool, history, *([Path(log)] if log and not history.exists() else [])]
    times = [path.stat().st_mtime for path in signs if path.exists()]
    return max(times, default=(run.about().get("started") or 0) / 1000)


def _log(place: Place, stage: str, benchmark: str | None) -> str | None:
    """The newest file that a flow kept a stage's words in."""
    name = f"{stage}-{benchmark}.log" if benchmark else f"{stage}.log"
    files = [*place.work.glob(f"logs/*/{name}")]
    return str(max(files, key=lambda path: path.stat().st_mtime)) if files else None


def _noted(place: Place, stage: str, benchmark: str | None) -> str:
    try:
        file = place.work / "progress" / (f"{stage}-{benchmark}" if benchmark else stage)
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _message(run: RunFolder, work: Path) -> str:
    """Why an execution ended: the ranks' own word, or the error on its run."""
    ended, message = work / "status.json", ""
    if ended.exists() and ended.stat().st_mtime > _last_sign(run, work) - SAME_END_SECONDS:  # not of an earlier start
        message = str(read_json(ended).get("message") or "")
    if not message and run.spool.exists():
        with run.spool.open("rb") as file:
            file.seek(max(0, run.spool.stat().st_size - SPOOL_END))
            for line in file.read().splitlines():
                if b'"everest.error"' in line:
                    try:
                        message = json.loads(line)["v"]["everest.error"]
                    except (ValueError, KeyError, TypeError):
                        continue
    return redact(message.splitlines()[0]) if message else ""


def _with_sentence(stage: Stage, place: Place, work: Path, params: Params | None) -> Stage:
    """Say what became of it, at which step, and what goes on with it."""
    how = {"killed": "killed without a word", "lost": "lost its launcher"}.get(stage.state, stage.state)
    figures = stage.training
    where = saved = ""
    if figures is not None:
        where = f" at step {figures.step}" + (f" of {figures.steps}" if figures.steps else "")
        saved = (
            f" from step {figures.checkpoint.step}" if figures.checkpoint else " from the beginning: nothing is saved"
        )
    sentence = f"{how} {ago(time.time() - stage.at)} ago{where}"
    given = "everest compare" if stage.stage == "compare" else place.command  # `everest run` is the chain alone
    command = given if given.startswith("a ") else f"`{given}`"
    if stage.state == "lost":
        sentence += f"; its ranks still run (process {stage.pid}) and save when they end"
    elif changes := _changes(stage, work, params):
        sentence += f"; begun with {changes} in params.yaml: with what it began with {command} continues{saved}"
    else:
        sentence += f"; {command} continues{saved}"
    return dataclasses.replace(stage, sentence=sentence)


def _changes(stage: Stage, work: Path, params: Params | None) -> str:
    """Which declared values differ between stopped work and params.yaml: edited since, or given to that run alone."""
    job = read_json(work / "job.json").get("params")
    if job is None or params is None:
        return ""
    try:
        then, now = (values(stage.stage, stage.benchmark, each) for each in (check_params(job), params))
    except InputError:  # of a version with other keys
        return ""
    changes = [f"{key} = {old}, which is {new}" for key, old, new in differences(then, now)]
    more = f" and {len(changes) - NAMED} more" if len(changes) > NAMED else ""
    return ", ".join(changes[:NAMED]) + more
