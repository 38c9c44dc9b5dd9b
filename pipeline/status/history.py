"""A training's history.csv, read in pieces: a run of a million steps is looked at as quickly as one of a hundred."""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.tracking.names import HISTORY_COLUMNS

#: [byte] up to which a file is read whole; of a longer one, so many at its end and at each of so many places before.
WHOLE, TAIL, PIECE = 2 << 20, 64 << 10, 2 << 10
#: Points of a curve.
POINTS = 64
#: Steps whose mean time is the rate.
RECENT = 50


@dataclass(frozen=True)
class History:
    """What the rows say; `curves`: by tracked name, as (step, value) over the whole training."""

    step: int
    epoch: int | None
    rate: float | None
    curves: dict[str, list[tuple[int, float]]]


def read_history(path: Path) -> History | None:
    """The curves, the newest step and the rate; None where there is no row yet."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            head = file.readline()
            places = [0] if size <= WHOLE else [*range(0, size - TAIL - PIECE, (size - TAIL) // POINTS), size - TAIL]
            pieces = []
            for place in places:
                file.seek(max(place, len(head)))
                data = file.read(WHOLE if len(places) == 1 else TAIL if place == places[-1] else PIECE)
                # Neither the line that a piece begins in nor the one that it ends in is whole.
                pieces.append(data[data.find(b"\n") + 1 if place else 0 : data.rfind(b"\n") + 1])
    except FileNotFoundError:
        return None
    text = (head + b"".join(pieces)).decode(errors="replace")
    rows = [row for row in csv.DictReader(io.StringIO(text)) if None not in row.values()]
    trained = [row for row in rows if row.get("loss") and row["step"].isdigit()]
    if not trained:
        return None
    recent = [seconds for row in trained[-RECENT:] if (seconds := _number(row.get("seconds"))) is not None]
    curves: dict[str, list[tuple[int, float]]] = {}
    for name, column in HISTORY_COLUMNS.items():
        points = [(int(row["step"]), value) for row in rows if (value := _number(row.get(column))) is not None]
        if points:
            curves[name] = points
    epoch = trained[-1].get("epoch", "")
    return History(
        step=int(trained[-1]["step"]),
        epoch=int(epoch) if epoch.isdigit() else None,
        rate=len(recent) / sum(recent) if sum(recent) > 0 else None,
        curves=curves,
    )


def evenly(points: Sequence[tuple[int, float]]) -> list[float]:
    """So many means of (step, value) at most, each of an equal stretch of steps, the last of them of the newest."""
    if len(points) <= POINTS:
        return [value for _, value in points]
    first, steps = points[0][0], points[-1][0] - points[0][0] + 1
    stretches = itertools.groupby(points, key=lambda point: (point[0] - first) * POINTS // steps)
    return [statistics.fmean(value for _, value in stretch) for _, stretch in stretches]


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
