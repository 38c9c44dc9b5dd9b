"""Shares of the peak that real steps reached on a device, as `everest bench gpu` measured them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.efficiency.meters import Device, known_device
from pipeline.errors import InputError

#: What came with this version. Absent until the benchmark has run on a GPU and its file was put here.
TRACKED = Path(__file__).with_name("calibration.json")
#: What such a file must hold.
KEYS = {"device", "date", "torch", "shares"}


class Share(NamedTuple):
    """A measured share of the device's dense peak, and where it is from."""

    mfu: float
    origin: str


def measured_share(device: Device, stage: str, size: str, compiled: bool, path: Path | None = None) -> Share | None:
    """The share for just this device, stage, size and way of running; None where none was measured.

    Raises:
        InputError: a file was named and is none of these.
    """
    if path is None and not TRACKED.exists():
        return None
    known = read(path or TRACKED)
    if known_device(known["device"]) != device:
        return None
    share = known["shares"].get(key(stage, size, compiled))
    if share is None:
        return None
    return Share(float(share), f"measured on {known['device']}, {known['date']}, torch {known['torch']}")


def key(stage: str, size: str, compiled: bool) -> str:
    """The name of a share in the file."""
    return f"{stage} {size} {'compiled' if compiled else 'eager'}"


def read(path: Path) -> dict[str, Any]:
    """A calibration file.

    Raises:
        InputError: there is none, or it is no such file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not found.keys() >= KEYS:
            raise ValueError(f"it has no {', '.join(sorted(KEYS))}")
        wrong = [n for n, share in found["shares"].items() if isinstance(share, bool) or not 0 < float(share) <= 1]
        if wrong:
            raise ValueError(f"shares outside (0, 1]: {', '.join(wrong)}")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {error}. Cure: the calibration.json that `everest bench gpu` wrote.") from None
    return found
