"""Figures as PDF: vectors, fonts embedded, one column wide, told apart without colours too.

Colours are Okabe and Ito's, as in the reports; each series has a marker and a dash of its own. More strategies than
have looks are numbered beside their points and listed below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline import layout
from pipeline.report.collect import read_history
from pipeline.report.plots import DASHES, INK, MARKERS, SERIES, arms, pareto
from pipeline.report.sentences import metric_of
from pipeline.system.text import printable
from pipeline.tracking import names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipeline.report.collect import Summary as Experiment
    from pipeline.report.comparison import StrategyResult
    from pipeline.report.comparison import Summary as Comparison
    from pipeline.report.sentences import StrategyCost

#: [inch] One column of a two-column page.
WIDTH = 3.3
COLOURS = [INK[stand_in][1] for stand_in in SERIES]
INK_COLOUR, SOFT, RULE = (INK[f"#0{n}0{n}0{n}"][1] for n in (1, 2, 3))
#: Most names that a legend holds readably.
LEGEND = 6
#: A cost of pre-training, the name of its file, its axis.
COSTS: tuple[tuple[Callable[[StrategyCost], float | None], str, str], ...] = (
    (lambda cost: cost["gmacs_per_clip"], "multiply_adds", "G multiply-adds per clip of pre-training"),
    (lambda cost: cost["wall_seconds"], "time", "pre-training, s"),
    (lambda cost: cost["peak_memory_gib"], "memory", "pre-training, peak memory, GiB"),
    (lambda cost: cost["energy_wh"], "energy", "pre-training, Wh"),
)


class PaperFigure(NamedTuple):
    """A PDF's name, without its end, and what it shows."""

    name: str
    caption: str


class Interval(NamedTuple):
    """A value with its 95 % interval."""

    name: str
    value: float
    low: float
    high: float


def draw_experiment(summary: Experiment, folder: Path) -> list[PaperFigure]:
    """Scores of all benchmarks of one kind, and validation while fine-tuning."""
    drawn: list[PaperFigure] = []
    for number, called in enumerate(dict.fromkeys(metric_of(row) for row in summary["results"]), 1):
        rows = [row for row in summary["results"] if metric_of(row) == called]
        name = f"experiment_{number}"
        scored = [Interval(row["benchmark"], row["top1"], row["top1_ci_low"], row["top1_ci_high"]) for row in rows]
        intervals(folder / f"{name}.pdf", scored, f"test {called} (%)", None, None)
        drawn.append(PaperFigure(name, f"Test {called} of recipe {summary['recipe']} with 95 % intervals"))
        series = {row["benchmark"]: _validation(row["benchmark"]) for row in rows}
        series = {benchmark: points for benchmark, points in series.items() if points}
        if series:
            name = f"experiment_curves_{number}"
            lines(folder / f"{name}.pdf", series, {}, f"validation {called} (%)")
            drawn.append(PaperFigure(name, f"Validation {called} while fine-tuning{_grey(series)}"))
    return drawn


def _validation(benchmark: str) -> list[tuple[float, float]]:
    """(step, validation score in percent) of a benchmark's fine-tuning."""
    history = read_history(layout.output_dir("finetune", benchmark) / "history.csv")
    points = history.get(names.VAL_TOP1) or history.get(names.VAL_MAP, [])
    return [(step, 100 * value) for step, value in points]


def draw_comparison(summary: Comparison, folder: Path) -> list[PaperFigure]:
    """Scores, differences, scores against each cost and learning curves of a comparison, for each benchmark."""
    drawn: list[PaperFigure] = []
    for number, benchmark in enumerate(summary["curves"], 1):
        rows = [row for row in summary["results"] if row["benchmark"] == benchmark]
        if rows:
            drawn += _draw_benchmark(summary, benchmark, rows, number, folder)
    return drawn


def _draw_benchmark(
    summary: Comparison, benchmark: str, rows: Sequence[StrategyResult], end: int, folder: Path
) -> list[PaperFigure]:
    """The figures of one benchmark; files are numbered, for its name may hold what a file or LaTeX cannot."""
    costs = {row["strategy"]: row for row in summary["costs"]}
    looks = {strategy: place for place, strategy in enumerate(costs)}
    called, chance, trivial = metric_of(rows[0]), rows[0]["chance"], rows[0]["trivial"]
    scored = [Interval(row["strategy"], row["top1"], row["top1_ci_low"], row["top1_ci_high"]) for row in rows]
    beside = f"; dashed: the best trivial model ({trivial['model']})" if trivial else ""
    caption = f"{benchmark}: test {called} with its 95 % interval. Dotted: chance{beside}"
    drawn = [PaperFigure(f"scores_{end}", caption)]
    intervals(folder / f"scores_{end}.pdf", scored, f"test {called} (%)", chance, trivial and trivial["top1"])
    differences = [
        Interval(row["b"], row["difference"], row["low"], row["high"])
        for row in summary["differences"]
        if row["benchmark"] == benchmark
    ]
    if differences:
        first = summary["differences"][0]["a"]
        intervals(folder / f"differences_{end}.pdf", differences, f"{first} minus it (points)", 0.0, None)
        caption = f"{benchmark}: {first} minus each other strategy on the same test videos, with 95 % intervals"
        drawn.append(PaperFigure(f"differences_{end}", caption))
    for cost_of, name, axis in COSTS:
        points = [(one, cost) for one in scored if (cost := cost_of(costs[one.name])) is not None]
        if any(cost for _, cost in points):
            against(folder / f"{name}_{end}.pdf", points, looks, axis, f"test {called} (%)")
            caption = (
                f"{benchmark}: test {called} and 95 % interval against the cost; the line: what no other beats in both"
            )
            drawn.append(PaperFigure(f"{name}_{end}", caption))
    series = {strategy: points for strategy, points in summary["curves"][benchmark].items() if points}
    if series:
        lines(folder / f"curves_{end}.pdf", series, looks, f"validation {called} (%)")
        caption = f"{benchmark}: validation {called} while fine-tuning, mean over seeds{_grey(series)}"
        drawn.append(PaperFigure(f"curves_{end}", caption))
    return drawn


