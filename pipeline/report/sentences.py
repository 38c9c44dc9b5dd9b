"""What the numbers support, in words, and no more."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NotRequired, TypedDict

from pipeline.evaluation.baselines import DIFFERENCES
from pipeline.params import Params

#: Below this many trainings a bootstrap over them understates their spread noticeably.
ENOUGH_SEEDS = 5
TOP1 = "top-1"


class MetricEntry(TypedDict, total=False):
    """What a score is, where it is not top-1."""

    metric: str


class TestScore(TypedDict):
    """Top-1 in percent with its 95 % interval; the same of the mean average precision where `metric` is "mAP"."""

    top1: float
    top1_ci_low: float
    top1_ci_high: float
    metric: NotRequired[str]


class TrivialScore(TestScore):
    """What a model that knows nothing of video reaches (`everest baseline`)."""

    model: str


class JudgedScore(TestScore):
    """A score beside what chance and the best trivial model reach, in percent."""

    chance: float
    trivial: TrivialScore | None


class Counted(TypedDict):
    """How many test videos of a benchmark are in a comparison's scores, and how many are not."""

    benchmark: str
    videos: int
    left_out: NotRequired[int]


class BenchmarkResult(JudgedScore):
    """A model's test on one benchmark, scores in percent, beside what its training cost."""

    benchmark: str
    strategy: str
    keep_ratio: float
    top5: float | None
    class_mean: float | None
    calibration_error: float
    videos_ok: int
    videos_total: int
    views: int
    gmacs_per_clip: float | None
    peak_memory_gib: float | None
    clips_per_second: float | None
    wall_seconds: float | None


class Measured(TypedDict):
    """What a stage or a strategy cost, as measured; None where nothing was."""

    tokens_per_clip: float | None
    peak_memory_gib: float | None
    clips_per_second: float | None
    mfu: float | None
    energy_wh: float | None
    wall_seconds: float | None


class StrategyCost(Measured):
    """A strategy's pre-training: multiply-adds of a clip's kept tokens, of all passes over it, of the whole corpus."""

    strategy: str
    epochs: int
    gmacs_per_clip: float
    gmacs_per_corpus_clip: float
    tmacs_total: float


class Difference(TypedDict):
    """Strategy `a` minus `b` on one benchmark, in points of top-1, with its 95 % interval."""

    benchmark: str
    a: str
    b: str
    difference: float
    low: float
    high: float
    seeds: int
    metric: NotRequired[str]


def metric_of(row: MetricEntry) -> str:
    """What a score is: top-1, or the mAP of videos with several classes."""
    return row.get("metric", TOP1)


def metric_key(row: MetricEntry) -> str:
    """A score's name among tracked numbers."""
    return "top1" if metric_of(row) == TOP1 else "map"


def metric_entry(several: bool) -> MetricEntry:
    """The entry of a row that says what its score is; none beside top-1."""
    return {"metric": "mAP"} if several else {}


def sentences(results: Sequence[BenchmarkResult], params: Params) -> list[str]:
    """One statement for each benchmark, and what it leaves open."""
    lines = [text for row in results for text in (_one(row), _beside_trivial(row, params)) if text]
    lines.append(
        f"One training with one seed ({params.seed}): the intervals cover the choice of test videos, not the chance in "
        "the training. A comparison over several seeds (everest compare) says whether one strategy is better than "
        "another."
    )
    return lines


def _one(row: BenchmarkResult) -> str:
    score = (
        f"{row['top1']:.1f} % {metric_of(row)} (95 % interval {row['top1_ci_low']:.1f} to {row['top1_ci_high']:.1f})"
    )
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


def _beside_trivial(row: BenchmarkResult, params: Params) -> str:
    """Whether the model beats the best trivial one, and what to try where not; nothing where none was scored."""
    trivial = row["trivial"]
    if trivial is None:
        return ""
    interval = f"{trivial['top1_ci_low']:.1f} to {trivial['top1_ci_high']:.1f}"
    reached = f"{trivial['top1']:.1f} % ({interval}) by {trivial['model']}"
    if row["top1_ci_low"] > trivial["top1_ci_high"]:
        return f"{row['benchmark']}: that is more than the best trivial model reaches, {reached}."
    advice = ""
    if trivial["model"].startswith(DIFFERENCES):
        tried = {"clip.input: difference": params.clip.input != "rgb"}
        tried["finetune.head: places"] = params.finetune_of(row["benchmark"]).head == "places"
        if untried := " and ".join(key for key, has in tried.items() if not has):
            advice = f" It looks at differences alone, each at its place: try {untried} (docs/training.md)."
    if row["top1_ci_high"] < trivial["top1_ci_low"]:
        return f"{row['benchmark']}: a trivial model is better: {reached}. Do not build on this result.{advice}"
    return f"{row['benchmark']}: the intervals do not tell the model from the best trivial one, {reached}.{advice}"


