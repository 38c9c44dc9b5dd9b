"""What the monitor saw of pre-trainings, for the pages: sentences, a table of looks, curves over multiply-adds spent.

Several runs of an experiment share one axis: what they have cost so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

from pipeline.monitor.record import Look, MonitorRecord, read_record, record_of
from pipeline.report.page import Columns, Section, Table, duration, number
from pipeline.report.plots import Points, curves
from pipeline.tracking import names

#: Looks in the table; evenly spread where there were more.
MOST_LOOKS = 12
CAPTION = (
    "Looks at the weights: held-out loss, that of the same predictions against another clip, and that of copying the "
    "nearest visible token, over the mean-predictor's; "
    "probes; the features' rank and spread; entropy of attention in the first and last block; the encoder's part of "
    "the gradient."
)
AXIS = "T multiply-adds spent on pre-training"


class Watched(TypedDict):
    """What a summary keeps of a monitor's record: `healthy` or the rules that hold, its sentences, all looks."""

    verdict: str
    line: str
    alarms: list[str]
    cost: float | None
    record: dict[str, object]


def watched(folder: Path) -> Watched | None:
    """The record in a pre-training's folder; None where there was no monitor."""
    record = read_record(folder)
    if record is None:
        return None
    alarms = [alarm.sentence for alarm in record.active]
    return {
        "verdict": record.verdict,
        "line": record.line,
        "alarms": alarms,
        "cost": record.cost,
        "record": asdict(record),
    }


def sentences_of(seen: Watched | None) -> list[str]:
    """For a page's first box: the alarms, or that there is none."""
    if seen is None:
        return []
    if not seen["alarms"]:
        return [f"Pre-training was healthy: {seen['line'].removesuffix(', healthy')}."]
    return [f"Pre-training, {verdict}" for verdict in seen["alarms"]]


def section_of(seen: Watched | None, plots: Sequence[str]) -> Section:
    """The looks as a table, and curves; empty without a monitor."""
    if seen is None:
        return Section("Pre-training, while it ran")
    record = record_of(seen["record"])
    cost = "" if seen["cost"] is None else f" {_cost(record, seen['cost'])}"
    note = (
        "Clips that are not trained on where there are such, always the same ones. Loss as a share of what predicting "
        "each token's mean gives: 1 is nothing learned. Probes read frozen features; docs/monitoring.md says what each "
        f"number means.{cost}"
    )
    past = [f"{alarm.what} (from step {alarm.step}, no longer)" for alarm in record.alarms if not alarm.holds]
    if past:
        note += f" Passed: {'; '.join(past)}."
    return Section("Pre-training, while it ran", note, [_table(record)], list(plots))


def _cost(record: MonitorRecord, share: float) -> str:
    """What looks took; of a training too short for more than those that come in any case, why that is much."""
    kinds = {look.long for look in record.looks}
    beside_the_last = [look for look in record.looks if look.step < record.steps]
    if len(beside_the_last) > len(kinds):
        return f"Looks took {100 * share:.1f} % of the time."
    return (
        f"Looks took {duration(record.seconds)}, {100 * share:.1f} % of the time: the first of each kind and "
        "the last are always taken, and this training was too short for others within pretrain.monitor.max_cost."
    )


