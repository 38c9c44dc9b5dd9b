"""The test views of a video: segments over time x crops along the long side, from one reading of its frames.

Legend: X views, T frames of a clip, h x w pixels as stored, s the crop's side, R the model's resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.data.sampling import view_clips, view_offsets

if TYPE_CHECKING:
    import torch

U8 = npt.NDArray[np.uint8]


def view_frames(num_frames: int, frames: int, step: int, segments: int, grid: int = 1) -> list[int]:
    """The frame numbers that the views of a video are cut from, ascending and each once."""
    numbers: list[int] = np.unique(view_clips(num_frames, frames, step, segments, grid)).tolist()
    return numbers


def video_views(
    read: Callable[[Sequence[int]], U8],
    num_frames: int,
    *,
    frames: int,
    step: int,
    segments: int,
    crops: int,
    grid: int = 1,
) -> U8:
    """All views of one video, uint8 [X, T, s, s, 3], segment by segment.

    Args:
        read: :func:`view_frames` -> these frames [n, h, w, 3]; called once.
        num_frames: frames of the video.
        frames, step: length of a clip and distance of its frames.
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


def normalised(views_XTHWC: U8, resolution: int, device: torch.device) -> torch.Tensor:
    """Views as the model takes them: float32 [X, 3, T, R, R], resized, ImageNet mean and deviation."""
    import torch
    import torch.nn.functional as F

    from models.tokens import IMAGENET_MEAN, IMAGENET_STD

    clips = torch.from_numpy(np.ascontiguousarray(views_XTHWC)).to(device).permute(0, 1, 4, 2, 3)
    count, length = clips.shape[:2]
    pictures = clips.flatten(0, 1).float().div_(255)
    if pictures.shape[-1] != resolution:
        pictures = F.interpolate(
            pictures, size=(resolution, resolution), mode="bilinear", antialias=True, align_corners=False
        )
    mean = torch.tensor(IMAGENET_MEAN, device=device).view(3, 1, 1)
    deviation = torch.tensor(IMAGENET_STD, device=device).view(3, 1, 1)
    pictures = (pictures - mean) / deviation
    return pictures.unflatten(0, (count, length)).transpose(1, 2)
