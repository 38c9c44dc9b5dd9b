"""Trials of whole trainings: stopped, killed, hanging and wrong ranks.

Ranks are forked from this process (torch is imported once), except where signals, stalls and kills go through the real
launcher and torchrun.
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from ports import free_port
from safetensors.torch import load_file

from pipeline.distributed import ends
from pipeline.distributed.heartbeat import Pulse, create, read
from pipeline.distributed.launch import Watch, launch
from pipeline.distributed.rank import live
from pipeline.errors import Interrupted
from pipeline.system.processes import StopRequest
from pipeline.training.checkpoint import Checkpoints
from tests.faults import checkpoint_trials, toy
from tests.faults.figure import Figure

# Autograd counts devices at a process's first backward and refuses to run in forks where it found one. Whatever enters
# a FakeTensorMode before that leaves a sham CUDA device to be found, so the first backward comes before any test.
if not torch.cuda.is_available():
    torch.ones(1, requires_grad=True).backward()

#: [s] A forked rank that has not ended by then is ended, as one that hangs where no Python runs.
FORK_SECONDS = 600


def forked(
    work: Path, ranks: int, wish: dict[str, Any] | None = None, train: Callable[..., None] = toy.train
) -> list[ends.RankEnd]:
    """Run the toy training (or another body) as forked ranks to their end; the ranks' records, by rank."""
    work.mkdir(parents=True, exist_ok=True)
    if wish is not None:
        (work / "toy.json").write_text(json.dumps(wish))
    shutil.rmtree(work / ends.FOLDER, ignore_errors=True)
    create(work / "beats", ranks)
    port = free_port()
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            signal.alarm(FORK_SECONDS)
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
            os._exit(_rank(work, train))
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if -signal.SIGALRM in codes:
        raise TimeoutError(f"forked ranks did not end within {FORK_SECONDS} s; exit codes by rank: {codes}")
    for rank, code in enumerate(codes):
        if not ends.file(work, rank).exists():
            ends.record(work, ends.RankEnd.without_a_word(rank, code))
    return sorted(ends.read_all(work), key=lambda end: end.rank)


def _rank(work: Path, train: Callable[..., None]) -> int:
    def body(ranks: Any, pulse: Pulse, stop: StopRequest) -> None:
        train(work, ranks, pulse, stop)

    try:
        return live(work, body, "cpu")
    except BaseException:
        logging.exception("a forked rank failed outside its body")
        return 1


def result(work: Path) -> dict[str, torch.Tensor]:
    """Parameters, moments, averages and generators at the end of a run."""
    return load_file(work / "result.safetensors")


