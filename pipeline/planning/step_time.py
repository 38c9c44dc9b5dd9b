"""The time of a data-parallel training step from its pieces: arithmetic, update, loading and the exchange of gradients.

`step = max(loader, max(arithmetic, launches) + update) + exposed exchange`. The exchange is an all-reduce, by a ring
inside a machine (Patarasu and Yuan 2009: each rank sends 2 (n-1)/n of the data), of buckets that leave as the
backward pass fills them (DDP, Li et al. 2020).
Pure functions of numbers; where the numbers come from is said in `pipeline/planning/scaling.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MIB = 2**20
#: [byte] DDP's first bucket and the others (torch's defaults).
FIRST_BUCKET, BUCKET = MIB, 25 * MIB
#: Share of forward and backward that is backward: it costs two forwards.
BACKWARD = 2 / 3
#: [byte] that fused AdamW moves for a parameter: value, gradient and two moments read, value and moments written, fp32.
UPDATE_BYTES = 28
#: [byte] of one fp32 gradient, and of the verdict on a step that the ranks agree on before the update.
GRADIENT_BYTES, VERDICT_BYTES = 4, 12


@dataclass(frozen=True)
class Fabric:
    """What ranks exchange gradients over.

    Attributes:
        link: [byte/s] per rank and direction inside a machine.
        link_latency: [s] of one hop inside a machine.
        network: [byte/s] per machine and direction, all its adapters together.
        network_latency: [s] of one hop between machines.
        per_machine: ranks of a machine.
    """

    link: float
    link_latency: float
    network: float = math.inf
    network_latency: float = 0.0
    per_machine: int = 8

    def all_reduce(self, size: float, ranks: int) -> float:
        """[s] of an all-reduce of `size` bytes: 2 (n-1)/n of them through the slowest link, and the hops' latency.

        A part travels the ring twice less one hop each time, so the latency grows with the ranks; over several machines
        a double binary tree (Jeaugey 2019, NCCL 2.4) costs the same bandwidth, and a chain in the machine plus a
        logarithm of the machines, up and down. The shorter counts.
        """
        machines = math.ceil(ranks / self.per_machine)
        turns = 2 * (ranks - 1) / ranks
        if machines == 1:
            return turns * (ranks * self.link_latency + size / self.link)
        ring = turns * ((ranks - machines) * self.link_latency + machines * self.network_latency)
        up = (self.per_machine - 1) * self.link_latency + math.ceil(math.log2(machines)) * self.network_latency
        return min(ring, 2 * up) + turns * size / min(self.link, self.network)


@dataclass(frozen=True)
class Work:
    """One optimizer step of one rank.

    Attributes:
        arithmetic: [s] of forward and backward over all micro-steps.
        launches: [s] that the host takes to launch them, while the device works.
        update: [s] of the optimizer.
        loader: [s] to load the step's clips.
        gradients: [byte] to exchange.
        accumulate: micro-steps; only the last one's backward hides the exchange.
    """

    arithmetic: float
    update: float
    loader: float
    gradients: float
    accumulate: int = 1
    launches: float = 0.0


@dataclass(frozen=True)
class StepTime:
    """[s] of a step and its parts; `exchange` is all of the all-reduce, `exposed` what backward does not hide.

    `launched`: whether `compute` is the host's launches, longer than the device's arithmetic.
    """

    compute: float
    loader: float
    exchange: float
    exposed: float
    launched: bool = False

    @property
    def total(self) -> float:
        return max(self.compute, self.loader) + self.exposed

    @property
    def limit(self) -> str:
        """The part that takes most of the step."""
        parts = {
            "launches" if self.launched else "compute": self.compute,
            "loader": self.loader,
            "communication": self.exposed,
        }
        return max(parts, key=lambda name: parts[name])


def step_time(work: Work, fabric: Fabric, ranks: int) -> StepTime:
    """The parts of a step on `ranks` ranks; one rank exchanges nothing."""
    passes, launched = max(work.arithmetic, work.launches), work.launches > work.arithmetic
    compute = passes + work.update
    if ranks == 1:
        return StepTime(compute, work.loader, 0.0, 0.0, launched)

    def of(size: float) -> float:
        return fabric.all_reduce(size, ranks)

    sizes = buckets(work.gradients)
    hidden_behind = BACKWARD * passes / work.accumulate
    verdict = of(VERDICT_BYTES)
    return StepTime(
        compute,
        work.loader,
        sum(map(of, sizes)) + verdict,
        exposed_seconds(sizes, hidden_behind, of) + verdict,
        launched,
    )


def buckets(size: float) -> list[float]:
    """[byte] of DDP's buckets in the order in which backward fills them: 1 MiB, then 25 MiB each, then the rest."""
    first = min(size, FIRST_BUCKET)
    full, rest = divmod(size - first, BUCKET)
    return [part for part in [first, *[float(BUCKET)] * int(full), rest] if part > 0]


def exposed_seconds(sizes: Sequence[float], backward: float, seconds_of: Callable[[float], float]) -> float:
    """[s] from the end of backward to the end of the exchange.

    Buckets fill evenly over `backward` seconds and are exchanged one after the other, each once it is full.
    """
    total, ready, end = sum(sizes), 0.0, 0.0
    for size in sizes:
        ready += backward * size / total
        end = max(ready, end) + seconds_of(size)
    return max(0.0, end - backward)


def fit_line(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """(latency [s], bandwidth [byte/s]) of `seconds = latency + size / bandwidth`, by least squares of relative errors.

    Relative, so that small messages fix the latency and large ones the bandwidth.
    """
    import numpy as np

    weight = 1 / np.asarray(seconds)
    columns = np.stack([np.ones(len(sizes)), np.asarray(sizes, dtype=float)], axis=1)
    (latency, slope), *_ = np.linalg.lstsq(columns * weight[:, None], np.ones(len(sizes)), rcond=None)
    return float(latency), float(1 / slope)
