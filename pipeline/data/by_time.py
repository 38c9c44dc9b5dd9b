"""Clips by time: frames as far apart in seconds in a video of any rate, each the one nearest to its time.

A step is a number of frames (`frame_step: 4`), equal in every video; or a time, of which each video makes a number of
its own by its rate, 1.875 frames at 15 a second where 7.5 are as long at 60. `pipeline.data.sampling` takes both: a
whole number, or a float for a step by time. A frame is taken to be shown at its number / rate: where a file's own rate
varies, that is its average (`pipeline.data.video.stream.rate_of`).

Of a video that lasts D seconds a clip of T frames, d apart, begins at a time from 0 to D - T d, and its frame t is the
one nearest to begin + t d: at most half a frame away, whatever the rate. A video shorter than T d is spread over the
clip, as where frames are counted.

Legend: T frames of a clip, G views, n frames of a video, s the step in frames.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.data.arrays import TUBELET, Ints

if TYPE_CHECKING:
    from models.info import ModelInfo
    from pipeline.params import Params

_SECONDS = " s"
#: [frames] A clip that is longer than its video by no more than this is as long.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Step:
    """From one frame of a clip to the next: so many frames, or where `seconds` is not None so many seconds."""

    frames: int = 1
    seconds: float | None = None

    def of(self, rate: float) -> int | float:
        """As `pipeline.data.sampling` takes it, for a video of so many frames per second.

        Raises:
            ValueError: the rate is not above 0, and the step is a time.
        """
        if self.seconds is None:
            return self.frames
        if not rate > 0:
            raise ValueError(
                f"frames per second = {rate}: frames by time need the video's rate. Cure: frame_step as a number."
            )
        return float(self.seconds * rate)

    @property
    def entry(self) -> int | str:
        """As JSON and metadata hold it: 4, or "0.125 s"."""
        return self.frames if self.seconds is None else f"{self.seconds!r}{_SECONDS}"

    @classmethod
    def parse(cls, entry: int | str) -> Step:
        """From :attr:`entry`, also where a number was written as text.

        Raises:
            ValueError: it is neither.
        """
        text = str(entry)
        return cls(seconds=float(text.removesuffix(_SECONDS))) if text.endswith(_SECONDS) else cls(int(text))

    def __str__(self) -> str:
        return str(self.entry)


def step_of(params: Params, benchmark: str) -> Step:
    """The step of a benchmark's clips, as params.yaml says it."""
    step = params.benchmark(benchmark).data.frame_step
    return Step(step) if isinstance(step, int) else Step(seconds=step.clip_seconds / params.clip.frames)


def trained_step(info: ModelInfo, wanted: int | None = None) -> Step | None:
    """The step of a model's clips; None where its record says none, or several of different benchmarks.

    Args:
        wanted: a number of frames that a user said instead.
    """
    from models.info import FRAME_SECONDS

    if wanted is not None:
        return Step(wanted)
    numbers, seconds = info.frame_step, info.notes.get(FRAME_SECONDS)
    steps = {Step(int(value)) for value in _values(numbers)} | {Step(1, float(value)) for value in _values(seconds)}
    return steps.pop() if len(steps) == 1 else None


def _values(entry: object) -> list[Any]:
    """The one value, or those of several benchmarks."""
    return list(entry.values()) if isinstance(entry, Mapping) else [] if entry is None else [entry]


def nearest(times: npt.NDArray[np.floating], num_frames: int) -> Ints:
    """The frames nearest to times that are counted in frames; of two the later."""
    return np.clip(np.floor(times + 0.5), 0, num_frames - 1).astype(np.int64)


def clip_at(num_frames: int, frames: int, step: float, place: float) -> Ints:
    """A clip [T] at a place from 0 (the first) to 1 (the last) of all that fit; a short video is spread over it."""
    rest = num_frames - frames * step
    if rest < -_ROUNDING:
        return nearest(np.arange(frames) * (num_frames - 1) / max(1, frames - 1), num_frames)
    return nearest(place * max(0.0, rest) + step * np.arange(frames), num_frames)


def views_at(num_frames: int, frames: int, step: float, segments: int) -> Ints:
    """The clips of all test views [G, T], from the first place to the last evenly; one view is the middle."""
    places = [0.5] if segments == 1 else [number / (segments - 1) for number in range(segments)]
    return np.stack([clip_at(num_frames, frames, step, place) for place in places])


def squeezed(num_frames: int, frames: int, wanted: int, step: float, place: float) -> Ints:
    """`wanted` candidate frames within the window of a clip of `frames`: slot starts spread evenly, slots of a step."""
    rest = num_frames - frames * step
    first, last = 0.0, float(num_frames - 1)
    if rest >= -_ROUNDING:
        first = place * max(0.0, rest)
        last = first + (frames - 1) * step
    slots, pair = wanted // TUBELET, min(step, last - first)
    starts = first + np.arange(slots) * (last - pair - first) / max(1, slots - 1)
    return nearest(np.stack([starts, starts + pair], axis=1).reshape(-1), num_frames)


def ticks(number: int, step: int | float) -> int:
    """How many multiples of a step a frame is the one nearest to: for a whole step 1 or 0, by time perhaps several."""
    if isinstance(step, int):
        return int(number % step == 0)
    tick, count = max(0, int((number - 1) / step)), 0
    while (at := math.floor(step * tick + 0.5)) <= number:
        count += at == number
        tick += 1
    return count


def tick_frames(num_frames: int, step: float) -> Ints:
    """The frames at 0, s, 2s, ...: those that distance maps are computed on, and cached selection takes its slots from.

    Of a video of fewer frames a second than there are steps one frame may stand for several.
    """
    return nearest(step * np.arange(max(1, int(num_frames / step + _ROUNDING))), num_frames)