def losses(work: Path) -> list[float]:
    """The loss of every step, in order."""
    with (work / "history.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> int:
    """How many tensors are missing or differ in any bit."""
    names = one.keys() | other.keys()
    return sum(n not in one or n not in other or not _same_bits(one[n], other[n]) for n in names)


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bytes(a.numpy().tobytes()) == bytes(b.numpy().tobytes())


def stop_and_resume(folder: Path, ranks: int, accumulate: int, stops: list[int], row: int = 2) -> Figure:
    """Row 2: stop before micro-step k, resume, compare every bit at the end with a run that never stopped."""
    wish = {
        "accumulate": accumulate,
        "ema_decay": 0.9,
        "rank": 0,
        "epochs": 3,
        "size": 48,
        "checkpoint_every_steps": 5,
    }
    forked(folder / "whole", ranks, wish)
    whole, curve = result(folder / "whole"), losses(folder / "whole")
    bad = 0
    for stop in stops:
        work = folder / f"stop-{stop}"
        stopped = all(end.state == "interrupted" for end in forked(work, ranks, {**wish, "stop_at": stop}))
        forked(work, ranks)
        bad += not stopped or differing(whole, result(work)) > 0 or losses(work) != curve
    name = f"stop and resume, {ranks} rank{'s' * (ranks > 1)}, accumulation {accumulate}"
    return Figure(row, name, len(stops), bad, f"{len(whole)} tensors compared bit for bit")


def crash_and_resume(folder: Path, crashes: list[int]) -> Figure:
    """Row 2: kill -9 both ranks mid-epoch; from the newest checkpoint on, the curve is the same to the bit."""
    wish = {"accumulate": 2, "rank": 0, "epochs": 3, "size": 48, "checkpoint_every_steps": 3}
    forked(folder / "whole", 2, wish)
    whole, curve = result(folder / "whole"), losses(folder / "whole")
    bad = 0
    for crash in crashes:
        work = folder / f"crash-{crash}"
        forked(work, 2, {**wish, "kill_at": crash})
        forked(work, 2)
        bad += differing(whole, result(work)) > 0 or losses(work) != curve
    return Figure(2, "kill -9 of a rank, then resume", len(crashes), bad, "parameters, moments, generators, losses")


def other_ranks(folder: Path, pairs: list[tuple[int, int]], stop: int = 7) -> Figure:
    """Row 4: stop with some ranks, resume with others; every sample once an epoch, the same losses."""
    wish = {"dropout": 0.0, "rank": 0, "trace": True, "epochs": 3, "size": 48}
    forked(folder / "whole", 1, wish)
    curve = losses(folder / "whole")
    wrong, worst = 0, 0.0
    for before, after in pairs:
        work = folder / f"{before}-{after}"
        forked(work, before, {**wish, "stop_at": stop})
        forked(work, after)
        seen = Counter((work / "trace.txt").read_text().split("\n")[:-1])
        wrong += 3 * 48 - len(seen) + sum(count - 1 for count in seen.values())
        worst = max(worst, *(abs(a - b) for a, b in zip(curve, losses(work), strict=True)))
    names = ", ".join(f"{a} to {b}" for a, b in pairs)
    return Figure(
        4, f"resume on other ranks ({names})", len(pairs) * 144, wrong, f"largest loss difference {worst:.1e}"
    )


def signals(folder: Path, ranks: int = 2, names: tuple[str, ...] = ("SIGINT", "SIGTERM", "SIGUSR1")) -> Figure:
    """Row 8: each stopping signal to the launcher, through torchrun; saved at the step boundary, then continued."""
    bad, seconds = 0, []
    for name in names:
        work = folder / name
        work.mkdir(parents=True)
        wish = {"seconds": 0.05, "epochs": 40, "checkpoint_every_steps": 100000}
        (work / "toy.json").write_text(json.dumps(wish))
        sent: list[float] = []
        threading.Thread(target=_signal_at_step, args=(work, 5, getattr(signal, name), sent)).start()
        with contextlib.suppress(Interrupted):
            launch("tests.faults.toy", [], ranks=ranks, work=work, threads=1)
            bad += 1
        seconds.append(time.monotonic() - sent[0])
        done = len(losses(work))
        bad += done < 5 or checkpoint_trials.newest_step(Checkpoints(work / "checkpoints")) != done
        forked(work, ranks, wish | {"seconds": 0.0})
        bad += len(losses(work)) != 40 * 8
    return Figure(8, ", ".join(names), len(names), bad, f"steps lost 0, longest stop {max(seconds):.1f} s")


def _signal_at_step(work: Path, step: int, number: int, sent: list[float]) -> None:
    """Send `number` to this process when all its ranks reached `step`."""
    until = time.monotonic() + 240
    while time.monotonic() < until:
        beats = read(work / "beats") if (work / "beats").exists() else []
        if beats and min(beat.step for beat in beats) >= step:
            break
        time.sleep(0.02)
    sent.append(time.monotonic())
    os.kill(os.getpid(), number)


def nonfinite(folder: Path, policy: str) -> Figure:
    """Row 9: NaN on one of two ranks; both agree before the update, no checkpoint is poisoned, nobody hangs."""
    work = folder / policy
    began = time.monotonic()
    ended = forked(work, 2, {"nan_at": 9, "rank": 1, "on_nonfinite": policy, "epochs": 3})
    seconds = time.monotonic() - began
    expected = "failed" if policy == "stop" else "done"
    bad = sum(end.state != expected for end in ended)
    bad += not (work / "nonfinite-000000009.json").exists()
    checkpoints = Checkpoints(work / "checkpoints")
    for step in checkpoints.steps():
        tensors = checkpoints.load(step).tensors
        bad += sum(not bool(value.isfinite().all()) for value in tensors["model"].values())
    return Figure(9, f"NaN on one rank, policy {policy}", 1, bad, f"{seconds:.1f} s in all, both ranks {expected}")


def stalls(folder: Path, what: str, stall_seconds: float = 3.0) -> Figure:
    """Row 10: a rank hangs, is frozen (SIGSTOP) or killed; it is named, its stack dumped, the run restarted."""
    work = folder / what
    work.mkdir(parents=True)
    (work / "toy.json").write_text(json.dumps({what: 7, "rank": 1, "epochs": 3}))
    began = time.monotonic()
    with _captured() as messages:
        launch("tests.faults.toy", [], ranks=2, work=work, threads=1, watch=Watch(stall_seconds, 1))
    text = " ".join(messages)
    bad = int(what != "kill_at" and "rank 1" not in text)
    bad += not messages
    return Figure(
        10,
        f"rank 1: {what}",
        1,
        bad,
        f"named and finished after one restart, {time.monotonic() - began:.0f} s in all",
    )


@contextlib.contextmanager
def _captured() -> Iterator[list[str]]:
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Keep()
    logger = logging.getLogger("pipeline.distributed.launch")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
