"""The one way to crop and resize frames, in 8 bits.

Shapes: B clips or views, C channels, T frames, H x W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.arrays import Ints
from pipeline.data.pixels import fused_resize
from pipeline.data.pixels.buffers import Buffers
from pipeline.data.pixels.device import to_device

#: Clips that are resized together on a GPU: 64 of 340x256 take 1.5 GB between the products.
PIECE = 64


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

    On a GPU the whole batch goes up as uint8 and is resized at once; on a CPU clip by clip, in 8-bit arithmetic. Both
    give the same picture to within one grey level.

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
    """Crop, resize and mirror many clips at once: in one kernel on a GPU where it can be built, else by products."""
    device = clips_BTHWC.device
    if device.type != "cuda" or not fused_resize.usable():
        return resize_by_products(clips_BTHWC, boxes_B4, side, flips)
    boxes = to_device(torch.from_numpy(np.ascontiguousarray(boxes_B4, dtype=np.int32)), device)
    mirrored = to_device(torch.from_numpy(np.ascontiguousarray(flips)), device)
    return fused_resize.resize_fused(clips_BTHWC, boxes, side, mirrored)


def resize_by_products(clips_BTHWC: Tensor, boxes_B4: Ints, side: int, flips: np.ndarray) -> Tensor:
    """Crop, resize and mirror as products with one matrix for rows and one for columns, for a GPU without a compiler.

    The result is a view: in memory a row of a colour lies together.
    """
    count, length, height, width = clips_BTHWC.shape[:4]
    device = clips_BTHWC.device
    precise = torch.float16 if device.type == "cuda" else torch.float32
    numbers_4B = to_device(torch.from_numpy(np.ascontiguousarray(boxes_B4.T)).float(), device)
    rows_BRH = _weights(numbers_4B[0], numbers_4B[2], height, side)
    columns_BRW = _weights(numbers_4B[1], numbers_4B[3], width, side)
    if flips.any():
        mirrored_B11 = to_device(torch.from_numpy(np.ascontiguousarray(flips)), device)[:, None, None]
        columns_BRW = torch.where(mirrored_B11, columns_BRW.flip(1), columns_BRW)
    rows_BRH, columns_BWR = rows_BRH.to(precise), columns_BRW.to(precise).transpose(1, 2)
    result_BRCTR = torch.empty((count, side, 3, length, side), dtype=torch.uint8, device=device)
    for first in range(0, count, PIECE):
        some = slice(first, first + PIECE)
        # Rows to the front and colours before frames: then both products are one large matrix for each clip. Products
        # over the innermost colours would copy the matrix of columns for every row of every frame.
        clips = clips_BTHWC[some].permute(0, 2, 4, 1, 3).to(precise, memory_format=torch.contiguous_format)
        tall = torch.bmm(rows_BRH[some], clips.flatten(2))  # [B,side,C*T*W]
        square = torch.bmm(tall.view(len(clips), -1, width), columns_BWR[some])  # [B,side*C*T,side]
        result_BRCTR[some] = square.round_().clamp_(0, 255).view(len(clips), side, 3, length, side)
    return result_BRCTR.permute(0, 3, 1, 4, 2)


def _weights(start_B: Tensor, length_B: Tensor, full: int, side: int) -> Tensor:
    """[B, side, full]: each output pixel as a triangle-weighted mean of the inputs in its box, which adds up to 1."""
    start_B11, length_B11 = start_B[:, None, None], length_B[:, None, None]
    scale_B11 = length_B11 / side
    centre_BR1 = start_B11 + (torch.arange(side, device=start_B.device)[:, None] + 0.5) * scale_B11
    place_F = torch.arange(full, device=start_B.device) + 0.5
    triangle_BRF = (1 - (place_F - centre_BR1).abs() / scale_B11.clamp(min=1)).clamp(min=0)
    triangle_BRF = triangle_BRF * ((place_F > start_B11) & (place_F < start_B11 + length_B11))
    return triangle_BRF / triangle_BRF.sum(dim=2, keepdim=True)
