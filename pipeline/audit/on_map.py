"""Where a folder of videos lies on the map that was measured, and what that lets one expect."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

#: The map that comes with the project: `outputs/map/summary.json` of plans/map.yaml, copied here.
MEASURED = Path(__file__).with_name("measured.json")
#: Cells that are nearest in redundancy, of which an expectation is made: so many at most, and half of the map's.
NEAREST = 3
#: Share of tokens by which videos may lie beside the map's cells.
BESIDE = 0.05


#: A place on an axis of the map.
Value = float | int | str | bool | None


class Gain(TypedDict):
    """The first strategy minus another one at equal cost, in points of accuracy, with its 95 % interval."""

    equal: str
    against: str
    difference: float
    low: float
    high: float
    first: float
    other: float


class CellResult(TypedDict):
    """What a cell gave.

    Attributes:
        place: the value of each axis.
        tokens_needed: share of tokens that hold 80 % of the change from slot to slot, as `everest audit` measures it.
        still: share of tokens that change by less than its threshold.
        alarms: of the pre-trainings, such as that one has learned nothing.
    """

    place: dict[str, Value]
    tokens_needed: float
    still: float
    seeds: int
    gains: list[Gain]
    trivial: float | None
    alarms: list[str]
    seconds: float


class AxisFacts(TypedDict):
    """What one axis varied."""

    key: str
    centre: Value
    unit: str


class MapSummary(TypedDict):
    """A map's summary.json."""

    recipe: str
    benchmark: str
    design: str
    strategies: list[str]
    seeds: list[int]
    axes: dict[str, AxisFacts]
    cells: list[CellResult]
    commit: str
    sentences: list[str]


def place_words(place: Mapping[str, Value]) -> str:
    """`mover 0.15, keep 0.3`."""
    return ", ".join(f"{axis} {value}" for axis, value in place.items())


def comparisons(results: Sequence[CellResult]) -> list[tuple[str, str]]:
    """What cells compare: (alike in what, against whom)."""
    return list(dict.fromkeys((gain["equal"], gain["against"]) for result in results for gain in result["gains"]))


def gain_of(result: CellResult, equal: str, against: str) -> Gain:
    """One comparison of a cell."""
    return next(gain for gain in result["gains"] if (gain["equal"], gain["against"]) == (equal, against))


@functools.cache
def measured() -> MapSummary | None:
    """The map that comes with the project; None where none has been measured."""
    if not MEASURED.is_file():
        return None
    summary: MapSummary = json.loads(MEASURED.read_text(encoding="utf-8"))
    return summary


def expectation(tokens_needed: float, summary: MapSummary | None) -> str | None:
    """What videos of this redundancy let one expect of the map's first two strategies; None without a map.

    Args:
        tokens_needed: share of tokens that hold 80 % of the change.
    """
    if summary is None or not summary["cells"]:
        return None
    first, other = summary["strategies"][:2]
    equal = summary["cells"][0]["gains"][0]["equal"]
    counted = max(1, min(NEAREST, len(summary["cells"]) // 2))
    cells = sorted(summary["cells"], key=lambda cell: abs(cell["tokens_needed"] - tokens_needed))[:counted]
    low, high = _range(summary["cells"])
    here = f"{100 * tokens_needed:.0f} % of the tokens hold 80 % of the change"
    if not low - BESIDE <= tokens_needed <= high + BESIDE:
        return (
            f"These videos lie beside the map of drawn ones (docs/science.md): {here}, there {100 * low:.0f} to "
            f"{100 * high:.0f} %. It lets expect nothing: `everest compare --strategies {first},{other}` would tell."
        )
    gains = [gain_of(cell, equal, other) for cell in cells]
    near = _range(cells)
    return (
        f"Of drawn videos that are about as redundant ({here}; {_percent(*near)} in the nearest "
        f"{'cell' if counted == 1 else f'{counted} cells'} of docs/science.md's map), {first} minus {other} at equal "
        f"{equal} was "
        f"{_mean(gains):+.1f} points ({min(gain['low'] for gain in gains):+.1f} to "
        f"{max(gain['high'] for gain in gains):+.1f}). Filmed videos differ in more than that."
    )


def _range(cells: Sequence[CellResult]) -> tuple[float, float]:
    values = [cell["tokens_needed"] for cell in cells]
    return min(values), max(values)


def _percent(low: float, high: float) -> str:
    return f"{100 * low:.0f} %" if low == high else f"{100 * low:.0f} to {100 * high:.0f} %"


def _mean(gains: Sequence[Gain]) -> float:
    return sum(gain["difference"] for gain in gains) / len(gains)
