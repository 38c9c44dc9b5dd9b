"""What a map says: its cells as rows, and sentences of where the first strategy wins, loses, or neither is known."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.audit.on_map import CellResult, MapSummary, comparisons, gain_of, place_words
from pipeline.map.plan import MapPlan
from pipeline.tracking.context import code_tags


def summarise(plan: MapPlan, results: Sequence[CellResult]) -> MapSummary:
    """The map of these finished cells."""
    return {
        "recipe": plan.recipe,
        "benchmark": plan.benchmark,
        "design": plan.design,
        "strategies": list(plan.strategies),
        "seeds": list(plan.seeds),
        "axes": {name: {"key": axis.key, "centre": axis.centre, "unit": axis.unit} for name, axis in plan.axes.items()},
        "cells": list(results),
        "commit": code_tags()["git.commit"],
        "sentences": sentences(plan.strategies[0], results),
    }


def sentences(first: str, results: Sequence[CellResult]) -> list[str]:
    """One for each comparison, and one for pre-trainings with an alarm."""
    lines = []
    for equal, against in comparisons(results):
        gains = [(result, gain_of(result, equal, against)) for result in results]
        better = [result for result, gain in gains if gain["low"] > 0]
        worse = [result for result, gain in gains if gain["high"] < 0]
        lines.append(
            f"At equal {equal}, {first} is better than {against} in {len(better)} of {len(results)} cells and worse in "
            f"{len(worse)}; in the others the 95 % interval holds 0."
            + (f" Worse at: {'; '.join(place_words(cell['place']) for cell in worse)}." if worse else "")
        )
    alarmed = [result for result in results if result["alarms"]]
    if alarmed:
        lines.append(
            f"In {len(alarmed)} of {len(results)} cells a pre-training raised an alarm; what such a cell says of "
            "strategies may be what its training lacks."
        )
    below = [
        result
        for result in results
        if result["trivial"] is not None
        and max(score for gain in result["gains"] for score in (gain["first"], gain["other"])) < result["trivial"]
    ]
    if below:
        lines.append(f"In {len(below)} of {len(results)} cells a trivial model is better than all that were trained.")
    return lines
