"""RandAugment on whole clips: every operation, its sign and its strength hold for all frames of a clip.

The 15 operations, their ranges and the meaning of the settings are those of timm's `rand-m7-n4-mstd0.5-inc1`,
which the published fine-tuning recipes name. Two choices differ for clips: statistics (histogram, contrast's
mean) are taken over the whole clip, so that it does not flicker, and the operations run after the crop, on
the model's resolution.

Shapes: B clips, N rounds, G clips that share an operation, T frames, H x W pixels.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.data import augment_ops as ops
from pipeline.data import sampling
from pipeline.data.augment_crop import draws
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.data.loader import Batch

#: Magnitudes count from 0 to 10.
MAXIMUM = 10.0
#: Each chosen operation is carried out with this probability, as in timm.
PROBABILITY = 0.5
NAMES = tuple(ops.OPERATIONS)


class RandAugment:
    """n operations of magnitude m on every clip.

    Args:
        config: parts joined by "-": `m7` magnitude, `n4` operations, `mstd0.5` deviation of the magnitude, `inc1`
        strength grows with magnitude in every operation, `p0.5` probability of each. A leading `rand` is allowed.

    Raises:
        InputError: an unknown part.
    """

    def __init__(self, config: str) -> None:
        values = parse(config)
        self.magnitude, self.rounds = values["m"], int(values["n"])
        self.deviation, self.increasing = values["mstd"], bool(values["inc"])
        self.probability = values["p"]

    def plan(self, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Operation [B, N] (-1: none), magnitude [B, N] in 0..10, sign [B, N] of -1 or 1."""
        shape = (len(batch.sample_B), self.rounds, 3)
        u = draws(batch, "rand-augment", 3 * self.rounds).reshape(shape)
        operation = np.where(u[..., 1] < self.probability, (u[..., 0] * len(NAMES)).astype(int), -1)
        samples = batch.sample_B.numpy()
        noise = sampling.normals(batch.seed, batch.epoch, samples, "rand-magnitude", self.rounds)
        magnitude = np.clip(self.magnitude + self.deviation * noise, 0, MAXIMUM)
        return operation, magnitude, np.where(u[..., 2] < 0.5, -1.0, 1.0)

    def __call__(self, clip_BTHWC: Tensor, batch: Batch) -> Tensor:
        """uint8 [B,T,H,W,3] in and out, on the clip's device."""
        operation_BN, magnitude_BN, sign_BN = self.plan(batch)
        for turn in range(self.rounds):
            for number, name in enumerate(NAMES):
                rows = np.flatnonzero(operation_BN[:, turn] == number)
                if not len(rows):
                    continue
                strength = level(name, magnitude_BN[rows, turn], sign_BN[rows, turn], self.increasing)
                strength_G = torch.from_numpy(strength).float().to(clip_BTHWC.device)
                rows_G = torch.from_numpy(rows).to(clip_BTHWC.device)
                changed = ops.OPERATIONS[name](clip_BTHWC.index_select(0, rows_G), strength_G)
                clip_BTHWC = clip_BTHWC.index_copy(0, rows_G, changed)
        return clip_BTHWC


def level(name: str, magnitude: np.ndarray, sign: np.ndarray, increasing: bool) -> np.ndarray:
    """What a magnitude of 0..10 means to an operation (degrees, shares, factors, thresholds, bits)."""
    share = magnitude / MAXIMUM
    if name == "rotate":
        return 30.0 * share * sign
    if name.startswith("shear"):
        return 0.3 * share * sign
    if name.startswith("translate"):
        return 0.45 * share * sign
    if name == "posterize":
        bits = np.floor(4 * share)
        return 4 - bits if increasing else bits
    if name == "solarize":
        threshold = np.minimum(256, np.floor(256 * share))
        return 256 - threshold if increasing else threshold
    if name == "solarize_add":
        return np.minimum(128, np.floor(110 * share))
    if name in ("colour", "contrast", "brightness", "sharpness"):
        return np.maximum(0.1, 1 + 0.9 * share * sign) if increasing else 1.8 * share + 0.1
    return share


def parse(config: str) -> dict[str, float]:
    """`m7-n4-mstd0.5-inc1` as numbers; what is absent has timm's default.

    Raises:
        InputError: an unknown part, or a number out of its range.
    """
    values = {"m": 10.0, "n": 2.0, "mstd": 0.0, "inc": 0.0, "p": PROBABILITY}
    for part in config.split("-"):
        found = re.fullmatch(r"(mstd|inc|m|n|p)(\d+(?:\.\d+)?)", part)
        if found:
            values[found[1]] = float(found[2])
        elif part != "rand":
            raise InputError(
                f"rand_augment = {config!r}: {part!r} is none of m, n, mstd, inc, p with a number. "
                "Cure: for example m7-n4-mstd0.5-inc1."
            )
    if not (0 <= values["m"] <= MAXIMUM and values["n"] >= 1 and 0 <= values["p"] <= 1):
        raise InputError(
            f"rand_augment = {config!r}: expected m in 0..10, n of at least 1, p in 0..1. "
            "Cure: for example m7-n4-mstd0.5-inc1."
        )
    if not math.isfinite(values["mstd"]):
        raise InputError(f"rand_augment = {config!r}: mstd must be finite. Cure: mstd0.5.")
    return values
