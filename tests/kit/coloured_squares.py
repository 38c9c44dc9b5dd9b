"""Drawn videos whose class is the colour of a large square that moves: seen by any encoder that sees the square."""

from __future__ import annotations

import numpy as np

COLOURS = {"red": (250, 40, 40), "green": (40, 250, 40), "blue": (60, 60, 250), "yellow": (240, 240, 60)}


def frames(number: int, count: int = 8, size: int = 32, edge: int = 20) -> np.ndarray:
    """uint8 [T, H, W, 3]: a flickering square of colour `number` % 4 moves sideways over grey blocks that rest."""
    rng = np.random.default_rng(number)
    blocks = rng.integers(90, 160, (1, 4, 4, 3), dtype=np.uint8)
    clip = np.repeat(blocks.repeat(size // 4, 1).repeat(size // 4, 2), count, axis=0)
    way = min(count, size - edge)
    first, y = int(rng.integers(0, size - edge - way + 1)), int(rng.integers(0, size - edge + 1))
    colour = np.asarray(list(COLOURS.values())[number % 4])
    for time in range(count):
        x = first + (time if number % 2 else count - 1 - time) * way // count
        clip[time, y : y + edge, x : x + edge] = colour * (1.0 - 0.15 * (time % 4))
    return clip
