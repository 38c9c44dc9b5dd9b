"""The one way to crop and resize frames, in 8 bits.

Shapes: B clips or views, C channels, T frames, H x W pixels.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.buffers import Buffers
from pipeline.data.sampling import Ints


def resize(pictures_THWC: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 pictures on the CPU to `size` (height, width): bilinear, antialiased, in 8-bit arithmetic.

    As Pillow does it, to one grey level. The result does not depend on how many pictures come together.
    """
    if tuple(pictures_THWC.shape[1:3]) == size:
        return pictures_THWC
    # Channels-last in memory, which the 8-bit kernel is fast on.
    planes = F.interpolate(
        pictures_THWC.permute(0, 3, 1, 2), size, mode="bilinear", antialias=True, align_corners=False
    )
    return planes.permute(0, 2, 3, 1)


def centre_boxes(sizes_B2: Tensor) -> Ints:
    """The centred square with the short side's length, (top, left, height, width) of each clip."""
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
    """Cut each clip's box, resize it to `side` pixels square, mirror it where asked.

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
        part = resize(clips_BTHWC[row, :, top : top + height, left : left + width], (side, side))
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


@functools.lru_cache(maxsize=64)
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
