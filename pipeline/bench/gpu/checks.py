"""What a part is made of: checks that run one after the other, each for itself."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipeline.bench.gpu.rows import Row, append, read
from pipeline.bench.gpu.setting import Setting
from pipeline.bench.harness import Figures

#: Exit code of a part whose process cannot use the device any more; the rest of it runs in a new one.
BROKEN = 3
#: What CUDA says when all later calls of the process will fail too.
STICKY = ("CUDA error", "device-side assert", "illegal memory access", "unspecified launch failure")


class CheckFailed(Exception):
    """A check saw something else than it expected; `values` are what it saw."""

    def __init__(self, expected: str, values: Figures | None = None) -> None:
        super().__init__(expected)
        self.values = values or {}


@dataclass(frozen=True)
class Check:
    """A name, the [s] without which a GPU does not begin it, and what to do."""

    name: str
    needs: float
    run: Callable[[Setting], Figures]


def expect(true: bool, expected: str, values: Figures) -> Figures:
    """The values, if what was expected of them is true.

    Raises:
        CheckFailed: it is not.
    """
    if not true:
        raise CheckFailed(f"expected {expected}", values)
    return values


def run_all(part: str, checks: Iterable[Check], setting: Setting) -> bool:
    """Run the checks that have no row yet until the part's time is up; False when the device is lost."""
    known = {row.name for row in read(setting.results) if row.part == part}
    for check in checks:
        if check.name in known:
            continue
        left, needs = setting.left(), setting.needs(check.needs)
        if left < needs:
            why = f"{left:.0f} s left, {needs:.0f} needed"
            append(setting.results, Row(part, check.name, "left out", error=why))
            continue
        append(setting.results, Row(part, check.name, "begun"))
        row = _row(part, check, setting)
        append(setting.results, row)
        _clean()
        if any(sign in row.error for sign in STICKY) and "out of memory" not in row.error:
            return False
    return True


def _row(part: str, check: Check, setting: Setting) -> Row:
    began = time.monotonic()
    values: Figures = {}
    error = ""
    try:
        values = check.run(setting)
    except CheckFailed as failure:
        values, error = failure.values, str(failure)
    except Exception as mistake:  # noqa: BLE001 - one mistake costs one row, and the row says what it was
        error = f"{type(mistake).__name__}: {mistake}"[:2000]
        traceback.print_exc()  # into the part's log: where it was
    return Row(part, check.name, "failed" if error else "ok", values, error, round(time.monotonic() - began, 2))


def _clean() -> None:
    """Give back what a check left: its memory and its compiled code."""
    import torch

    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
