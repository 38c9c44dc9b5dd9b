"""A picture as 64 bits that survive another size, codec or brightness: the signs of its lowest frequencies.

The perceptual hash of Zauner (2010), "Implementation and benchmarking of perceptual image hash functions": the grey
picture at 32 x 32, its cosine transform, and for each of 8 x 8 low frequencies whether it is above their median.
"""

from __future__ import annotations

import functools

import numpy as np

from pipeline.data.arrays import U8
from pipeline.data.cache.maps import edges

SIDE, LOW = 32, 8
#: [grey levels] Deviation of a picture below which it says nothing: black, a fade, a blank page.
FLAT = 6.0
GREY = np.array([0.299, 0.587, 0.114], np.float32)


def signature(frame_HWC: U8) -> int | None:
    """64 bits of a picture, uint8 [H, W, 3] of at least 32 x 32 pixels; None of one without contrast."""
    small = _shrunk(frame_HWC)
    if small.std() < FLAT:
        return None
    low = (_cosines() @ small @ _cosines().T).ravel()
    low[0] = np.median(low[1:])  # the mean brightness says nothing
    bits = np.packbits(low > np.median(low))
    return int.from_bytes(bits.tobytes(), "big")


def _shrunk(frame_HWC: U8) -> np.ndarray:
    """Mean grey of 32 x 32 rectangles."""
    height, width = frame_HWC.shape[:2]
    if min(height, width) < SIDE:
        frame_HWC = frame_HWC.repeat(-(-SIDE // height), axis=0).repeat(-(-SIDE // width), axis=1)
        height, width = frame_HWC.shape[:2]
    grey = frame_HWC @ GREY
    rows, columns = edges(height, SIDE), edges(width, SIDE)
    total = np.add.reduceat(np.add.reduceat(grey, rows[:-1], axis=0), columns[:-1], axis=1)
    mean: np.ndarray = total / np.outer(np.diff(rows), np.diff(columns))
    return mean


@functools.cache
def _cosines() -> np.ndarray:
    """The first 8 rows of the cosine transform of length 32."""
    place = np.arange(SIDE)
    return np.cos(np.pi * (2 * place + 1) * np.arange(LOW)[:, None] / (2 * SIDE)).astype(np.float32)
