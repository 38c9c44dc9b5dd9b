"""Sliding windows over the frames of a pass: so few frames are held as the longest window needs.

Shapes: X crops of a frame, T frames of a clip, R the model's resolution.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.data.arrays import U8


@dataclass(frozen=True)
class Window:
    """One clip of a video.

    Attributes:
        clips: its crops, uint8 [X, T, R, R, 3].
        first, last: numbers of its first and last frame.
        start, end: seconds; the end is when the frame after its last one is due.
    """

    clips: U8
    first: int
    last: int
    start: float
    end: float


@dataclass(frozen=True)
class _Sample:
    number: int
    seconds: float
    squares: U8


class Slider:
    """Takes every `step`-th frame of a video and gives its windows as they become whole.

    Args:
        frames: T, of a window.
        stride: sampled frames from the start of one window to the next.
        period: seconds that a sampled frame stands for at the end of a window: one frame of the video.
    """

    def __init__(self, frames: int, stride: int, period: float) -> None:
        self._frames, self._stride, self._period = frames, stride, period
        self._held: deque[_Sample] = deque(maxlen=frames)
        self._taken = 0
        self._given_at = -1

    def take(self, squares_XRRC: U8, number: int, seconds: float) -> Window | None:
        """The window that ends with this frame, where one does."""
        self._held.append(_Sample(number, seconds, squares_XRRC))
        self._taken += 1
        if self._taken < self._frames or (self._taken - self._frames) % self._stride:
            return None
        self._given_at = self._taken
        return self._window()

    def finish(self) -> Iterator[Window]:
        """A last window that ends with the video, where its end is in none yet; none of a video shorter than one."""
        if self._taken >= self._frames and self._given_at != self._taken:
            yield self._window()

    def _window(self) -> Window:
        first, last = self._held[0], self._held[-1]
        clips = np.stack([sample.squares for sample in self._held], axis=1)
        return Window(clips, first.number, last.number, first.seconds, last.seconds + self._period)


def stride_of(seconds: float | None, fps: float, frames: int, step: int | float) -> int:
    """Sampled frames from one window to the next; half a window by default.

    Args:
        seconds: that the user asked for, rounded to whole sampled frames, at least one.
        fps: frames of the video per second, 0 where unknown (then 25).
        frames, step: of a window, and frames of the video from one of them to the next.
    """
    if seconds is None:
        return max(1, frames // 2)
    return max(1, round(seconds * (fps or 25.0) / step))
