"""The test views of a video: segments over time x crops along the long side, from one reading of its frames.

Legend: X views, T frames of a clip, h x w pixels as stored, s the crop's side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pipeline.data.arrays import U8
from pipeline.data.sampling import view_clips, view_offsets


def view_frames(num_frames: int, frames: int, step: int | float, segments: int, grid: int = 1) -> list[int]:
    """The frame numbers that the views of a video are cut from, ascending and each once."""
    numbers: list[int] = np.unique(view_clips(num_frames, frames, step, segments, grid)).tolist()
    return numbers


def video_views(
    read: Callable[[Sequence[int]], U8],
    num_frames: int,
    *,
    frames: int,
    step: int | float,
    segments: int,
    crops: int,
    grid: int = 1,
) -> U8:
    """All views of one video, uint8 [X, T, s, s, 3], segment by segment.

    Args:
        read: :func:`view_frames` -> these frames [n, h, w, 3]; called once.
        num_frames: frames of the video.
        frames, step: length of a clip and distance of its frames; a float: its own (`pipeline.data.frame_step`).
        grid: only multiples of this frame number can be read.
    """
    wanted_GT = view_clips(num_frames, frames, step, segments, grid)
    numbers = view_frames(num_frames, frames, step, segments, grid)
    pictures = read(numbers)
    height, width = pictures.shape[1:3]
    side = min(height, width)
    place_GT = np.searchsorted(numbers, wanted_GT)
    return np.stack(
        [
            pictures[place_T, top : top + side, left : left + side]
            for place_T in place_GT
            for top, left in view_offsets(height, width, crops)
        ]
    )
