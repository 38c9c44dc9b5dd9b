"""Shares of the peak that real steps reached on a device, as `everest bench gpu` measured them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple, TypedDict

from pipeline.efficiency.meters import Device, known_device
from pipeline.errors import InputError

#: What came with this version: a file for each kind of device that the benchmark has run on.
TRACKED = Path(__file__).with_name("calibrations")


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

    Args:
        path: a file to look in; None for those of this version.

    Raises:
        InputError: a file was named and is none of these.
    """
    for known in map(read, [path] if path else sorted(TRACKED.glob("*.json"))):
        share = known["shares"].get(key(stage, size, compiled))
        if share is not None and known_device(known["device"]) == device:
            return Share(float(share), f"measured on {known['device']}, {known['date']}, torch {known['torch']}")
    return None


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
