"""The text that sets RandAugment up, `m7-n4-mstd0.5-inc1`, as numbers."""

from __future__ import annotations

import re

from pipeline.errors import InputError

#: Magnitudes count from 0 to 10.
MAXIMUM = 10.0
#: Each chosen operation is carried out with this probability, as in timm.
PROBABILITY = 0.5


def parse(config: str) -> dict[str, float]:
    """`m7-n4-mstd0.5-inc1` as numbers; what is absent has timm's default.

    Raises:
        InputError: an unknown part, or a number out of its range.
    """
    values = {"m": 10.0, "n": 2.0, "mstd": 0.0, "inc": 0.0, "p": PROBABILITY}
    for part in config.split("-"):
        match = re.fullmatch(r"(mstd|inc|m|n|p)(\d+(?:\.\d+)?)", part)
        if match:
            values[match[1]] = float(match[2])
        elif part != "rand":
            raise InputError(
                f"rand_augment = {config!r}: {part!r} is none of m, n, mstd, inc, p with a number. "
                "Cure: for example m7-n4-mstd0.5-inc1."
            )
    if not (0 <= values["m"] <= MAXIMUM and 1 <= values["n"] <= 100 and 0 <= values["p"] <= 1):
        raise InputError(
            f"rand_augment = {config!r}: expected m in 0..10, n in 1..100, p in 0..1. "
            "Cure: for example m7-n4-mstd0.5-inc1."
        )
    if not values["mstd"] <= 100:
        raise InputError(f"rand_augment = {config!r}: expected mstd in 0..100. Cure: mstd0.5.")
    return values
