"""Frames larger than the cache keeps them, resized: the same pixels in the cache and straight from a video."""

from __future__ import annotations

from pipeline.data.arrays import U8


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

    from pipeline.data.pixels.resize import resize

    # Without gaps between rows, and with the strides of a whole array even where there is only one frame.
    packed = pictures_THWC.ravel().reshape(pictures_THWC.shape)
    result: U8 = resize(torch.from_numpy(packed), size).numpy()
    return result
