"""What a part is made of: checks that run one after the other, each for itself."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.bench.gpu.rows import Row, append

#: Exit code of a part whose process cannot use the device any more; the rest of it runs in a new one.
BROKEN = 3
#: What CUDA says when all later calls of the process will fail too.
STICKY = ("CUDA error", "device-side assert", "illegal memory access", "unspecified launch failure")


class CheckFailed(Exception):
    """A check saw something else than it expected; `values` are what it saw."""

    def __init__(self, expected: str, values: dict[str, Any] | None = None) -> None:
        super().__init__(expected)
        self.values = values or {}


@dataclass(frozen=True)
class Check:
    """A name, what to do, and the [s] without which it is not begun."""

    name: str
    run: Callable[[], dict[str, Any]]
    needs: float = 1.0


def expect(true: bool, expected: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values, if what was expected of them is true.

    Raises:
        CheckFailed: it is not.
    """
    if not true:
        raise CheckFailed(f"expected {expected}", values)
    return values


def run_all(part: str, checks: Iterable[Check], results: Path, until: float, known: set[str]) -> bool:
    """Run the checks that are not `known` until the monotonic time `until`; False when the device is lost."""
    for check in checks:
        if check.name in known:
            continue
        left = until - time.monotonic()
        if left < check.needs:
            why = f"{left:.0f} s left, {check.needs:.0f} needed"
            append(results, Row(part, check.name, "left out", error=why))
            continue
        append(results, Row(part, check.name, "begun"))
        row = _row(part, check)
        append(results, row)
        _clean()
        if any(sign in row.error for sign in STICKY) and "out of memory" not in row.error:
            return False
    return True


def _row(part: str, check: Check) -> Row:
    began = time.monotonic()
    try:
        values = check.run()
    except CheckFailed as failure:
        return Row(part, check.name, "failed", failure.values, str(failure), round(time.monotonic() - began, 2))
    except Exception as error:  # noqa: BLE001 - one mistake costs one row, and the row says what it was
        text = f"{type(error).__name__}: {error}"
        return Row(part, check.name, "failed", {}, text[:2000], round(time.monotonic() - began, 2))
    return Row(part, check.name, "ok", values, "", round(time.monotonic() - began, 2))


def _clean() -> None:
    """Give back what a check left: its memory and its compiled code."""
    import torch

    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
