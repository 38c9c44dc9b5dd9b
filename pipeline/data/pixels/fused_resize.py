"""Crop, resize and mirror in one kernel on a GPU: every frame is read once and every pixel written once.

The same triangle-weighted means as :func:`pipeline.data.pixels.resize.resize_batched` takes by two matrix products,
which move a batch's frames through memory in fp16 five times: on an H100 these took 17 of the 108 ms of a compiled
pre-training step of base with 256 clips.

Shapes: B clips, T frames, H x W pixels, S the side of the result.
"""

from __future__ import annotations

import os
import shutil
from functools import cache

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for CPUs comes without it
    triton = None

#: Rows and columns of the result that one program makes.
ROWS, COLUMNS = 16, 32


@cache
def usable() -> bool:
    """Whether the kernel can be built here: Triton, and the C compiler that it starts."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return triton is not None and compiler is not None


def resize_fused(clips_BTHWC: Tensor, boxes_B4: Tensor, side: int, flips_B: Tensor) -> Tensor:
    """Cut each clip's box (top, left, height, width), resize it to `side` pixels square, mirror it where asked.

    A pixel depends on its own clip alone: the result is the same to the bit in any batch.

    Args:
        clips_BTHWC: uint8.
        boxes_B4: int32, on the same device.
        flips_B: bool, on the same device.

    Returns:
        uint8 [B, T, S, S, 3], a view of planes that lie together in memory.
    """
    count, length, height, width = clips_BTHWC.shape[:4]
    planes = torch.empty((count, length, 3, side, side), dtype=torch.uint8, device=clips_BTHWC.device)
    tiles = triton.cdiv(side, ROWS) * triton.cdiv(side, COLUMNS)
    _resize[(count * length, tiles)](
        clips_BTHWC.contiguous(), boxes_B4.contiguous(), flips_B.to(torch.int8), planes,
        length, height, width, side, ROWS, COLUMNS,
    )  # fmt: skip
    return planes.permute(0, 1, 3, 4, 2)


if triton is not None:

    @triton.jit
    def _weight(place, centre, narrowness, start, full):  # type: ignore[no-untyped-def]
        """A triangle around the centre, within the box."""
        inside = (place >= start) & (place < start + full)
        return tl.where(inside, tl.maximum(1 - tl.abs(place + 0.5 - centre) * narrowness, 0.0), 0.0)

    @triton.jit
    def _resize(  # type: ignore[no-untyped-def]
        clips, boxes, flips, planes, length, height, width, side,
        rows: tl.constexpr, columns: tl.constexpr,
    ):  # fmt: skip
        """One tile of one frame."""
        frame, tile = tl.program_id(0), tl.program_id(1)
        clip = frame // length
        across = tl.cdiv(side, columns)
        row = (tile // across) * rows + tl.arange(0, rows)
        column = (tile % across) * columns + tl.arange(0, columns)
        box = boxes + 4 * clip
        top, left, tall, wide = tl.load(box), tl.load(box + 1), tl.load(box + 2), tl.load(box + 3)
        scale_y, scale_x = tall.to(tl.float32) / side, wide.to(tl.float32) / side
        support_y, support_x = tl.maximum(scale_y, 1.0), tl.maximum(scale_x, 1.0)
        source = tl.where(tl.load(flips + clip) != 0, side - 1 - column, column)
        centre_y, centre_x = top + (row + 0.5) * scale_y, left + (source + 0.5) * scale_x
        # The first places whose middles lie within the support, and how many there can be.
        first_y = tl.floor(centre_y - support_y - 0.5).to(tl.int32) + 1
        first_x = tl.floor(centre_x - support_x - 0.5).to(tl.int32) + 1
        count_y, count_x = tl.ceil(2 * support_y).to(tl.int32), tl.ceil(2 * support_x).to(tl.int32)
        narrow_y, narrow_x = 1 / support_y, 1 / support_x
        total_y = tl.zeros([rows], tl.float32)
        for i in range(0, count_y):
            total_y += _weight(first_y + i, centre_y, narrow_y, top, tall)
        total_x = tl.zeros([columns], tl.float32)
        red = tl.zeros([rows, columns], tl.float32)
        green = tl.zeros([rows, columns], tl.float32)
        blue = tl.zeros([rows, columns], tl.float32)
        start = clips + frame.to(tl.int64) * height * width * 3
        # Columns without, rows within: a thread has several columns of one row, whose weight it then works out once.
        for j in range(0, count_x):
            x = first_x + j
            weight_x = _weight(x, centre_x, narrow_x, left, wide)
            total_x += weight_x
            across_x = 3 * tl.minimum(tl.maximum(x, left), left + wide - 1)  # of weight 0 outside the box
            red_j = tl.zeros([rows, columns], tl.float32)
            green_j = tl.zeros([rows, columns], tl.float32)
            blue_j = tl.zeros([rows, columns], tl.float32)
            for i in range(0, count_y):
                y = first_y + i
                weight_y = _weight(y, centre_y, narrow_y, top, tall)[:, None]
                down_y = 3 * width * tl.minimum(tl.maximum(y, top), top + tall - 1)
                pixel = start + (down_y[:, None] + across_x[None, :])
                red_j += weight_y * tl.load(pixel).to(tl.float32)
                green_j += weight_y * tl.load(pixel + 1).to(tl.float32)
                blue_j += weight_y * tl.load(pixel + 2).to(tl.float32)
            red += weight_x[None, :] * red_j
            green += weight_x[None, :] * green_j
            blue += weight_x[None, :] * blue_j
        total = total_y[:, None] * total_x[None, :]
        target = planes + frame.to(tl.int64) * 3 * side * side + row[:, None] * side + column[None, :]
        within = (row < side)[:, None] & (column < side)[None, :]
        plane = side * side
        tl.store(target, tl.minimum(red / total + 0.5, 255.0).to(tl.uint8), within)
        tl.store(target + plane, tl.minimum(green / total + 0.5, 255.0).to(tl.uint8), within)
        tl.store(target + 2 * plane, tl.minimum(blue / total + 0.5, 255.0).to(tl.uint8), within)
