"""RandAugment on whole clips: every operation, its sign and its strength hold for all frames of a clip.

The 15 operations, their ranges and the meaning of the settings are those of timm's `rand-m7-n4-mstd0.5-inc1`,
which the published fine-tuning recipes name. Two choices differ for clips: statistics (histogram, contrast's
mean) are taken over the whole clip, so that it does not flicker, and the operations run after the crop, on
the model's resolution. The kernels are torchvision's, or give the same without a copy to the device; and they
give what Pillow gives to within one grey level, only moved pictures differ at their border, which is blended
with the fill colour.

Shapes: B clips, N rounds, T frames, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as kernels

from pipeline.data import sampling
from pipeline.data.pixels.crop import draws
from pipeline.data.pixels.device import to_device
from pipeline.params.rand_augment import MAXIMUM, parse

if TYPE_CHECKING:
    from pipeline.data.batch import Batch

#: Colour of what a shifted or turned picture leaves free: ImageNet's mean.
FILL = [124.0, 116.0, 104.0]
#: uint8 [T, H, W, 3] and a strength to the changed clip.
Operation = Callable[[Tensor, float], Tensor]


def _framewise(change: Operation) -> Operation:
    """An operation on pictures [T, 3, H, W]."""
    return lambda clip_THWC, strength: change(clip_THWC.permute(0, 3, 1, 2), strength).permute(0, 2, 3, 1)


def _clipwise(change: Operation) -> Operation:
    """An operation whose statistics are over the whole clip: its frames stand above one another as one picture."""

    def changed(clip_THWC: Tensor, strength: float) -> Tensor:
        tall_CHW = clip_THWC.flatten(0, 1).permute(2, 0, 1)
        return change(tall_CHW, strength).permute(1, 2, 0).view(clip_THWC.shape)

    return changed


def _warp(pictures: Tensor, a: float, b: float, c: float, d: float, e: float, f: float) -> Tensor:
    """Pictures [T, 3, H, W] whose pixel (x, y), from the middle, comes from (ax + by + c, dx + ey + f); bilinear.

    The matrix goes to the device as numbers of the operations: torchvision's copies one, which waits for a GPU.
    """
    device, (height, width) = pictures.device, pictures.shape[-2:]
    x_W = torch.arange(width, device=device) + 0.5 - width / 2
    y_H1 = (torch.arange(height, device=device) + 0.5 - height / 2)[:, None]
    grid_HW2 = torch.stack([(a * x_W + b * y_H1 + c) * (2 / width), (d * x_W + e * y_H1 + f) * (2 / height)], -1)
    there = pictures.new_ones((len(pictures), 1, height, width), dtype=torch.float32)
    grid = grid_HW2.expand(len(pictures), -1, -1, -1)
    moved = functional.grid_sample(torch.cat([pictures.float(), there], 1), grid, align_corners=False)
    colours, share = moved[:, :3], moved[:, 3:]
    return (colours + (1 - share) * _fill(device)).round_().to(torch.uint8)


@cache
def _fill(device: torch.device) -> Tensor:
    """FILL [3, 1, 1] on the device."""
    return to_device(torch.tensor(FILL).view(3, 1, 1), device)


def _rotate(pictures: Tensor, degrees: float) -> Tensor:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _warp(pictures, cosine, -sine, 0, sine, cosine, 0)


def _shear(pictures: Tensor, across: float, down: float) -> Tensor:
    """Move rows sideways and columns down by a share of their distance to the top left corner."""
    height, width = pictures.shape[-2:]
    return _warp(pictures, 1, across, across * height / 2, down, 1, down * width / 2)


def _move(pictures: Tensor, left: float, up: float) -> Tensor:
    """Move by shares of width and height."""
    height, width = pictures.shape[-2:]
    return _warp(pictures, 1, 0, left * width, 0, 1, up * height)


def _sharpen(pictures: Tensor, factor: float) -> Tensor:
    """torchvision's, whose kernel of weights is copied to the device, from a mean of 3x3 and the middle alone."""
    values = pictures.float()
    inner = values[..., 1:-1, 1:-1]
    blurred = (functional.avg_pool2d(values, 3, stride=1) * (9 / 13)).add_(inner, alpha=4 / 13).round_()
    inner.add_(blurred.sub_(inner), alpha=1 - factor)
    return values.clamp_(0, 255).to(torch.uint8)


def _solarize_add(clip: Tensor, added: float) -> Tensor:
    """Brighten values below 128."""
    return torch.where(clip < 128, (clip.short() + int(added)).clamp_(max=255).to(torch.uint8), clip)


OPERATIONS: dict[str, Operation] = {
    "auto_contrast": _clipwise(lambda clip, _: kernels.autocontrast(clip)),
    "equalize": _clipwise(lambda clip, _: kernels.equalize(clip)),
    "invert": lambda clip, _: kernels.invert(clip),
    "rotate": _framewise(_rotate),
    "posterize": lambda clip, bits: kernels.posterize(clip, int(bits)),
    # torchvision's refuses the threshold 256, which inverts nothing.
    "solarize": lambda clip, threshold: torch.where(clip < threshold, clip, 255 - clip),
    "solarize_add": _solarize_add,
    "colour": _framewise(kernels.adjust_saturation),
    "contrast": _clipwise(kernels.adjust_contrast),
    "brightness": _framewise(kernels.adjust_brightness),
    "sharpness": _framewise(_sharpen),
    "shear_x": _framewise(lambda pictures, share: _shear(pictures, share, 0)),
    "shear_y": _framewise(lambda pictures, share: _shear(pictures, 0, share)),
    "translate_x": _framewise(lambda pictures, share: _move(pictures, share, 0)),
    "translate_y": _framewise(lambda pictures, share: _move(pictures, 0, share)),
}
NAMES = tuple(OPERATIONS)


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
        result = torch.empty_like(clip_BTHWC)
        for row, clip_THWC in enumerate(clip_BTHWC):
            for number, magnitude, sign in zip(operation_BN[row], magnitude_BN[row], sign_BN[row], strict=True):
                if number >= 0:
                    name = NAMES[number]
                    strength = level(name, float(magnitude), float(sign), self.increasing)
                    clip_THWC = OPERATIONS[name](clip_THWC, strength)
            result[row] = clip_THWC
        return result


def level(name: str, magnitude: float, sign: float, increasing: bool) -> float:
    """What a magnitude of 0..10 means to an operation (degrees, shares, factors, thresholds, bits)."""
    share = magnitude / MAXIMUM
    if name == "rotate":
        return 30.0 * share * sign
    if name.startswith("shear"):
        return 0.3 * share * sign
    if name.startswith("translate"):
        return 0.45 * share * sign
    if name == "posterize":
        bits = math.floor(4 * share)
        return 4 - bits if increasing else bits
    if name == "solarize":
        threshold = min(256, math.floor(256 * share))
        return 256 - threshold if increasing else threshold
    if name == "solarize_add":
        return min(128, math.floor(110 * share))
    if name in ("colour", "contrast", "brightness", "sharpness"):
        return max(0.1, 1 + 0.9 * share * sign) if increasing else 1.8 * share + 0.1
    return share
