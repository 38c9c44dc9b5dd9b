"""Plots as SVG text that follows the page's light or dark colours.

Matplotlib draws with stand-in colours; inside the page they become CSS variables, in a file of its own the
light colours. Series differ by colour (Okabe and Ito's palette, safe for colour-blind readers), marker and
dash.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict

from pipeline.system.text import printable

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float]]
Dash = str | tuple[int, tuple[int, ...]]


class Look(TypedDict):
    """How matplotlib draws one series."""

    color: str
    marker: str
    linestyle: Dash


class Score(TypedDict):
    """A score `y` with its interval against a cost `x`; `style` where a name keeps its look over several plots."""

    name: str
    x: float
    y: float
    low: float
    high: float
    style: NotRequired[int]


#: Stand-in -> (CSS variable, colour on a light page).
INK = {
    "#010101": ("--ink", "#1b1f24"),
    "#020202": ("--soft", "#5b636d"),
    "#030303": ("--rule", "#d5dae0"),
    "#a10001": ("--s1", "#0072B2"),
    "#a10002": ("--s2", "#D55E00"),
    "#a10003": ("--s3", "#009E73"),
    "#a10004": ("--s4", "#AA4499"),
    "#a10005": ("--s5", "#E69F00"),
    "#a10006": ("--s6", "#56B4E9"),
}
SERIES = ("#a10001", "#a10002", "#a10003", "#a10004", "#a10005", "#a10006")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[Dash, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))


def style(index: int) -> Look:
    """Colour, marker and dash of the series with this number."""
    place = index % len(SERIES)
    return {"color": SERIES[place], "marker": MARKERS[place], "linestyle": DASHES[place]}


def curves(
    series: Mapping[str, Points],
    *,
    title: str,
    x: str,
    y: str,
    smooth: int = 0,
    markers: bool = False,
    log: bool = False,
) -> str:
    """Lines over steps, or over powers of ten where `log`.

    `smooth` > 1 draws the moving mean over that many points, the raw line thin behind it.
    """
    figure, axes = _figure(5.6, 3.4)
    for index, points in enumerate(series.values()):
        look = style(index)
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        if smooth > 1 and len(points) > 3 * smooth:
            axes.plot(xs, ys, color=look["color"], linewidth=0.6, alpha=0.35)
            ys = moving_mean(ys, smooth)
        marker = look["marker"] if markers else None
        axes.plot(xs, ys, color=look["color"], linestyle=look["linestyle"], marker=marker, markersize=4,
                  linewidth=1.7, label=str(index))  # fmt: skip
    if log:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
    if len(series) > 1:
        _legend(figure, list(series))
    return _finish(figure, axes, title, x, y)


def intervals(scores: Sequence[Score], *, title: str, x: str, y: str) -> str:
    """Draw scores with 95 % intervals against a cost.

    The dashed line joins those of which no other is better and cheaper (the Pareto front).
    """
    figure, axes = _figure(6.4, 4.0)
    for index, score in enumerate(scores):
        look = style(score.get("style", index))
        error = arms([(score["y"], score["low"], score["high"])])
        axes.errorbar(score["x"], score["y"], yerr=error, label=str(index), color=look["color"], marker=look["marker"],
                      linestyle="none", linewidth=1.5, markersize=7, capsize=4)  # fmt: skip
    front = pareto([(score["x"], score["y"]) for score in scores])
    if len(front) > 1:
        xs, ys = zip(*front, strict=True)
        axes.plot(xs, ys, color="#020202", linestyle="--", linewidth=1, zorder=0)
    _legend(figure, [score["name"] for score in scores])
    axes.margins(x=0.12)
    return _finish(figure, axes, title, x, y)


def arms(values: Sequence[tuple[float, float, float]]) -> list[list[float]]:
    """How far the intervals of (value, low, high) reach down and up, as error bars take it.

    Not below 0, which would end the report: a bootstrap's interval need not hold its value.
    """
    return [[max(0.0, value - low) for value, low, _ in values], [max(0.0, high - value) for value, _, high in values]]


def ranges(names: Sequence[str], values: Sequence[tuple[float, float, float]], *, title: str, x: str) -> str:
    """A line for each name, from the top: a value with the low and the high end of its interval."""
    figure, axes = _figure(6.4, 1.2 + 0.24 * len(names))
    for place, (value, low, high) in enumerate(values):
        axes.plot([low, high], [place, place], color=SERIES[0], linewidth=1.5, alpha=0.55)
        axes.plot([value], [place], color=SERIES[0], marker="o", markersize=5)
    axes.set_yticks(range(len(names)), [printable(name) for name in names], fontsize=9)
    axes.invert_yaxis()
    return _finish(figure, axes, title, x, "")


def against(points: Sequence[tuple[float, float, float, float]], *, title: str, x: str, y: str) -> str:
    """Differences over something: (x, value, low, high) of each point, and a line at 0, where nothing differs."""
    figure, axes = _figure(6.4, 3.8)
    axes.axhline(0, color="#020202", linestyle="--", linewidth=1)
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    error = arms([point[1:] for point in points])
    axes.errorbar(
        xs, ys, yerr=error, color=SERIES[0], marker="o", markersize=5, linestyle="none", elinewidth=1.2, capsize=3
    )
    return _finish(figure, axes, title, x, y)


def reliability(series: Mapping[str, Sequence[tuple[float, float, float, float]]], *, title: str) -> str:
    """Accuracy against confidence, in percent: (confidence, accuracy, low, high) of each bin; the diagonal is ideal."""
    figure, axes = _figure(5.6, 4.2)
    axes.plot([0, 100], [0, 100], color="#020202", linestyle="--", linewidth=1)
    for index, points in enumerate(series.values()):
        look = style(index)
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        error = arms([p[1:] for p in points])
        axes.errorbar(xs, ys, yerr=error, color=look["color"], marker=look["marker"], linestyle=look["linestyle"],
                      linewidth=1.4, elinewidth=1, capsize=2, markersize=4.5, label=str(index))  # fmt: skip
    if len(series) > 1:
        _legend(figure, list(series))
    axes.set_xlim(0, 102)
    axes.set_ylim(0, 102)
    return _finish(figure, axes, title, "confidence (%)", "right (%)")


def bars(names: Sequence[str], values: Sequence[float], *, title: str, x: str, y: str, marked: int = 0) -> str:
    """A bar for each name, the first `marked` in another colour."""
    figure, axes = _figure(5.6, 3.4)
    colours = [SERIES[1] if place < marked else SERIES[0] for place in range(len(names))]
    axes.bar(range(len(names)), values, color=colours, width=0.85)
    axes.set_xticks(range(len(names)), [printable(name) for name in names], fontsize=9)
    return _finish(figure, axes, title, x, y)


def heat(counts: np.ndarray, *, title: str) -> str:
    """A large confusion matrix as a picture: share of each true class, row by row."""
    figure, axes = _figure(5.6, 5.2)
    share = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    image = axes.imshow(share, cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.046)
    bar.set_label("share of the true class", color="#010101")
    bar.ax.tick_params(colors="#020202")
    return _finish(figure, axes, title, "predicted class", "true class")


def moving_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean over the last `width` values at each place (fewer at the beginning)."""
    sums, total = [], 0.0
    for index, value in enumerate(values):
        total += value
        if index >= width:
            total -= values[index - width]
        sums.append(total / min(index + 1, width))
    return sums


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both: less x and more y; by rising x."""
    best, front = float("-inf"), []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if y > best:
            front.append((x, y))
            best = y
    return front


def as_file(svg: str) -> str:
    """The plot in the light page's colours, for a file of its own."""
    for stand_in, (_, light) in INK.items():
        svg = svg.replace(stand_in, light)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + svg.replace("<svg ", '<svg style="background:#ffffff" ', 1)


