"""From windows that overlap to segments: which class a video shows from when to when.

Shapes: W windows in order, C classes, K cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.arrays import Floats, Ints


@dataclass(frozen=True)
class Segment:
    """A stretch of a video with one class; `score` is the class's mean probability over it."""

    start: float
    end: float
    class_name: str
    score: float


@dataclass(frozen=True)
class Cells:
    """A video cut where a window begins or ends.

    Attributes:
        start_K, end_K: seconds.
        probability_KC: mean of the windows that cover a cell; NaN where none does.
    """

    start_K: Floats
    end_K: Floats
    probability_KC: Floats


def meeting_ends(start_W: Floats, end_W: Floats, first_W: Ints, last_W: Ints, frames: int) -> Floats:
    """Ends [W] of windows, in seconds; one that is followed by the next sampled frame's lasts until that one begins.

    Args:
        first_W, last_W: numbers of each window's first and last frame.
        frames: sampled frames of a window.
    """
    step = np.ceil(np.median((last_W - first_W) / (frames - 1))) if frames > 1 else 1
    apart = first_W[1:] - last_W[:-1]
    ends = end_W.copy()
    ends[:-1] = np.where((apart > 0) & (apart <= step), start_W[1:], end_W[:-1])
    return ends


def cells_of(start_W: Floats, end_W: Floats, probability_WC: Floats) -> Cells:
    """Mean probabilities over time; starts and ends ascend."""
    edges = np.unique(np.round(np.concatenate([start_W, end_W]), 6))
    middle_K = (edges[:-1] + edges[1:]) / 2
    first_K = np.searchsorted(end_W, middle_K, "right")
    after_K = np.searchsorted(start_W, middle_K, "right")
    zero = np.zeros((1, probability_WC.shape[1]))
    sum_WC = np.concatenate([zero, np.cumsum(probability_WC, axis=0, dtype=np.float64)])
    count_K1 = np.maximum(after_K - first_K, 0)[:, None]
    total_KC = sum_WC[np.maximum(after_K, first_K)] - sum_WC[first_K]
    mean_KC = np.divide(total_KC, count_K1, out=np.full(total_KC.shape, np.nan), where=count_K1 > 0)
    return Cells(edges[:-1], edges[1:], mean_KC)


def merge(
    cells: Cells, names: Sequence[str], threshold: float, shortest: float = 0.0, several: bool = False
) -> list[Segment]:
    """Neighbouring cells of one most probable class as segments, in order of time.

    Args:
        names: of the classes.
        threshold: cells whose most probable class has less belong to no segment.
        shortest: seconds; shorter segments are left out.
        several: a video may show several classes at a time: each has segments of its own, which may overlap.
    """
    if several:
        return _of_each_class(cells, names, threshold, shortest)
    runs: list[list[int]] = []
    for cell, row_C in enumerate(cells.probability_KC):
        if np.isnan(row_C[0]) or row_C.max() < threshold:
            continue
        joins = runs and runs[-1][-1] == cell - 1
        if joins and cells.probability_KC[runs[-1][-1]].argmax() == row_C.argmax():
            runs[-1].append(cell)
        else:
            runs.append([cell])
    segments = [_segment(cells, run, int(cells.probability_KC[run[0]].argmax()), names) for run in runs]
    return [one for one in segments if one.end - one.start >= shortest]


def _of_each_class(cells: Cells, names: Sequence[str], threshold: float, shortest: float) -> list[Segment]:
    """Neighbouring cells in which a class reaches the threshold, for each class; in order of time, then of classes."""
    segments: list[Segment] = []
    for number in range(len(names)):
        reached = np.flatnonzero(np.nan_to_num(cells.probability_KC[:, number], nan=-1.0) >= threshold)
        runs = np.split(reached, np.flatnonzero(np.diff(reached) > 1) + 1)
        segments += [_segment(cells, run.tolist(), number, names) for run in runs if len(run)]
    return sorted((one for one in segments if one.end - one.start >= shortest), key=lambda one: one.start)


def _segment(cells: Cells, run: list[int], number: int, names: Sequence[str]) -> Segment:
    length_K = cells.end_K[run] - cells.start_K[run]
    score = float(np.average(cells.probability_KC[run, number], weights=length_K))
    return Segment(float(cells.start_K[run[0]]), float(cells.end_K[run[-1]]), names[number], score)
