"""What an early verdict saw and saved, for reports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from pipeline.verdict.rule import Judgement

#: Said wherever a verdict is: what its probe is known to be worth.
CAUTION = (
    "The early verdict goes by a k-NN probe of frozen features, which was not predictive on drawn videos: over 18 "
    "pre-trainings of the recipe drawn it did not rank them as their fine-tuned accuracy did (docs/monitoring.md). "
    "Before you rely on it, compare once without it on your own videos."
)


class Saved(TypedDict):
    """What stopping a strategy saved of its pre-trainings; its fine-tunings and tests come on top.

    Attributes:
        after: share of the budget after which it was stopped.
        tmacs: [T multiply-adds] of forward passes; `hours`, `eur`: None where unknown, or without a price.
    """

    strategy: str
    after: float
    tmacs: float
    hours: float | None
    eur: float | None


class Verdict(TypedDict):
    """The judgements of all looks, and what was saved."""

    confidence: float
    slices: int
    judgements: list[Judgement]
    saved: list[Saved]


def sentences(verdict: Verdict) -> Iterator[str]:
    """Who was stopped: when, why, what it saved; else that none was. Last, what the probe is worth."""
    percent = f"{100 * verdict['confidence']:g} %"
    for saved in verdict["saved"]:
        last = [one for one in verdict["judgements"] if one["strategy"] == saved["strategy"] and one["futile"]]
        look = max(one["look"] for one in last)
        gaps = [
            f"{100 * (one['best'] - one['score']):.1f} points behind {one['rival']} on {one['benchmark']} (interval "
            f"{100 * one['low']:.1f} to {100 * one['high']:.1f}, at its last pace it closes {100 * one['reach']:.1f})"
            for one in last
            if one["look"] == look
        ]
        parts = [f"{saved['tmacs']:.3g} T multiply-adds"]
        parts += [f"{saved['hours']:.2g} h"] if saved["hours"] is not None else []
        parts += [f"{saved['eur']:.2f} EUR"] if saved["eur"] is not None else []
        yield (
            f"{saved['strategy']} was stopped after {100 * saved['after']:.0f} % of its pre-training: its probe is "
            f"{' and '.join(gaps)}, at {percent} confidence over all looks. Saved: {', '.join(parts)}, and its "
            "fine-tunings."
        )
    if not verdict["saved"]:
        yield f"No strategy was stopped early: none was behind beyond catching up, at {percent} confidence."
    yield CAUTION
