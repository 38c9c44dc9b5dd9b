"""Frames larger than the cache keeps them, resized: the same pixels in the cache and straight from a video."""

from __future__ import annotations

from pipeline.data.informativeness import U8


def shrunk_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) in pixels with the short side at most `short_side`."""
    if min(height, width) <= short_side:
        return height, width
    scale = short_side / min(height, width)
    return max(short_side, round(height * scale)), max(short_side, round(width * scale))


def shrink(pictures_THWC: U8, short_side: int) -> U8:
    """Frames of one size with their short side at `short_side` pixels; smaller ones stay as they are.

    Bilinear and antialiased as Pillow does it, to one grey level, in a fifth to a seventh of Pillow's time.

    Returns:
        uint8 [T, H', W', 3], of :func:`shrunk_size`.
    """
    size = shrunk_size(pictures_THWC.shape[1], pictures_THWC.shape[2], short_side)
    if size == pictures_THWC.shape[1:3]:
        return pictures_THWC
    # Here, since most videos need no resizing and a worker then starts without it.
    import torch
    import torch.nn.functional as F

    # Channels-last in memory, which the 8-bit kernel is fast on: without gaps between rows, and with the strides of
    # a whole array even where there is only one frame.
    packed = pictures_THWC.ravel().reshape(pictures_THWC.shape)
    planes = torch.from_numpy(packed).permute(0, 3, 1, 2)
    planes = F.interpolate(planes, size, mode="bilinear", antialias=True, align_corners=False)
    found: U8 = planes.permute(0, 2, 3, 1).numpy()
    return found
