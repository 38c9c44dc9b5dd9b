"""Which strategies can still win: from the probe's scores after each slice, by a rule that is written down here.

After slice k of K every strategy's probe is held against the best one's, on the same clips. The interval of their
difference holds at every look at once: of the chance of error 1 - confidence the look k may spend 1 / (k (k + 1)) (the
shares add up to 1, however many looks there are), divided among all pairs and benchmarks (Bonferroni). A strategy is
futile where even the interval's lower end, less what it would catch up by closing the gap in each slice that is left as
fast as in the last one, leaves it behind. What the interval cannot know stays an assumption, and reports say so: that
the gap does not close faster later, and that the probe ranks as the fine-tuned models will.

Shapes: S seeds, V clips.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from pipeline.verdict.interval import mean_interval

Floats = npt.NDArray[np.float64]
#: strategy -> benchmark -> how right the probe is on each clip [S, V], in [0, 1], after one slice.
Scores = Mapping[str, Mapping[str, Floats]]
#: The first look that may stop one: how fast a gap closes takes two.
FIRST_LOOK = 2


class Judgement(TypedDict):
    """A strategy against the best one on a benchmark after a slice; means over clips, in [0, 1].

    Attributes:
        score, best: of its probe and of the best strategy's.
        low, high: the interval of best - score.
        reach: what it would still catch up at the pace of the last slice.
        futile: `low` is above `reach`.
    """

    look: int
    strategy: str
    rival: str
    benchmark: str
    score: float
    best: float
    low: float
    high: float
    reach: float
    futile: bool


def spent_alpha(look: int, confidence: float, comparisons: int) -> float:
    """The chance of error of one interval at a look, counted from 1."""
    return (1 - confidence) / (look * (look + 1)) / comparisons


def judge(
    looks: Sequence[Scores], slices: int, confidence: float, protected: Collection[str] = ()
) -> tuple[list[Judgement], dict[str, int]]:
    """All judgements, and the look after which each strategy that cannot win was stopped.

    Args:
        looks: after each slice so far; a strategy that was stopped is absent from then on.
        protected: strategies that run to the end in any case.
    """
    judgements: list[Judgement] = []
    stopped: dict[str, int] = {}
    if not looks:
        return judgements, stopped
    strategies, benchmarks = len(looks[0]), len(next(iter(looks[0].values()), {}))
    comparisons = max(strategies * (strategies - 1) * benchmarks, 1)
    for look, scores in enumerate(looks, 1):
        alive = {name: by_benchmark for name, by_benchmark in scores.items() if name not in stopped}
        alpha = spent_alpha(look, confidence, comparisons)
        before = looks[look - 2] if look > 1 else {}
        for name in alive:
            found = [_judgement(look, name, one, alive, before, slices, alpha) for one in alive[name]]
            held = [one for one in found if one is not None]
            judgements += held
            if name not in protected and len(held) == len(found) and held and all(one["futile"] for one in held):
                stopped[name] = look
    return judgements, stopped


def _judgement(
    look: int, name: str, benchmark: str, alive: Scores, before: Scores, slices: int, alpha: float
) -> Judgement | None:
    """None for the best one itself."""
    scores = {other: float(found[benchmark].mean()) for other, found in alive.items()}
    rival = max(scores, key=lambda other: scores[other])
    if rival == name:
        return None
    gap_V = _gap(alive[rival][benchmark], alive[name][benchmark])
    low, high = mean_interval(gap_V, alpha, -1.0, 1.0)
    reach = 0.0
    if rival in before and name in before:
        last = float(_gap(before[rival][benchmark], before[name][benchmark]).mean())
        reach = max(0.0, last - float(gap_V.mean())) * (slices - look)
    futile = FIRST_LOOK <= look < slices and low > reach
    return {
        "look": look,
        "strategy": name,
        "rival": rival,
        "benchmark": benchmark,
        "score": scores[name],
        "best": scores[rival],
        "low": low,
        "high": high,
        "reach": reach,
        "futile": futile,
    }


def _gap(one_SV: Floats, other_SV: Floats) -> Floats:
    """Difference on each clip, mean over seeds, in an order that has nothing to do with the clips."""
    gap_V = one_SV.mean(axis=0) - other_SV.mean(axis=0)
    return np.asarray(gap_V[np.random.default_rng(0).permutation(len(gap_V))])
