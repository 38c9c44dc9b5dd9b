"""Times and curves as a line of a terminal shows them."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"


def ago(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h`, `2 days`: how long, roughly."""
    seconds = max(seconds, 0)
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.0f} days"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """Values as blocks from the lowest to the highest; one that is no number as a dot."""
    step = len(values) / width
    shown = list(values) if step <= 1 else [values[min(int((n + 1) * step), len(values)) - 1] for n in range(width)]
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return "·" * len(shown)
    low, span = min(finite), max(finite) - min(finite)
    return "".join(
        _BLOCKS[round((len(_BLOCKS) - 1) * ((value - low) / span if span else 0.5))] if math.isfinite(value) else "·"
        for value in shown
    )
