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
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.errors import EverestError, InputError

RANKS = 2
#: [byte] of the messages.
SIZES = tuple(4**power * 1024 for power in range(1, 9))


def command(size: str = "small", clips: int = 1, resolution: int = 224, rounds: int = 5) -> dict[str, Any]:
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
    if clips < 1 or rounds < 1 or resolution < 32 or resolution % 16:
        raise InputError(
            f"clips = {clips}, rounds = {rounds}, resolution = {resolution}: expected at least 1, at least 1, and a "
            "multiple of 16 from 32. Cure: leave them out."
        )
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "times.json"
        wish = json.dumps({"size": size, "clips": clips, "resolution": resolution, "rounds": rounds, "out": str(out)})
        done = subprocess.run(
            [
                sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}",
                "-m", "pipeline.bench.allreduce", wish,
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode or not out.exists():
            raise EverestError(f"the two ranks ended with {done.returncode}: {done.stderr[-2000:]}")
        return _judged(json.loads(out.read_text()))


def _judged(times: dict[str, Any]) -> dict[str, Any]:
    from pipeline.planning.step_time import GRADIENT_BYTES, Fabric, Work, fit_line, step_time

    messages = {int(key): value for key, value in times["messages"].items()}
    latency, bandwidth = fit_line(list(messages), list(messages.values()))
    fabric = Fabric(link=bandwidth, link_latency=latency / RANKS, per_machine=RANKS)
    gradients = GRADIENT_BYTES * times["parameters"]

    def row(what: str, ranks: int, arithmetic: float, update: float, measured: float) -> dict[str, Any]:
        found = step_time(Work(arithmetic, update, 0.0, gradients), fabric, ranks)
        return {
            "step": what,
            "predicted_ms": round(1e3 * found.whole, 1),
            "exposed_ms": round(1e3 * found.exposed, 1),
            "measured_ms": round(1e3 * measured, 1),
            "error_percent": round(100 * (found.whole / measured - 1), 1),
        }

    alone, together = times["alone"], times["together"]
    return {
        "fabric": "Gloo over the loopback, 2 ranks of 1 thread",
        "latency_us": round(1e6 * latency, 1),
        "bandwidth_gb_per_s": round(bandwidth / 1e9, 3),
        "parameters_m": round(times["parameters"] / 1e6, 2),
        "messages": [
            {
                "kib": size // 1024,
                "measured_ms": round(1e3 * seconds, 3),
                "fitted_ms": round(1e3 * fabric.all_reduce(size, RANKS), 3),
            }
            for size, seconds in messages.items()
        ],
        "steps": [
            row("1 rank, twice the clips", 1, 2 * alone["arithmetic"], alone["update"], times["double"]),
            row("2 ranks, pieces of one alone", 2, alone["arithmetic"], alone["update"], times["exchanging"]),
            row("2 ranks, pieces side by side", 2, together["arithmetic"], together["update"], times["exchanging"]),
        ],
    }


# -- in the ranks ----------------------------------------------------------------------------------------


class _Contestant:
    """A model of its own: under DDP, or bare. DDP without synchronisation would still meet the other rank at times."""

    def __init__(self, wish: dict[str, Any], ranks: Any, exchange: bool) -> None:
        import timm
        import torch

        import models  # noqa: F401 - registers the names with timm
        from models.registry import architecture
        from pipeline.distributed.groups import parallel
        from pipeline.training.optim import adamw, parameter_groups

        torch.manual_seed(0)
        shape = {"img_size": wish["resolution"], "num_frames": 16, "decoder_depth": 4}
        model: Any = timm.create_model(architecture(wish["size"], pretrain=True), **shape)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self._optimizer = adamw(parameter_groups(model, 0.05), (0.9, 0.95), 1e-8)
        self._model = parallel(model, ranks, "ddp") if exchange else model
        side = wish["resolution"]
        self._clips = {n * wish["clips"]: torch.randn(n * wish["clips"], 3, 16, side, side) for n in (1, 2)}

    def step(self, clips: int) -> tuple[float, float]:
        """([s] of forward and backward, [s] of the update)."""
        began = time.perf_counter()
        self._model(self._clips[clips]).backward()
        computed = time.perf_counter()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return computed - began, time.perf_counter() - computed


def _rank(wish: dict[str, Any]) -> None:
    import torch

    from pipeline.distributed.groups import finish, start

    torch.set_num_threads(1)
    ranks = start("cpu", timeout_seconds=120)
    bare, exchanging = _Contestant(wish, ranks, exchange=False), _Contestant(wish, ranks, exchange=True)
    clips = wish["clips"]
    kinds: dict[str, Callable[[], tuple[float, float]]] = {
        "alone": lambda: bare.step(clips) if ranks.main else (0.0, 0.0),
        "double": lambda: bare.step(2 * clips) if ranks.main else (0.0, 0.0),
        "together": lambda: bare.step(clips),
        "exchanging": lambda: exchanging.step(clips),
    }
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    messages: dict[int, list[float]] = defaultdict(list)
    for number in range(wish["rounds"] + 1):
        for kind, run in kinds.items():
            ranks.barrier()
            taken = run()
            if number:  # the first round warms up
                found[kind].append(taken)
        for size in SIZES:
            seconds = _all_reduce(ranks, torch.ones(size // 4))
            if number:
                messages[size].append(seconds)
    if ranks.main:
        medians = {
            kind: {"arithmetic": median(a for a, _ in taken), "update": median(u for _, u in taken)}
            for kind, taken in found.items()
        }
        whole = {kind: median(a + u for a, u in taken) for kind, taken in found.items()}
        result = {
            "parameters": bare.parameters,
            "messages": {size: median(taken) for size, taken in messages.items()},
            "alone": medians["alone"],
            "together": medians["together"],
            "double": whole["double"],
            "exchanging": whole["exchanging"],
        }
        Path(wish["out"]).write_text(json.dumps(result))
    finish()


def _all_reduce(ranks: Any, values: Any, times: int = 4) -> float:
    """[s] of one all-reduce, the mean of some."""
    ranks.barrier()
    began = time.perf_counter()
    for _ in range(times):
        ranks.sum_(values.zero_())
    return (time.perf_counter() - began) / times


if __name__ == "__main__":
    _rank(json.loads(sys.argv[1]))
