"""Where clips are cropped in training.

Boxes are [B, 4] integers (top, left, height, width), drawn on the host: they depend on sizes and random
numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data import sampling
from pipeline.data.arrays import Ints

if TYPE_CHECKING:
    from pipeline.data.batch import Batch

#: Crop places in quarters of the free height and width: corners, edge centres, centre, and the four between
#: (13, as
#: in the published multi-scale crop).
PLACES = (*((i, j) for i in (0, 2, 4) for j in (0, 2, 4)), (1, 1), (1, 3), (3, 1), (3, 3))
#: Tries of random-resized-crop before it falls back to the largest centred box.
ATTEMPTS = 10


def draws(batch: Batch, stream: str, count: int) -> np.ndarray:
    """Random numbers in [0, 1) of each sample, [B, count] float64."""
    return sampling.uniforms(batch.seed, batch.epoch, batch.sample_B.numpy(), stream, count)


def multi_scale_boxes(batch: Batch, scales: Sequence[float]) -> Ints:
    """Height and width each a scale of the short side, at most one scale apart, at one of 13 places.

    METHOD section 7. Every allowed pair of scales, and every place, is equally likely.
    """
    count = len(scales)
    pairs = [(i, j) for i in range(count) for j in range(count) if abs(i - j) <= 1]
    u = draws(batch, "multi-scale", 2)
    pair = np.asarray(pairs)[(u[:, 0] * len(pairs)).astype(int)]
    place = np.asarray(PLACES)[(u[:, 1] * len(PLACES)).astype(int)]
    sizes = batch.sizes_B2.numpy()
    side = (np.asarray(scales)[pair] * sizes.min(axis=1, keepdims=True)).astype(np.int64)
    corner = (sizes - side) * place // 4
    return np.concatenate([corner, side], axis=1)


def random_resized_boxes(batch: Batch, scale: Sequence[float], ratio: Sequence[float]) -> Ints:
    """A box anywhere with a uniform share of the frame's area and a log-uniform ratio of width to height.

    Drawn up to ten times until it fits; then the largest centred box whose ratio is within bounds.
    """
    sizes = batch.sizes_B2.numpy().astype(np.float64)
    u = draws(batch, "resized-crop", 4 * ATTEMPTS).reshape(-1, ATTEMPTS, 4)
    area = sizes.prod(axis=1)[:, None] * (scale[0] + u[..., 0] * (scale[1] - scale[0]))
    aspect = np.exp(np.log(ratio[0]) + u[..., 1] * (np.log(ratio[1]) - np.log(ratio[0])))
    height, width = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
    fits = (height >= 1) & (width >= 1) & (height <= sizes[:, :1]) & (width <= sizes[:, 1:])
    first, rows = fits.argmax(axis=1), np.arange(len(sizes))
    height, width, place = height[rows, first], width[rows, first], u[rows, first]
    top = np.floor(place[:, 2] * (sizes[:, 0] - height + 1))
    left = np.floor(place[:, 3] * (sizes[:, 1] - width + 1))
    boxes = np.stack([top, left, height, width], axis=1).astype(np.int64)
    for row in np.flatnonzero(~fits.any(axis=1)):
        boxes[row] = _largest(batch.sizes_B2[row].tolist(), ratio)
    return boxes


def _largest(size: Sequence[int], ratio: Sequence[float]) -> tuple[int, int, int, int]:
    height, width = size
    if width / height < ratio[0]:
        height = min(height, round(width / ratio[0]))
    elif width / height > ratio[1]:
        width = min(width, round(height * ratio[1]))
    return (size[0] - height) // 2, (size[1] - width) // 2, height, width