def _grey(series: Mapping[str, object]) -> str:
    return f"; grey: {len(series) - LEGEND} more" if len(series) > LEGEND else ""


def intervals(path: Path, rows: Sequence[Interval], x: str, line: float | None, second: float | None) -> None:
    """A row for each name, from the top: value and interval, beside one or two lines to compare with."""
    figure, axes = _figure(0.62 + 0.155 * len(rows))
    for place, row in enumerate(rows):
        axes.plot([row.low, row.high], [place, place], color=COLOURS[0], linewidth=1.1)
        axes.plot([row.value], [place], color=COLOURS[0], marker="o", markersize=3.2)
    if line is not None:
        axes.axvline(line, color=SOFT, linewidth=0.8, linestyle=":", zorder=0)
    if second is not None:
        axes.axvline(second, color=COLOURS[1], linewidth=0.8, linestyle="--", zorder=0)
    axes.set_yticks(range(len(rows)), [printable(row.name) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color=RULE, linewidth=0.4)
    _save(figure, axes, path, x, "")


def against(path: Path, points: Sequence[tuple[Interval, float]], looks: Mapping[str, int], x: str, y: str) -> None:
    """Scores with their intervals against a cost, and the front of those that no other beats in both."""
    numbered = len(points) > LEGEND
    height = 2.3 + 0.115 * (-(-len(points) // (2 if numbered else 3)))
    figure, axes = _figure(height)
    for place, (one, cost) in enumerate(points):
        look = looks.get(one.name, place)
        error = arms([(one.value, one.low, one.high)])
        axes.errorbar(cost, one.value, yerr=error, color=_colour(look), marker=_marker(look), markersize=4,
                      linewidth=0.9, capsize=2, linestyle="none", label=str(place))  # fmt: skip
        if numbered:
            axes.annotate(str(place + 1), (cost, one.value), xytext=(3, 2), textcoords="offset points", fontsize=5.5)
    front = pareto([(cost, one.value) for one, cost in points])
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=SOFT, linestyle="--", linewidth=0.8, zorder=0)
    axes.grid(color=RULE, linewidth=0.4)
    axes.margins(x=0.1)
    names = [f"{place + 1} {one.name}" if numbered else one.name for place, (one, _) in enumerate(points)]
    _legend(figure, names, 2 if numbered else 3)
    _save(figure, axes, path, x, y)


def lines(path: Path, series: Mapping[str, Sequence[tuple[float, float]]], looks: Mapping[str, int], y: str) -> None:
    """Curves over steps: the first ones each with its look, all others thin and grey."""
    named = list(series)[:LEGEND]
    figure, axes = _figure(2.2 + 0.12 * -(-len(named) // 3))
    for strategy in list(series)[LEGEND:]:
        axes.plot(*zip(*series[strategy], strict=True), color=RULE, linewidth=0.6, zorder=0)
    for place, strategy in enumerate(named):
        look = looks.get(strategy, place)
        axes.plot(*zip(*series[strategy], strict=True), color=_colour(look), linestyle=DASHES[look % len(DASHES)],
                  marker=_marker(look), markersize=2.5, linewidth=1.0, label=str(place))  # fmt: skip
    axes.grid(color=RULE, linewidth=0.4)
    _legend(figure, named, 3)
    _save(figure, axes, path, "optimizer step of fine-tuning", y)


def _colour(look: int) -> str:
    return COLOURS[look % len(COLOURS)]


def _marker(look: int) -> str:
    """Another marker where colours come round again, so that no two of the first 30 look alike."""
    return MARKERS[(look + look // len(COLOURS)) % len(MARKERS)]


def _figure(height: float) -> tuple[Figure, Axes]:
    import matplotlib as mpl

    mpl.use("Agg")
    # Letters stay letters (type 42), names are no formulas, and the same numbers give the same bytes.
    mpl.rcParams.update({"pdf.fonttype": 42, "font.family": "sans-serif", "font.size": 7, "text.parse_math": False,
                         "axes.linewidth": 0.5, "xtick.major.width": 0.5, "ytick.major.width": 0.5})  # fmt: skip
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _legend(figure: Figure, names: Sequence[str], columns: int) -> None:
    """Below the plot, where it hides nothing; in fewer columns where names are long."""
    if len(names) < 2:
        return
    columns = max(1, min(columns, 60 // (max(map(len, names)) + 6)))
    legend = figure.legend(loc="outside lower center", ncols=min(columns, len(names)), frameon=False, fontsize=6,
                           columnspacing=1.0, handletextpad=0.4, labelspacing=0.25)  # fmt: skip
    # Not as labels of the lines: matplotlib leaves out those that begin with "_".
    for entry, name in zip(legend.get_texts(), names, strict=True):
        entry.set_text(printable(name))


def _save(figure: Figure, axes: Axes, path: Path, x: str, y: str) -> None:
    axes.set_xlabel(printable(x))
    axes.set_ylabel(printable(y))
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK_COLOUR, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
