"""`everest bench overhead`: what measuring and tracking cost a training step, with the store alive, dead or hanging.

The engine trains the demo's autoencoder on one batch in memory. Bare (no clock, no sink) and tracked (marks, heartbeat,
every step to the spool) take turns of some steps; the process that sends the spool is stopped during the bare turns, so
that what it takes from the machine counts against tracking. Beside it the added calls are timed alone: that figure does
not depend on what else the machine does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from pipeline.bench.harness import Figures, autoencoder, expect_at_least, take_turns, torch_threads
from pipeline.errors import EverestError, InputError
from pipeline.tracking.names import TRAIN_LOSS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.training.optim import ParameterGroup
    from pipeline.training.settings import Settings

#: untracked: bare against bare, which shows the machine's own swings. none: tracked to the spool, nobody sends it.
#: alive: an SQLite store takes it. dead: connections are refused. hanging: connections are taken and never answered.
STORES = ("untracked", "none", "alive", "dead", "hanging")
#: Drawings of pairs of turns, for an interval.
DRAWS = 1000
#: Steps of one turn, and of the first turns that do not count.
TURN, WARM_UP = 10, 10


def command(steps: int = 300, batch: int = 8, threads: int = 1, stores: tuple[str, ...] = STORES) -> list[Figures]:
    """A row for each store: medians and 99th percentiles of a step, bare and tracked.

    Args:
        steps: of each kind with each store.
        batch: clips of a step of the demo's model; the smaller, the more the fixed cost shows.

    Raises:
        InputError: too few steps for a turn, or an unknown store.
        EverestError: the process that sends did not start.
    """
    expect_at_least(TURN, steps=steps)
    expect_at_least(1, batch=batch, threads=threads)
    unknown = set(stores) - set(STORES)
    if unknown:
        raise InputError(f"stores {sorted(unknown)}: expected some of {', '.join(STORES)}. Cure: choose among them.")
    with torch_threads(threads):
        return [_row(store, steps, batch) for store in stores]


def _row(store: str, steps: int, batch: int) -> Figures:
    with tempfile.TemporaryDirectory() as temporary, _sender(store, Path(temporary)) as (spool, pid):
        contestants = {"bare": _Contestant(batch, None), "tracked": _Contestant(batch, spool)}
        for contestant in contestants.values():
            contestant.turn(WARM_UP)
        _settled(pid)
        spent = _cpu_seconds(pid)

        def turn(name: str, _: int) -> list[float]:
            _pause(pid, name == "bare")
            return contestants[name].turn(TURN)

        turns = take_turns({name: partial(turn, name) for name in contestants}, steps // TURN, warm_up=0)
        _pause(pid, False)
        spent = _cpu_seconds(pid) - spent
        bare, tracked = (list(chain.from_iterable(turns[name])) for name in contestants)
        alone = added_calls(Path(temporary) / "alone.jsonl")
        written = WARM_UP + len(tracked) if spool else 0
        kept = sum(1 for line in spool.read_text().splitlines() if f'"{TRAIN_LOSS}"' in line) if spool else 0
        return {
            "store": store,
            "steps": len(tracked),
            **_compared(bare, tracked),
            "added_calls_ms": round(1e3 * alone, 4),
            "added_calls_percent": round(100 * alone / _quantile(bare, 0.5), 3),
            "sender_cpu_ms_per_step": round(1e3 * spent / len(tracked), 4),
            "records_lost": written - kept,
        }


def _compared(bare: list[float], tracked: list[float]) -> dict[str, float]:
    """Medians and 99th percentiles; the overhead is the median over pairs of turns of the ratio of their medians."""
    turns = [
        _quantile(tracked[at : at + TURN], 0.5) / _quantile(bare[at : at + TURN], 0.5)
        for at in range(0, len(tracked) - TURN + 1, TURN)
    ]
    slow_bare, slow_tracked = _quantile(bare, 0.99), _quantile(tracked, 0.99)
    low, high = _p99_interval(bare, tracked)
    return {
        "bare_ms": round(1e3 * _quantile(bare, 0.5), 3),
        "tracked_ms": round(1e3 * _quantile(tracked, 0.5), 3),
        "overhead_percent": round(100 * (_quantile(turns, 0.5) - 1), 2),
        "bare_p99_ms": round(1e3 * slow_bare, 3),
        "tracked_p99_ms": round(1e3 * slow_tracked, 3),
        "p99_inflation_percent": round(100 * (slow_tracked / slow_bare - 1), 2),
        "p99_inflation_percent_low": round(100 * (low - 1), 2),
        "p99_inflation_percent_high": round(100 * (high - 1), 2),
    }


def _p99_interval(bare: list[float], tracked: list[float]) -> tuple[float, float]:
    """95 % interval of the ratio of 99th percentiles.

    Pairs of turns are drawn with replacement, since steps that follow each other are slow together.
    """
    import numpy as np

    turns = len(tracked) // TURN
    pairs_2NT = np.array([bare[: turns * TURN], tracked[: turns * TURN]]).reshape(2, turns, TURN)
    picked_DN = np.random.default_rng(0).integers(turns, size=(DRAWS, turns))
    slow_2D = np.quantile(pairs_2NT[:, picked_DN].reshape(2, DRAWS, -1), 0.99, axis=2)
    low, high = np.quantile(slow_2D[1] / slow_2D[0], [0.025, 0.975])
    return float(low), float(high)


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class _Contestant:
    """An engine over one batch in memory; with a spool it is measured and tracked as a real training is."""

    def __init__(self, batch: int, spool: Path | None) -> None:
        from pipeline.distributed.groups import start
        from pipeline.distributed.heartbeat import Pulse, create
        from pipeline.system.processes import StopRequest
        from pipeline.tracking.spool import Spool
        from pipeline.training.engine import Engine
        from pipeline.training.journal import Journal, NoSink, Progress
        from pipeline.training.timing import NoClock, clock_of

        ranks = start("cpu")
        task = _OneBatch(batch)
        self._work = tempfile.TemporaryDirectory()
        work = Path(self._work.name)
        create(work / "beats", 1)
        sink = NoSink() if spool is None else Spool(spool)
        self._batches = task.loader.epoch(0)
        self._engine = Engine(
            task, _settings(batch), ranks, work,
            journal=Journal(None if spool is None else work / "history.csv", sink),
            pulse=Pulse(None if spool is None else work / "beats"), stop=StopRequest(), progress=Progress("", False),
            clock=NoClock() if spool is None else clock_of(ranks.device),
        )  # fmt: skip

    def turn(self, steps: int) -> list[float]:
        """[s] of each step."""
        seconds = []
        for _ in range(steps):
            began = time.perf_counter()
            self._engine.advance(self._batches, 0)
            seconds.append(time.perf_counter() - began)
        return seconds


def _settings(batch: int) -> Settings:
    from pipeline.training.settings import Settings

    return Settings(
        seed=0, epochs=1, global_batch=batch, accumulate=1, base_lr=1e-3, min_lr=1e-5, warmup_epochs=0.0,
        betas=(0.9, 0.95), eps=1e-8, clip_grad=None, precision="fp32", ema_decay=None,
        checkpoint_every_steps=10**9, on_nonfinite="stop", max_nonfinite=0,
    )  # fmt: skip


class _OneBatch:
    """The task of a contestant: the demo's autoencoder, the same batch for ever."""

    steps_per_epoch = 10**6

    def __init__(self, batch: int) -> None:
        import torch

        torch.manual_seed(0)
        self.model: nn.Module = autoencoder("tiny", img_size=64, num_frames=16, keep_ratio=0.5, visible_ratio=0.2)
        self._clip_BCTHW = torch.randn(batch, 3, 16, 64, 64)
        self._index_B = torch.arange(batch)
        self.loader = self

    def epoch(self, epoch: int, start_micro_step: int = 0) -> Iterator[SimpleNamespace]:
        while True:
            yield SimpleNamespace(index_B=self._index_B)

    def groups(self) -> list[ParameterGroup]:
        from pipeline.training.optim import parameter_groups

        return parameter_groups(self.model, 0.05)

    def loss(self, model: nn.Module, batch: SimpleNamespace, epoch: int) -> Tensor:
        loss: Tensor = model(self._clip_BCTHW)
        return loss

    def validate(self, epoch: int, last: bool, alive: Callable[[], None]) -> dict[str, float]:
        return {}


