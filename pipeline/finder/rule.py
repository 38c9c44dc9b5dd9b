"""From a sweep of learning rates to the one that it suggests: pure functions of the curve.

Source: Smith, Cyclical Learning Rates for Training Neural Networks (WACV 2017, section 3.3): train some steps while the
rate grows, and read the useful range off the loss. The rule itself is ours, in words in RULE.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Weight of what was before in the smoothed loss.
MEMORY = 0.9
#: The sweep has diverged where the smoothed loss is above the first one by this share of it.
DIVERGED = 0.25
#: The suggestion is the rate of the lowest loss over this.
SAFETY = 3.0
#: The loss has to fall below that of the first steps by more than so many standard deviations of the smoothed loss.
FIRST, NOISE = 10, 8.0
RULE = (
    f"the rate at which the smoothed loss of the sweep was lowest, over {SAFETY:g}: a training stays at its peak for "
    "longer than a sweep does"
)


@dataclass(frozen=True)
class Suggestion:
    """What a sweep says.

    Attributes:
        rate: suggested; None where the curve supports none.
        lowest: rate of the lowest smoothed loss.
        steepest: rate at which it fell fastest.
        why: the rule, or why there is no suggestion and what to do.
    """

    rate: float | None
    lowest: float | None
    steepest: float | None
    why: str


def smoothed(losses: Sequence[float]) -> list[float]:
    """The exponential mean of losses, without the bias of its beginning."""
    mean, out = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = MEMORY * mean + (1 - MEMORY) * loss
        out.append(mean / (1 - MEMORY**number))
    return out


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether going on would tell nothing more."""
    if not math.isfinite(losses[-1]):
        return True
    smooth = smoothed(losses)
    return smooth[-1] > smooth[0] * (1 + DIVERGED)


def suggest(rates: Sequence[float], losses: Sequence[float], current: float) -> Suggestion:
    """The suggested rate of a sweep.

    Args:
        rates: ascending; the last loss may be no number.
        current: the rate that is set now, for the words.
    """
    finite = [(rate, loss) for rate, loss in zip(rates, losses, strict=True) if math.isfinite(loss)]
    if len(finite) < FIRST:
        why = f"the loss was no number after {len(finite)} steps: --low must be smaller"
        return Suggestion(None, None, None, why)
    rates, losses = [rate for rate, _ in finite], [loss for _, loss in finite]
    smooth = smoothed(losses)
    place = min(range(len(smooth)), key=smooth.__getitem__)
    jumps = [b - a for a, b in itertools.pairwise(losses)]
    noise = math.sqrt(sum(jump**2 for jump in jumps[: max(len(jumps) // 4, 2)]) / max(len(jumps) // 4, 2) / 2)
    fall = sum(losses[:FIRST]) / FIRST - smooth[place]
    slopes = [b - a for a, b in itertools.pairwise(smooth[: place + 1])]
    steepest = rates[1 + min(range(len(slopes)), key=slopes.__getitem__)] if slopes else None
    if fall <= max(NOISE * noise * math.sqrt((1 - MEMORY) / (1 + MEMORY)), 1e-6 * abs(smooth[0])):
        why = f"the loss fell by {fall:.3g}, no more than its noise: nothing was learned at any rate of the sweep"
        return Suggestion(None, rates[place], steepest, why)
    if place == len(smooth) - 1:
        why = f"the loss still falls at {rates[-1]:.3g}, the highest rate of the sweep: a higher --high"
        return Suggestion(None, rates[place], steepest, why)
    rate = float(f"{rates[place] / SAFETY:.2g}")
    factor = current / rate
    beside = "near the one that is set" if 0.5 <= factor <= 2 else f"the one that is set is {factor:.2g} times as high"
    return Suggestion(rate, rates[place], steepest, f"{RULE}; {beside}")
