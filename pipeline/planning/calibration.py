"""Shares of the peak that real steps reached on a device, as `everest bench gpu` measured them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple, TypedDict

from pipeline.efficiency.meters import Device, known_device
from pipeline.errors import InputError

#: What came with this version. Absent until the benchmark has run on a GPU and its file was put here.
TRACKED = Path(__file__).with_name("calibration.json")


class Calibration(TypedDict):
    """Such a file; a share is named as :func:`key` says."""

    device: str
    date: str
    torch: str
    shares: dict[str, float]


class Share(NamedTuple):
    """A share of the device's dense peak, and where it is from."""

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


def read(path: Path) -> Calibration:
    """A calibration file.

    Raises:
        InputError: there is none, or it is no such file.
    """
    try:
        content: Calibration = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not content.keys() >= Calibration.__required_keys__:
            raise ValueError(f"it has no {', '.join(sorted(Calibration.__required_keys__))}")
        shares = content["shares"].items()
        wrong = [name for name, share in shares if isinstance(share, bool) or not 0 < float(share) <= 1]
        if wrong:
            raise ValueError(f"shares outside (0, 1]: {', '.join(wrong)}")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: {error}. Cure: the calibration.json that `everest bench gpu` wrote.") from None
    return content
