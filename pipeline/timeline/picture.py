"""The plot of a timeline: probabilities of the classes that matter over time, and the segments as bars."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.system.files import atomic_path
from pipeline.system.progress import clock
from pipeline.system.text import printable
from pipeline.timeline.segments import Cells, Segment

#: Okabe and Ito's colours, safe for colour-blind readers: as many classes have one of their own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#E69F00", "#56B4E9")
REST = "#9aa0a6"


def draw(path: Path, title: str, cells: Cells, segments: Sequence[Segment], names: Sequence[str]) -> None:
    """Write a PNG.

    Args:
        title: above the plot.
        names: of the classes. Those that cover most of the video have a colour, the segments of others are grey.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    chosen = _chosen(cells, segments, names)
    colour = {name: COLOURS[place] for place, name in enumerate(chosen)}
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    # A step for each cell; a gap where no window was.
    time = np.repeat(np.append(cells.start_K, cells.end_K[-1:]), 2)[1:-1]
    for name in chosen:
        row_K = cells.probability_KC[:, names.index(name)]
        above.plot(time, np.repeat(row_K, 2), color=colour[name], linewidth=1.6, label=printable(name))
    above.set(ylim=(-0.02, 1.02), ylabel="probability", title=printable(title))
    above.grid(axis="y", color="#e3e6ea")
    figure.legend(loc="outside right upper", frameon=False)
    lanes = _lanes(segments)
    for one in segments:
        place = lanes[one.class_name]
        below.barh(place, one.end - one.start, left=one.start, height=0.8, color=colour.get(one.class_name, REST))
    if not segments:
        below.text(0.5, 0.5, "no segment above the threshold", transform=below.transAxes, ha="center", va="center")
    below.set(
        yticks=[],
        ylim=(min(lanes.values(), default=0) - 0.6, 0.6),
        ylabel="segments",
        xlim=(time[0], time[-1]),
        xlabel="time",
    )
    below.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: _time(seconds, time[-1] - time[0])))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def _lanes(segments: Sequence[Segment]) -> dict[str, int]:
    """The row of each class: one for all, or one below the other where segments overlap."""
    overlap = any(after.start < before.end for before, after in itertools.pairwise(segments))
    names = dict.fromkeys(one.class_name for one in segments)
    return {name: -place * overlap for place, name in enumerate(names)}


def _chosen(cells: Cells, segments: Sequence[Segment], names: Sequence[str]) -> list[str]:
    """The classes with a line: those with the longest segments, then those with the highest mean probability."""
    covered = dict.fromkeys(names, 0.0)
    for one in segments:
        covered[one.class_name] += one.end - one.start
    mean = dict(zip(names, np.nanmean(cells.probability_KC, axis=0).tolist(), strict=True))
    return sorted(names, key=lambda name: (-covered[name], -mean[name]))[: len(COLOURS)]


def _time(seconds: float, span: float) -> str:
    return f"{seconds:g} s" if span < 60 else clock(max(0.0, seconds))