def _table(record: MonitorRecord) -> Table:
    every = -(-len(record.looks) // MOST_LOOKS) if record.looks else 1
    looks = [look for place, look in enumerate(record.looks) if place % every == 0 or place == len(record.looks) - 1]

    unit, scale = ("T", 1e3) if not looks or looks[-1].gmacs >= 1e3 else ("G", 1.0)

    def percent(name: str) -> tuple[str, str]:
        probe, _, corpus = name.removeprefix(names.monitor("")).partition("/")
        return f"{names.PROBES[probe]}, {corpus} %", name

    present = {name for look in looks for name in look.metrics}
    probes = [
        name
        for probe in (names.KNN, names.RIDGE, names.KNN_MAP, names.RIDGE_MAP)
        for name in sorted(present)
        if name.startswith(names.monitor_of(probe, ""))
    ]
    columns: Columns[Look] = {
        "step": lambda look: f"{look.step:,}",
        f"{unit} mult-adds": lambda look: number(look.gmacs / scale, 2),
        "loss": lambda look: number(look.metrics.get(names.LOSS_SHARE), 3),
        "swapped": lambda look: number(_share(look, names.SWAPPED_LOSS), 3),
        "copied": lambda look: number(_share(look, names.COPY_LOSS), 3),
        **{head: _percent(name) for head, name in map(percent, probes)},
        "RankMe": lambda look: number(look.metrics.get(names.RANK_ME), 1),
        "deviation": lambda look: number(look.metrics.get(names.DEVIATION), 2),
        "uniformity": lambda look: number(look.metrics.get(names.UNIFORMITY), 2),
        "attention": _entropies,
        "encoder": lambda look: number(look.metrics.get(names.ENCODER_GRADIENT), 1, percent=True),
    }
    return Table.of(looks, columns, CAPTION)


def _percent(name: str) -> Callable[[Look], str]:
    def cell(look: Look) -> str:
        value = look.metrics.get(name)
        return number(None if value is None else 100 * value)

    return cell


def _share(look: Look, name: str) -> float | None:
    mean = look.metrics.get(names.MEAN_LOSS)
    return look.metrics[name] / mean if mean and name in look.metrics else None


def _entropies(look: Look) -> str:
    values = [value for name, value in look.metrics.items() if name.startswith(names.ATTENTION_ENTROPY)]
    return f"{values[0]:.2f} – {values[-1]:.2f}" if values else "–"


def over_cost(record: MonitorRecord, metric: str, factor: float = 1.0) -> list[tuple[float, float]]:
    """A metric of the looks over T multiply-adds."""
    return [(gmacs / 1e3, factor * value) for _, gmacs, value in record.curve(metric)]


def training_share(record: MonitorRecord, losses: Points) -> list[tuple[float, float]]:
    """The training loss of each step over the mean-predictor's, over T multiply-adds; [] before two looks."""
    mean, last = record.newest.get(names.MEAN_LOSS), record.looks[-1]
    if not mean or not last.step:
        return []
    per_step = last.gmacs / last.step / 1e3
    return [(step * per_step, loss / mean) for step, loss in losses]


def draw_one(record: MonitorRecord, losses: Points) -> dict[str, str]:
    """One pre-training's curves by file name.

    Args:
        losses: (step, loss) of its training.
    """
    share = {"training clips": training_share(record, losses), "held-out clips": over_cost(record, names.LOSS_SHARE)}
    probes: dict[str, Points] = {}
    for probe, word in names.PROBES.items():
        start = names.monitor_of(probe, "")
        for name in sorted({name for look in record.looks for name in look.metrics if name.startswith(start)}):
            probes[f"{word}, {name.removeprefix(start)}"] = over_cost(record, name, 100)
    return _plots(share, probes, {"RankMe": over_cost(record, names.RANK_ME)}, smooth=10)


def draw_several(records: Mapping[str, Sequence[MonitorRecord]]) -> dict[str, str]:
    """The curves of several runs on one axis, by file name; of each name the mean over its seeds where looks agree."""

    def means(metric: str, factor: float = 1.0) -> dict[str, Points]:
        series: dict[str, Points] = {}
        for name, seeds in records.items():
            at: dict[float, list[float]] = {}
            for record in seeds:
                for x, y in over_cost(record, metric, factor):
                    at.setdefault(round(x, 6), []).append(y)
            if at:
                series[name] = [(x, sum(ys) / len(ys)) for x, ys in sorted(at.items())]
        return series

    seen = {name for seeds in records.values() for record in seeds for look in record.looks for name in look.metrics}
    plots = _plots(means(names.LOSS_SHARE), {}, means(names.RANK_ME))
    for probe, score in ((names.RIDGE, "top-1"), (names.RIDGE_MAP, "mAP")):
        start = names.monitor_of(probe, "")
        for name in sorted(name for name in seen if name.startswith(start)):
            corpus = name.removeprefix(start)
            probed = {k: v for k, v in means(name, 100).items() if len(v) > 1}
            if probed:
                plots[f"pretrain_probe_{corpus}"] = curves(
                    probed, title=f"Ridge probe on {corpus}", x=AXIS, y=f"held-out {score} (%)", markers=True
                )
    return plots


def _plots(
    share: Mapping[str, Points], probes: Mapping[str, Points], rank: Mapping[str, Points], smooth: int = 0
) -> dict[str, str]:
    """What has two points or more."""
    share, probes, rank = ({k: v for k, v in series.items() if len(v) > 1} for series in (share, probes, rank))
    plots = {}
    if share:
        plots["pretrain_share"] = curves(
            share, title="Pre-training loss, share of the mean-predictor's", x=AXIS, y="loss / mean-predictor's",
            smooth=smooth, markers=not smooth,
        )  # fmt: skip
    if probes:
        scores = dict.fromkeys("mAP" if "mAP" in label else "top-1" for label in probes)
        plots["pretrain_probe"] = curves(
            probes, title="Probes of frozen features", x=AXIS, y=f"held-out {', '.join(scores)} (%)", markers=True
        )
    if rank:
        plots["pretrain_rank"] = curves(
            rank, title="RankMe: directions that features use", x=AXIS, y="effective rank", markers=True
        )
    return plots