def added_calls(path: Path, steps: int = 500) -> float:
    """[s] a step of everything that measuring and tracking add, without the step itself."""
    from pipeline.distributed.heartbeat import Pulse, create
    from pipeline.tracking.spool import Spool
    from pipeline.training.journal import Journal
    from pipeline.training.timing import HostClock, Marks

    beats = path.with_name("alone.beats")
    create(beats, 1)
    pulse, clock = Pulse(beats), HostClock()
    journal = Journal(path.with_suffix(".csv"), Spool(path))
    began = time.perf_counter()
    for step in range(steps):
        marks = Marks(clock)
        for part in ("loading", "forward", "backward", "updating", "exchange", "updating"):
            pulse.beat("updating", step)
            marks.begin(part)
        journal.step(step, 0, 1.0, 1e-3, 1.0, 0.1, marks.seconds())
    return (time.perf_counter() - began) / steps


# -- the store, and the process that sends to it ---------------------------------------------------------


@contextlib.contextmanager
def _sender(store: str, folder: Path) -> Iterator[tuple[Path | None, int | None]]:
    """The spool to write to, and the process that sends it, as a stage's own process does; None where there is none."""
    if store in ("untracked", "none"):
        yield None if store == "untracked" else folder / "spool.jsonl", None
        return
    with _address(store, folder) as uri:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "EVEREST_TRACKING_WAIT": "0"}
        child = subprocess.Popen(
            [sys.executable, "-c", _SENDER], cwd=folder, env=environment | {"PYTHONPATH": _project()},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            spool = child.stdout.readline().strip()
            if not spool:
                raise EverestError(f"the process that sends to the {store} store ended with {child.wait()}.")
            yield Path(spool), child.pid
        finally:
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()


_SENDER = """
import sys
from pathlib import Path
from pipeline.tracking import stage_run
with stage_run("pretrain", None, {}, Path("work")) as run:
    print(run.path, flush=True)
    sys.stdin.read()
"""


def _project() -> str:
    return str(Path(__file__).resolve().parents[2])


@contextlib.contextmanager
def _address(store: str, folder: Path) -> Iterator[str]:
    if store == "alive":
        yield f"sqlite:///{folder}/store.db"
        return
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    if store == "hanging":
        listener.listen(64)
    held: list[socket.socket] = []

    def take() -> None:
        with contextlib.suppress(OSError):
            while True:
                held.append(listener.accept()[0])

    if store == "hanging":
        threading.Thread(target=take, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        # close() alone would leave accept() waiting.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        for connection in [listener, *held]:
            connection.close()


def _settled(pid: int | None) -> None:
    """Return when the process that sends has imported what it needs and met its store."""
    until = time.monotonic() + 60
    while pid is not None and time.monotonic() < until:
        before = _cpu_seconds(pid)
        time.sleep(3.0)
        if _cpu_seconds(pid) - before < 0.1:
            return


def _pause(pid: int | None, stop: bool) -> None:
    if pid is not None:
        os.kill(pid, signal.SIGSTOP if stop else signal.SIGCONT)


def _cpu_seconds(pid: int | None) -> float:
    import psutil

    return 0.0 if pid is None else sum(psutil.Process(pid).cpu_times()[:2])
