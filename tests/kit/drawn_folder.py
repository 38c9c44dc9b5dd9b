"""A folder as a new user has it: drawn clips, a folder a class (`python tests/kit/drawn_folder.py FOLDER 200`)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from pipeline.data.sources.draw import MOTIONS, draw_motion
from pipeline.data.video import write_video

#: Classes of it: the first of the motions.
CLASSES = MOTIONS[:4]


def draw(folder: Path, clips: int, *, frames: int = 36, size: int = 96, seed: int = 0) -> Path:
    """Write so many clips, the classes in turn; 12 frames a second."""
    for number in range(clips):
        label = number % len(CLASSES)
        file = folder / CLASSES[label] / f"{number:04d}.mp4"
        file.parent.mkdir(parents=True, exist_ok=True)
        pictures = draw_motion(np.random.default_rng([seed, number]), label, frames, size)
        write_video(file, pictures, fps=12)
    return folder


if __name__ == "__main__":
    draw(Path(sys.argv[1]), int(sys.argv[2]))
