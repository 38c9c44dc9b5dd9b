"""A training's figures from the files in its work folder: history, heartbeats, checkpoints, the monitor's record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from pipeline import layout
from pipeline.distributed import heartbeat
from pipeline.monitor.record import read_record
from pipeline.status.history import evenly, read_history
from pipeline.status.processes import memory_gib
from pipeline.status.records import Checkpoint, Gpu, Training
from pipeline.system.files import read_json
from pipeline.tracking.names import TRAIN_GRAD_NORM, TRAIN_LOSS, TRAIN_LR

#: [s] after which a rank that has not moved is named.
QUIET_SECONDS = 30.0


def read_training(work: Path, alive: bool, gpus: Sequence[Gpu]) -> Training | None:
    """The figures of the training in a work folder; None where nothing of one is there yet."""
    history, record = read_history(work / "history.csv"), read_record(work)
    length, checkpoint = read_json(work / "length.json"), newest_checkpoint(work / "checkpoints")
    if history is None and not length and checkpoint is None:
        return None
    steps = length.get("steps")
    curves = dict(history.curves) if history else {}
    if record is not None:
        curves |= {name: [(step, value) for step, _, value in record.curve(name)] for name in record.newest}
    step = history.step if history else checkpoint.step if checkpoint else 0
    rate = history.rate if history else None
    beats = heartbeats(work) if alive else []
    pids = {beat.pid for beat in beats if beat.phase != "finished"}
    return Training(
        step=step,
        steps=steps,
        epoch=history.epoch if history else None,
        rate=rate,
        left_seconds=max(steps - step, 0) / rate if alive and steps and rate else None,
        loss=evenly(curves.get(TRAIN_LOSS, [])),
        probes={
            name: [value for _, value in points]
            for name, points in curves.items()
            if name not in (TRAIN_LOSS, TRAIN_LR, TRAIN_GRAD_NORM)
        },
        checkpoint=checkpoint,
        health=None if record is None else [alarm.sentence for alarm in record.active],
        looked_at=record.looks[-1].step if record and record.looks else None,
        next_look=record.next_look if record else None,
        waits_at=quiet(beats) if alive else "",
        memory_gib=memory_gib(pids),
        gpus=[gpu.index for gpu in gpus if pids & set(gpu.pids)],
    )


def newest_checkpoint(root: Path) -> Checkpoint | None:
    """The newest state that was saved; its bytes are not looked at."""
    steps = layout.checkpoint_steps(root)
    if not steps:
        return None
    try:
        return Checkpoint(steps[-1], (layout.checkpoint_dir(root, steps[-1]) / "manifest.json").stat().st_mtime)
    except FileNotFoundError:  # a newer one has just taken its place
        return None


def heartbeats(work: Path) -> list[heartbeat.Beat]:
    """The ranks' last signs of life; none where several nodes share the folder.

    Each node's are by its own clock and processes, of which this machine's say nothing.
    """
    files = list(work.glob("beats*"))
    try:
        return heartbeat.read(files[0]) if len(files) == 1 else []
    except FileNotFoundError:
        return []


def quiet(beats: Sequence[heartbeat.Beat]) -> str:
    """Which ranks hold up the others, where no rank has moved for a while."""
    now = time.monotonic()
    if not beats or now - max(beat.at for beat in beats) < QUIET_SECONDS:
        return ""
    behind = min(beat.progress for beat in beats)
    ranks = ", ".join(str(beat.rank) for beat in beats if beat.progress == behind)
    first = next(beat for beat in beats if beat.progress == behind)
    since = now - max(beat.at for beat in beats)
    return f"rank {ranks} {first.phase} at step {first.step} for {since:.0f} s"
