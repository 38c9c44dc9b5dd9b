"""Random erasing: a box of normal noise, the same box in all frames of a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.data.augment_crop import draws

if TYPE_CHECKING:
    from pipeline.data.loader import Batch

#: Share of the area that is erased, and aspect ratio of the box (Zhong et al., as the recipes use it).
AREA = (0.02, 1 / 3)
ASPECT = (0.3, 1 / 0.3)
ATTEMPTS = 10


def erase_boxes(batch: Batch, probability: float, height: int, width: int) -> np.ndarray:
    """(top, left, height, width) of what is erased, [B, 4]; height 0 where nothing is."""
    u = draws(batch, "erase", 1 + 4 * ATTEMPTS)
    chosen, tries = u[:, 0] < probability, u[:, 1:].reshape(len(u), ATTEMPTS, 4)
    area = height * width * (AREA[0] + tries[..., 0] * (AREA[1] - AREA[0]))
    aspect = np.exp(np.log(ASPECT[0]) + tries[..., 1] * (np.log(ASPECT[1]) - np.log(ASPECT[0])))
    tall, wide = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fits = (tall < height) & (wide < width) & (tall > 0) & (wide > 0)
    rows, first = np.arange(len(u)), fits.argmax(axis=1)
    tall, wide, place = tall[rows, first], wide[rows, first], tries[rows, first]
    top, left = np.floor(place[:, 2] * (height - tall + 1)), np.floor(place[:, 3] * (width - wide + 1))
    boxes = np.stack([top, left, tall, wide], axis=1).astype(np.int64)
    boxes[~(chosen & fits.any(axis=1))] = 0
    return boxes


def random_erase(clip_BCTHW: Tensor, batch: Batch, probability: float) -> Tensor:
    """Fill each chosen clip's box with standard normal noise (after normalisation), in place.

    The noise comes from a generator on the clip's device that is seeded by the sample.
    """
    device = clip_BCTHW.device
    boxes = erase_boxes(batch, probability, *clip_BCTHW.shape[-2:])
    seeds = (draws(batch, "erase-noise", 1)[:, 0] * 2**53).astype(np.int64)
    generator = torch.Generator(device)
    for row in np.flatnonzero(boxes[:, 2]):
        top, left, tall, wide = boxes[row].tolist()
        part = clip_BCTHW[row, :, :, top : top + tall, left : left + wide]
        noise = torch.randn(part.shape, generator=generator.manual_seed(int(seeds[row])), device=device)
        part.copy_(noise)
    return clip_BCTHW
