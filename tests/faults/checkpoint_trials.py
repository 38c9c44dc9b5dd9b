"""Trials of checkpoints on disk: killed writers, damaged and missing files, files that carry code."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import EverestError
from pipeline.training.checkpoint import Checkpoints
from tests.faults.figure import Figure


def newest_step(checkpoints: Checkpoints) -> int | None:
    """The step of the newest intact checkpoint."""
    checkpoint = checkpoints.newest()
    return None if checkpoint is None else checkpoint.step


def kill_while_writing(folder: Path, trials: int) -> Figure:
    """Row 1: kill -9 at a random moment of a stream of checkpoint writes; is the newest one readable?"""
    chance = random.Random(0)
    unreadable = 0
    for _ in range(trials):
        before, until = Checkpoints(folder).steps(), time.monotonic() + 60
        child = os.fork()
        if child == 0:
            _write_for_ever(folder)
        while Checkpoints(folder).steps() == before and time.monotonic() < until:
            time.sleep(0.002)  # a busy machine writes late
        time.sleep(chance.random() * 0.1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        checkpoints = Checkpoints(folder)
        steps = checkpoints.steps()
        unreadable += bool(steps) and newest_step(checkpoints) != steps[-1]
    unreadable += newest_step(Checkpoints(folder)) is None
    return Figure(
        1,
        "kill -9 during a checkpoint write",
        trials,
        unreadable,
        f"{Checkpoints(folder).steps()[-1]} written",
    )


def _write_for_ever(folder: Path) -> None:
    checkpoints = Checkpoints(folder)
    tensors = {"model": {f"w{i}": torch.full((128, 128), float(i)) for i in range(8)}}
    step = (checkpoints.steps() or [0])[-1]
    with contextlib.suppress(OSError):
        while True:
            step += 1
            checkpoints.write(step, tensors, {"step": step})
    os._exit(1)


def damage(folder: Path, trials: int) -> Figure:
    """Row 5: one flipped bit or a zeroed page anywhere in the newest checkpoint."""
    chance = random.Random(1)
    checkpoints = Checkpoints(folder)
    tensors = {"model": {"w": torch.randn(200, 100)}, "optimizer": {"w|exp_avg": torch.randn(200, 100)}}
    missed = 0
    logging.disable(logging.WARNING)
    for trial in range(trials):
        shutil.rmtree(folder)
        folder.mkdir()
        checkpoints.write(1, tensors, {"step": 1})
        newest = checkpoints.write(2, tensors, {"step": 2})
        path = chance.choice(sorted(newest.iterdir()))
        content = bytearray(path.read_bytes())
        if trial % 2 and len(content) > 4096:
            at = chance.randrange(0, len(content) - 4095)
            content[at : at + 4096] = bytes(4096)
        else:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        missed += newest_step(checkpoints) != 1
    logging.disable(logging.NOTSET)
    return Figure(5, "bit flips and zeroed pages", trials, missed, "fell back to the one before each time")


def incomplete(folder: Path, trials: int) -> Figure:
    """Row 6: truncated, missing, disk full (a real full file system is a limit on the file size), read-only."""
    import resource

    chance = random.Random(2)
    checkpoints = Checkpoints(folder)
    tensors = {"model": {"w": torch.randn(200, 100)}}
    silent = 0
    logging.disable(logging.WARNING)
    for trial in range(trials):
        shutil.rmtree(folder)
        folder.mkdir()
        checkpoints.write(1, tensors, {"step": 1})
        if trial % 3 == 2:
            # A write beyond the limit fails as on a full disk; the signal that comes with it is ignored.
            before, handler = (
                resource.getrlimit(resource.RLIMIT_FSIZE),
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
            )
            resource.setrlimit(resource.RLIMIT_FSIZE, (chance.randrange(1, 80_000), before[1]))
            checkpoints.save(2, tensors, {"step": 2})
            try:
                checkpoints.wait()
                silent += 1
            except EverestError:
                silent += newest_step(checkpoints) != 1 or bool(list(folder.glob(".*.tmp")))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
                signal.signal(signal.SIGXFSZ, handler)
            continue
        path = chance.choice(sorted(checkpoints.write(2, tensors, {"step": 2}).iterdir()))
        content = path.read_bytes()
        path.unlink()
        if trial % 3:
            path.write_bytes(content[: chance.randrange(len(content))])
        silent += newest_step(checkpoints) != 1
    logging.disable(logging.NOTSET)
    return Figure(6, "truncated, missing, disk full", trials, silent)


def crash_while_pruning(folder: Path, trials: int) -> Figure:
    """Row 7: kill -9 while old checkpoints are removed; at least two complete ones remain."""
    chance = random.Random(3)
    violations = 0
    for _ in range(trials):
        shutil.rmtree(folder, ignore_errors=True)
        many = Checkpoints(folder, keep=8)
        for step in range(1, 8):
            many.write(step, {f"part{i}": {"w": torch.zeros(4)} for i in range(20)}, {})
        child = os.fork()
        if child == 0:
            with contextlib.suppress(OSError):
                Checkpoints(folder, keep=2)._prune()
            os._exit(0)
        time.sleep(chance.random() * 0.006)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left = Checkpoints(folder)
        intact = sum(_loads(left, step) for step in left.steps())
        violations += intact < 2 or intact != len(left.steps())
    return Figure(7, "crash while old checkpoints are pruned", trials, violations)


def _loads(checkpoints: Checkpoints, step: int) -> bool:
    try:
        checkpoints.load(step)
    except EverestError:
        return False
    return True


def code_in_files(folder: Path) -> Figure:
    """Row 20: a pickle in the place of a checkpoint's file and of its state is refused unread."""
    mark = folder / "executed"
    payload = pickle.dumps(_Payload(str(mark)))
    checkpoints = Checkpoints(folder / "checkpoints")
    bad = 0
    for name in ("model.safetensors", "state.json", "manifest.json"):
        checkpoints.write(1, {"model": {"w": torch.zeros(2)}}, {})
        (folder / "checkpoints" / "step-000000001" / name).write_bytes(payload)
        logging.disable(logging.WARNING)
        bad += newest_step(checkpoints) is not None
        logging.disable(logging.NOTSET)
    return Figure(20, "checkpoints that carry code", 3, bad + mark.exists(), "executed 0")


class _Payload:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.mark,)