def comparison_sentences(
    differences: Sequence[Difference], costs: Sequence[StrategyCost], equal: str, seeds: int
) -> list[str]:
    """The verdict for each pair and benchmark, its cost, and what the data leave open.

    Args:
        equal: what the pre-trainings were planned to spend alike, as in `compare.equal`.
        seeds: how many each strategy was trained with.
    """
    totals = {row["strategy"]: row["tmacs_total"] for row in costs if row["epochs"] and equal == "multiply-adds"}
    lines = [f"{row['benchmark']}. {difference(row, equal, totals)}{_resolution(row)}" for row in differences]
    lines += _relative_costs(costs)
    if _unequal(totals.values()):
        least, most = min(totals.values()), max(totals.values())
        lines.append(
            f"The budgets are unequal: {least:.3g} to {most:.3g} T multiply-adds. Epochs "
            "are whole, and with more of them budgets come closer; but a strategy that decides by clip how many tokens "
            "it keeps is planned at the cost of its keep ratio, whatever its clips turn out to keep."
        )
    if seeds == 1:
        lines.append("One seed for each strategy: the intervals hold the choice of test videos, not the chance in "
                     "training. Another seed may turn the verdict.")  # fmt: skip
    elif seeds < ENOUGH_SEEDS:
        lines.append(f"{seeds} seeds: the intervals hold the choice of test videos and the chance in training, but so "
                     "few seeds make them too narrow rather than too wide.")  # fmt: skip
    return lines


def left_out_sentences(results: Sequence[Counted]) -> list[str]:
    """For each benchmark of a comparison how many test videos are in no strategy's score."""
    counts = {row["benchmark"]: (row.get("left_out", 0), row["videos"]) for row in results}
    return [
        f"{benchmark}: {left_out} of {left_out + videos} test videos could not be scored by every training, and are "
        "in no strategy's score."
        for benchmark, (left_out, videos) in counts.items()
        if left_out
    ]


def _unequal(totals: Collection[float]) -> bool:
    """Whether budgets differ by more than a twentieth."""
    return bool(totals) and max(totals) > 1.05 * min(totals)


def difference(row: Difference, equal: str, totals: Mapping[str, float] | None = None) -> str:
    """The verdict over two strategies.

    Args:
        totals: [T multiply-adds] that the strategies' pre-trainings took, where they were planned to be equal.
    """
    a, b, seeds = row["a"], row["b"], row["seeds"]
    spread = (
        f"{row['difference']:+.1f} points {metric_of(row)} (95 % interval {row['low']:+.1f} to {row['high']:+.1f}, "
        f"{seeds} seed{'s' * (seeds > 1)})"
    )
    given = f"At equal pre-training {equal}"
    spent = [(totals or {}).get(name) for name in (a, b)]
    if _unequal([total for total in spent if total is not None]):
        given = f"At {spent[0]:.3g} and {spent[1]:.3g} T multiply-adds of pre-training"
    if "scratch" in (a, b):  # without pre-training nothing was spent on it
        given = "With the same fine-tuning"
    elif alike := _shared(a, b):
        given = f"With the same {alike}"
    a, b = (f"training from {name}" if name == "scratch" else name for name in (a, b))
    if row["low"] > 0:
        return f"{given}, {a} is better than {b}: {spread}."
    if row["high"] < 0:
        return f"{given}, {a} is worse than {b}: {spread}."
    return f"{given}, these data do not tell {a} from {b}: {spread}."


def _shared(a: str, b: str) -> str:
    """What two strategies of a comparison have in common by their names: weights, or the pre-training; else ""."""
    (first, *_), (second, *_) = (name.split("-tested-") for name in (a, b))
    if first == second:
        return "weights"
    return "pre-training" if first.split("-then-")[0] == second.split("-then-")[0] else ""


def _resolution(row: Difference) -> str:
    if row["low"] > 0 or row["high"] < 0:
        return ""
    return f" A true difference of up to about {max(0.0, -row['low'], row['high']):.0f} points could hide in this."


def _relative_costs(costs: Sequence[StrategyCost]) -> list[str]:
    """What a clip costs with the first strategy against each of the others."""
    trained = [row for row in costs if row["epochs"]]
    if len(trained) < 2:
        return []
    first = trained[0]
    parts = []
    for row in trained[1:]:
        if _shared(first["strategy"], row["strategy"]):
            continue
        part = f"{first['gmacs_per_clip'] / row['gmacs_per_clip']:.2f} times {row['strategy']}'s multiply-adds"
        if first["clips_per_second"] and row["clips_per_second"]:
            speed = first["clips_per_second"] / row["clips_per_second"]
            part += f", and {speed:.2f} times as many clips passed in a second, as measured here"
        parts.append(part)
    return [] if not parts else [f"One clip of pre-training costs {first['strategy']} {'; '.join(parts)}."]