def in_page(svg: str) -> str:
    """The plot in the page's variables."""
    for stand_in, (variable, _) in INK.items():
        svg = svg.replace(stand_in, f"var({variable})")
    return svg


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    import matplotlib as mpl

    mpl.use("Agg")
    # Same input, same bytes: no random ids, no dates. Names are no formulas: a dollar is a dollar.
    mpl.rcParams.update({"svg.hashsalt": "everest", "svg.fonttype": "none", "font.family": "sans-serif",
                         "font.size": 10, "text.parse_math": False})  # fmt: skip
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _legend(figure: Figure, names: Sequence[str]) -> None:
    """Below the plot, where it hides nothing."""
    columns = max(1, min(len(names), 4, 72 // (max(map(len, names)) + 6)))
    legend = figure.legend(loc="outside lower center", ncols=columns, frameon=False, labelcolor="#010101", fontsize=9)
    # Not as labels of the lines: matplotlib leaves out those that begin with "_".
    for entry, name in zip(legend.get_texts(), names, strict=True):
        entry.set_text(printable(name))


def _finish(figure: Figure, axes: Axes, title: str, x: str, y: str) -> str:
    title, x, y = printable(title), printable(x), printable(y)
    axes.set_title(title, color="#010101", fontsize=11, loc="left")
    axes.set_xlabel(x, color="#010101")
    axes.set_ylabel(y, color="#010101")
    axes.tick_params(colors="#020202")
    axes.grid(color="#030303", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # Fixed points would not shrink on a narrow page.
    svg = re.sub(r'(<svg [^>]*?)\sheight="[\d.]+pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?)\swidth="([\d.]+)pt"', r'\1 width="100%"', svg, count=1)
    # Ids are made by content; two plots in one page must not share clip paths.
    unique = f"p{zlib.crc32((title + x + y).encode()):x}"
    return re.sub(r'(id="|url\(#|href="#)', rf"\1{unique}-", svg)
