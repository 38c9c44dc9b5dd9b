"""What the benchmarks share: kinds that take turns, ratios of the same turns, named figures, memory, models."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, cast

from pipeline.errors import InputError

if TYPE_CHECKING:
    from models.autoencoder import EverestAutoencoder
    from models.classifier import EverestClassifier

#: A figure of a result, whose unit stands in its name, and a row of them as it is printed and written to JSON.
Figure: TypeAlias = "str | float | bool | Sequence[Figure] | Mapping[str, Figure] | None"
Figures: TypeAlias = dict[str, Figure]

Kind = TypeVar("Kind")
Result = TypeVar("Result")


class Spent(NamedTuple):
    """[s] of one turn, on the clock and of the processor."""

    wall: float
    cpu: float


def timed(run: Callable[[], object]) -> Spent:
    """What one call takes of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


def take_turns(
    kinds: Mapping[Kind, Callable[[int], Result]], rounds: int, warm_up: int = 1
) -> dict[Kind, list[Result]]:
    """What each kind gave in each round, called with the round's number; the rounds that warm up are not counted.

    All kinds take their turn in each round, every second time in reverse, so that whatever else the machine does meets
    them alike.
    """
    turns: dict[Kind, list[Result]] = {kind: [] for kind in kinds}
    for number in range(warm_up + rounds):
        for kind in list(kinds)[:: 1 if number % 2 else -1]:
            result = kinds[kind](number)
            if number >= warm_up:
                turns[kind].append(result)
    return turns


def median_ratio(baseline: Sequence[float], ours: Sequence[float]) -> float:
    """The median over rounds of the baseline's time over ours."""
    return statistics.median(usual / changed for usual, changed in zip(baseline, ours, strict=True))


def expect_at_least(least: int, **options: int) -> None:
    """Refuse what cannot be measured, before anything is.

    Raises:
        InputError: names the option.
    """
    for name, value in options.items():
        if value < least:
            raise InputError(f"{name} = {value}: expected at least {least}. Cure: leave the option out.")


def expect_resolution(pixels: int) -> None:
    """Refuse clips that no tokens cover.

    Raises:
        InputError: no multiple of 16 from 32.
    """
    if pixels < 32 or pixels % 16:
        raise InputError(f"resolution = {pixels}: expected a multiple of 16 from 32. Cure: 224.")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def process_bytes(field: str) -> int | None:
    """[byte] of a field of this process's status, such as RssAnon or VmHWM; None where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii", errors="replace").splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


def autoencoder(size: str, **arguments: Any) -> EverestAutoencoder:
    """A fresh model of pre-training, to train."""
    return cast("EverestAutoencoder", _network(size, True, arguments))


def classifier(size: str, **arguments: Any) -> EverestClassifier:
    """A fresh classifier, to train."""
    return cast("EverestClassifier", _network(size, False, arguments))


def _network(size: str, pretrain: bool, arguments: dict[str, Any]) -> object:
    import timm

    from models.registry import architecture

    return timm.create_model(architecture(size, pretrain), **arguments).train()
