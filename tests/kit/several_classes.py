"""A small set of real mp4 files that show several things at a time, and the CSV that lists them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from pipeline.data.video import write_video

#: What a video may show: a red square at the top left, a green one at the bottom right, one that moves at the top.
CLASSES = ("green", "moves", "red")
SIZE, FRAMES = 64, 16


def frames(shown: frozenset[str], seed: int) -> np.ndarray:
    """uint8 [T, H, W, 3]: grey noise with a square for each of the classes that are shown."""
    rng = np.random.default_rng(seed)
    clip = np.repeat(rng.integers(60, 110, (1, SIZE, SIZE, 3), dtype=np.uint8), FRAMES, axis=0)
    shift = int(rng.integers(0, 4))
    for time, frame in enumerate(clip):
        if "red" in shown:
            frame[4 + shift : 26 + shift, 4:28] = (240, 20, 20)
        if "green" in shown:
            frame[36 + shift : 58 + shift, 36:60] = (20, 230, 20)
        if "moves" in shown:
            frame[4 + shift : 20 + shift, 34 + time : 46 + time] = (250, 250, 250)
    return clip


def sets(count: int) -> list[frozenset[str]]:
    """All combinations of at least one class, in turns."""
    every = [frozenset(name for bit, name in enumerate(CLASSES) if code >> bit & 1) for code in range(1, 8)]
    return [every[number % len(every)] for number in range(count)]


def write_set(folder: Path, count: int, splits: tuple[str, ...] = ("train", "train", "train", "val", "test")) -> Path:
    """Write videos and `videos.csv` (path, label, split) into a folder; the table's path."""
    rows = []
    for number, shown in enumerate(sets(count)):
        write_video(folder / f"v{number:03d}.mp4", frames(shown, number), fps=12)
        # In an order of its own: which class stands first in a label means nothing.
        label = "|".join(sorted(shown, reverse=number % 2 == 0))
        rows.append([f"v{number:03d}.mp4", label, splits[number % len(splits)]])
    table = folder / "videos.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label", "split"], *rows])
    return table
