"""Where clips are cropped, and the batched crop and resize.

Boxes are [B, 4] integers (top, left, height, width), drawn on the host: they depend on sizes and random
numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data import sampling
from pipeline.data.buffers import Buffers
from pipeline.data.sampling import Ints

if TYPE_CHECKING:
    from pipeline.data.loader import Batch

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
    """Height and width each a scale of the short side, at most one scale apart, at one of 13 places (METHOD
    section 7).

    Every allowed pair of scales, and every place, is equally likely.
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
    """A box with a uniform share of the frame's area and a log-uniform aspect ratio (width / height),
    anywhere.

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


def centre_boxes(sizes_B2: Tensor) -> Ints:
    """The centred square with the short side's length."""
    sizes = sizes_B2.numpy()
    side = np.repeat(sizes.min(axis=1, keepdims=True), 2, axis=1)
    return np.concatenate([(sizes - side) // 2, side], axis=1).astype(np.int64)


def crop_resize(
    clips_BTHWC: Tensor,
    boxes_B4: Ints,
    side: int,
    device: torch.device | str,
    flips_B: np.ndarray | None = None,
    buffers: Buffers | None = None,
) -> Tensor:
    """Cut each clip's box, resize it to `side` pixels square (bilinear, antialiased), mirror it where asked.

    On a GPU the whole batch goes up as uint8 and is resized by two matrix products a clip; on a CPU clip by
    clip, in 8-bit arithmetic. Both give the same picture to within one grey level.

    Returns:
        uint8 [B, T, side, side, 3] on the device.
    """
    device = torch.device(device)
    flips = flips_B if flips_B is not None else np.zeros(len(boxes_B4), dtype=bool)
    if device.type == "cpu":
        return _resize_each(clips_BTHWC, boxes_B4, side, flips, buffers or Buffers())
    return resize_batched(clips_BTHWC.to(device, non_blocking=True), boxes_B4, side, flips)


def _resize_each(clips_BTHWC: Tensor, boxes_B4: Ints, side: int, flips: np.ndarray, buffers: Buffers) -> Tensor:
    count, length = clips_BTHWC.shape[:2]
    result = buffers.take((count, length, side, side, 3))
    for row, (top, left, height, width) in enumerate(boxes_B4.tolist()):
        part = clips_BTHWC[row, :, top : top + height, left : left + width]
        if (height, width) != (side, side):
            # Channels-last in memory, which the 8-bit kernel is fast on.
            picture = part.permute(0, 3, 1, 2)
            picture = F.interpolate(picture, (side, side), mode="bilinear", antialias=True, align_corners=False)
            part = picture.permute(0, 2, 3, 1)
        result[row] = part.flip(2) if flips[row] else part
    return result


def resize_batched(clips_BTHWC: Tensor, boxes_B4: Ints, side: int, flips: np.ndarray) -> Tensor:
    """Crop, resize and mirror as products with one matrix for rows and one for columns, all clips at once."""
    height, width = clips_BTHWC.shape[2:4]
    device = clips_BTHWC.device
    precise = torch.float16 if device.type == "cuda" else torch.float32
    rows_BRH = torch.stack([_weights(top, tall, height, side) for top, _, tall, _ in boxes_B4.tolist()])
    columns = [_weights(left, wide, width, side) for _, left, _, wide in boxes_B4.tolist()]
    columns_BRW = torch.stack([w.flip(0) if f else w for w, f in zip(columns, flips, strict=True)])
    rows_BRH = _up(rows_BRH, device).to(precise)
    columns_BRW = _up(columns_BRW, device).to(precise)
    count, length = clips_BTHWC.shape[:2]
    clip = clips_BTHWC.to(precise)
    clip = torch.matmul(rows_BRH[:, None], clip.flatten(3))  # [B,T,side,W*3]
    clip = torch.matmul(columns_BRW[:, None, None], clip.view(count, length, side, width, 3))
    return clip.round_().clamp_(0, 255).to(torch.uint8)


def _up(weights: Tensor, device: torch.device) -> Tensor:
    return weights.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else weights


def _weights(start: int, length: int, full: int, side: int) -> Tensor:
    """[side, full]: each output pixel as a triangle-weighted mean of the inputs in its box, which adds up to 1."""
    scale = length / side
    support = max(1.0, scale)
    centre = (torch.arange(side, dtype=torch.float64) + 0.5) * scale
    place = torch.arange(length, dtype=torch.float64) + 0.5
    triangle = (1 - (place[None] - centre[:, None]).abs() / support).clamp(min=0)
    result = torch.zeros(side, full, dtype=torch.float32)
    result[:, start : start + length] = (triangle / triangle.sum(dim=1, keepdim=True)).float()
    return result
