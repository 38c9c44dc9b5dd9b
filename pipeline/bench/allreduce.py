"""`everest bench allreduce`: Gloo's all-reduce over the loopback by message size, and the model checked on it.

Two ranks of one thread each. Rank 0 alone times the pieces (forward and backward of a few clips, the update), both time
the all-reduce; `pipeline/planning/step_time.py` puts them together, and what it says is compared with real steps:
one rank with twice the clips, two ranks under DDP. All kinds take turns, so that other load on the machine meets them
alike.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from pipeline.bench.harness import Figures, autoencoder, expect_at_least, expect_resolution, take_turns
from pipeline.errors import EverestError, InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pipeline.distributed.groups import Ranks

RANKS = 2
#: [byte] of the messages.
SIZES = tuple(4**power * 1024 for power in range(1, 9))


class Pieces(NamedTuple):
    """[s] of forward and backward of a rank's clips, and of the update; gradients' exchange is in the first."""

    arithmetic: float
    update: float


@dataclass(frozen=True)
class Times:
    """What two ranks took: medians.

    Attributes:
        parameters: of the model.
        messages: [s] of an all-reduce by [byte] of the message.
        alone, together: pieces of a step of rank 0 while the other waits, and while it computes too.
        double, exchanging: [s] of one rank's step with twice the clips, and of both under DDP.
    """

    parameters: int
    messages: dict[int, float]
    alone: Pieces
    together: Pieces
    double: float
    exchanging: float


def command(size: str = "small", clips: int = 1, resolution: int = 224, rounds: int = 5) -> Figures:
    """Messages with their times, the line fitted to them, and predicted against measured steps.

    Args:
        size: of the autoencoder.
        clips: of each rank; one rank alone takes twice as many.
        rounds: turns of each kind, whose medians count.

    Raises:
        InputError: less than one clip or round, or an unknown size.
        EverestError: the ranks failed.
    """
    from models.registry import SIZES as MODELS

    if size not in MODELS:
        raise InputError(f"size = {size!r}, expected one of {', '.join(MODELS)}. Cure: choose one of them.")
    expect_at_least(1, clips=clips, rounds=rounds)
    expect_resolution(resolution)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "times.json"
        wish = [size, str(clips), str(resolution), str(rounds), str(out)]
        done = subprocess.run(
            [
                sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}",
                "-m", "pipeline.bench.allreduce", *wish,
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode or not out.exists():
            raise EverestError(f"the two ranks ended with {done.returncode}: {done.stderr[-2000:]}")
        times = json.loads(out.read_text())
        times["messages"] = {int(size): seconds for size, seconds in times["messages"].items()}
        for kind in ("alone", "together"):
            times[kind] = Pieces(*times[kind])
        return _judged(Times(**times))


def _judged(times: Times) -> Figures:
    from pipeline.planning.step_time import GRADIENT_BYTES, Fabric, Work, fit_line, step_time

    latency, bandwidth = fit_line(list(times.messages), list(times.messages.values()))
    fabric = Fabric(link=bandwidth, link_latency=latency / RANKS, per_machine=RANKS)
    gradients = GRADIENT_BYTES * times.parameters

    def row(what: str, ranks: int, arithmetic: float, update: float, measured: float) -> Figures:
        predicted = step_time(Work(arithmetic, update, 0.0, gradients), fabric, ranks)
        return {
            "step": what,
            "predicted_ms": round(1e3 * predicted.total, 1),
            "exposed_ms": round(1e3 * predicted.exposed, 1),
            "measured_ms": round(1e3 * measured, 1),
            "error_percent": round(100 * (predicted.total / measured - 1), 1),
        }

    alone, together = times.alone, times.together
    return {
        "fabric": "Gloo over the loopback, 2 ranks of 1 thread",
        "latency_us": round(1e6 * latency, 1),
        "bandwidth_gb_per_s": round(bandwidth / 1e9, 3),
        "parameters_m": round(times.parameters / 1e6, 2),
        "messages": [
            {
                "kib": size // 1024,
                "measured_ms": round(1e3 * seconds, 3),
                "fitted_ms": round(1e3 * fabric.all_reduce(size, RANKS), 3),
            }
            for size, seconds in times.messages.items()
        ],
        "steps": [
            row("1 rank, twice the clips", 1, 2 * alone.arithmetic, alone.update, times.double),
            row("2 ranks, pieces of one alone", 2, *alone, times.exchanging),
            row("2 ranks, pieces side by side", 2, *together, times.exchanging),
        ],
    }


# -- in the ranks ----------------------------------------------------------------------------------------


class _Contestant:
    """A model of its own: under DDP, or bare. DDP without synchronisation would still meet the other rank at times."""

    def __init__(self, size: str, clips: int, side: int, exchange_with: Ranks | None = None) -> None:
        import torch

        from pipeline.distributed.groups import parallel
        from pipeline.training.optim import adamw, parameter_groups

        torch.manual_seed(0)
        model: nn.Module = autoencoder(size, img_size=side, num_frames=16, decoder_depth=4)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self._optimizer = adamw(parameter_groups(model, 0.05), (0.9, 0.95), 1e-8)
        self._model = model if exchange_with is None else parallel(model, exchange_with, "ddp")
        self._clips = torch.randn(2 * clips, 3, 16, side, side)

    def step(self, clips: int) -> Pieces:
        began = time.perf_counter()
        self._model(self._clips[:clips]).backward()
        computed = time.perf_counter()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return Pieces(computed - began, time.perf_counter() - computed)


def _rank(model: str, clips: int, resolution: int, rounds: int, out: Path) -> None:
    import torch

    from pipeline.distributed.groups import finish, start

    torch.set_num_threads(1)
    ranks = start("cpu", timeout_seconds=120)
    bare = _Contestant(model, clips, resolution)
    exchanging = _Contestant(model, clips, resolution, exchange_with=ranks)

    def turn(run: Callable[[], Pieces], everyone: bool) -> Callable[[int], Pieces]:
        def when_all_are_there(_: int) -> Pieces:
            ranks.barrier()
            return run() if everyone or ranks.main else Pieces(0.0, 0.0)

        return when_all_are_there

    kinds = {
        "alone": turn(lambda: bare.step(clips), everyone=False),
        "double": turn(lambda: bare.step(2 * clips), everyone=False),
        "together": turn(lambda: bare.step(clips), everyone=True),
        "exchanging": turn(lambda: exchanging.step(clips), everyone=True),
    }
    steps = take_turns(kinds, rounds)
    seconds = take_turns({size: partial(_all_reduce, ranks, torch.ones(size // 4)) for size in SIZES}, rounds)
    if ranks.main:
        pieces = {kind: Pieces(*map(median, zip(*some, strict=True))) for kind, some in steps.items()}
        totals = {kind: median(map(sum, some)) for kind, some in steps.items()}
        times = Times(
            bare.parameters,
            {message: median(some) for message, some in seconds.items()},
            pieces["alone"],
            pieces["together"],
            totals["double"],
            totals["exchanging"],
        )
        out.write_text(json.dumps(asdict(times)))
    finish()


def _all_reduce(ranks: Ranks, values: Tensor, _: int, times: int = 4) -> float:
    """[s] of one all-reduce, the mean of some."""
    ranks.barrier()
    began = time.perf_counter()
    for _ in range(times):
        ranks.sum_(values.zero_())
    return (time.perf_counter() - began) / times


if __name__ == "__main__":
    _rank(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
