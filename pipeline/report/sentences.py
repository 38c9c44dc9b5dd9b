"""What the numbers support, in words, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.params import Params


def sentences(results: list[dict[str, Any]], params: Params) -> list[str]:
    """One statement for each benchmark, and what it leaves open."""
    lines = [_one(row) for row in results]
    lines.append(
        f"One training with one seed ({params.seed}): the intervals cover the choice of test videos, not the chance in "
        "the training. A comparison over several seeds (everest compare) says whether one strategy is better than "
        "another."
    )
    return lines


def _one(row: dict[str, Any]) -> str:
    score = f"{row['top1']:.1f} % top-1 (95 % interval {row['top1_ci_low']:.1f} to {row['top1_ci_high']:.1f})"
    videos = f"{row['videos_ok']} of {row['videos_total']} test videos"
    chance = f"chance ({row['chance']:.1f} %)"
    if row["top1_ci_low"] > row["chance"]:
        verdict = f"above {chance}"
    elif row["top1_ci_high"] < row["chance"]:
        verdict = f"below {chance}: check the labels"
    else:
        verdict = f"not distinguishable from {chance}"
    missing = row["videos_total"] - row["videos_ok"]
    left_out = f" {missing} could not be read and are not in the score." if missing else ""
    return (
        f"{row['benchmark']}: the model ({row['strategy']}, keeping {row['keep_ratio']:g} of the tokens) reaches "
        f"{score} on {videos}, {verdict}.{left_out}"
    )


def comparison_sentences(summary: dict[str, Any]) -> list[str]:
    """The verdict for each pair and benchmark, its cost, and what the data leave open."""
    lines = [
        f"{row['benchmark']}. {difference(row, summary['equal'])}{_resolution(row)}" for row in summary["differences"]
    ]
    lines += _costs(summary)
    spent = [row["tmacs_total"] for row in summary["costs"] if row["epochs"]]
    if summary["equal"] == "multiply-adds" and spent and max(spent) > 1.05 * min(spent):
        lines.append(
            f"Whole epochs make the budgets unequal: {min(spent):.3g} to {max(spent):.3g} T multiply-adds. "
            "With more epochs they come closer."
        )
    seeds = len(summary["seeds"])
    if seeds == 1:
        lines.append("One seed for each strategy: the intervals hold the choice of test videos, not the chance in "
                     "training. Another seed may turn the verdict.")  # fmt: skip
    elif seeds < ENOUGH_SEEDS:
        lines.append(f"{seeds} seeds: the intervals hold the choice of test videos and the chance in training, but so "
                     "few seeds make them too narrow rather than too wide.")  # fmt: skip
    return lines


#: Below this many trainings a bootstrap over them understates their spread noticeably.
ENOUGH_SEEDS = 5


def difference(row: Mapping[str, Any], equal: str) -> str:
    """The verdict over two strategies: `a`, `b`, `difference` with `low` and `high` in points, `seeds`."""
    a, b, seeds = row["a"], row["b"], row["seeds"]
    spread = (
        f"{row['difference']:+.1f} points top-1 (95 % interval {row['low']:+.1f} to {row['high']:+.1f}, "
        f"{seeds} seed{'s' * (seeds > 1)})"
    )
    # Without pre-training nothing was spent on it.
    given = f"At equal pre-training {equal}" if "scratch" not in (a, b) else "With the same fine-tuning"
    a, b = (f"training from {name}" if name == "scratch" else name for name in (a, b))
    if row["low"] > 0:
        return f"{given}, {a} is better than {b}: {spread}."
    if row["high"] < 0:
        return f"{given}, {a} is worse than {b}: {spread}."
    return f"{given}, these data do not tell {a} from {b}: {spread}."


def _resolution(row: Mapping[str, Any]) -> str:
    if row["low"] > 0 or row["high"] < 0:
        return ""
    return f" A true difference of up to about {max(-row['low'], row['high']):.0f} points could hide in this."


def _costs(summary: dict[str, Any]) -> list[str]:
    """What a clip costs with the first strategy against each of the others."""
    trained = [row for row in summary["costs"] if row["epochs"]]
    if len(trained) < 2:
        return []
    first = trained[0]
    parts = []
    for row in trained[1:]:
        part = f"{first['gmacs_per_clip'] / row['gmacs_per_clip']:.2f} times {row['strategy']}'s multiply-adds"
        if first["clips_per_second"] and row["clips_per_second"]:
            speed = first["clips_per_second"] / row["clips_per_second"]
            part += f", and {speed:.2f} times as many clips passed in a second, as measured here"
        parts.append(part)
    return [f"One clip of pre-training costs {first['strategy']} {'; '.join(parts)}."]
