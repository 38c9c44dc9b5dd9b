"""What the numbers support, in words, and no more."""

from __future__ import annotations

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


def difference(name_a: str, name_b: str, mean: float, low: float, high: float, seeds: int, cost: str) -> str:
    """The verdict over two strategies; `mean`, `low`, `high` in percentage points (a - b)."""
    spread = f"{mean:+.1f} points top-1 (95 % interval {low:+.1f} to {high:+.1f}, {seeds} seed{'s' * (seeds > 1)})"
    if low > 0:
        return f"At equal {cost}, {name_a} is better than {name_b}: {spread}."
    if high < 0:
        return f"At equal {cost}, {name_a} is worse than {name_b}: {spread}."
    return f"At equal {cost}, these data do not tell {name_a} from {name_b}: {spread}."
