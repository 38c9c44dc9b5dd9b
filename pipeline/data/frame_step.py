"""Clips by time or by a share of the video: frames equally far apart, each the one nearest to its place.

A step is a number of frames (`frame_step: 4`), equal in every video; or a time, of which each video makes a number of
its own by its rate, 1.875 frames at 15 a second where 7.5 are as long at 60; or a share of the video, of which each
makes one by its length, so that a clip shows the same part of all (the whole of it: "uniform sampling", as Temporal
Segment Networks and Something-Something have it). `pipeline.data.sampling` takes them all: a whole number, or a float
for a step of the video's own. A frame is taken to be shown at its number / rate: where a file's own rate varies, that
is its average (`pipeline.data.video.stream.rate_of`).

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

_SECONDS, _SHARE = " s", " of a video"
#: Note of a model whose clips span a share of their videos: the step in a training video of median length.
TYPICAL = "typical_frame_step"
#: [frames] A clip that is longer than its video by no more than this is as long.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Step:
    """From one frame of a clip to the next: so many frames; or so many seconds, or such a share of the video."""

    frames: int = 1
    seconds: float | None = None
    share: float | None = None

    @property
    def own(self) -> bool:
        """Whether every video has a number of its own."""
        return self.seconds is not None or self.share is not None

    def of(self, num_frames: int, rate: float) -> int | float:
        """As `pipeline.data.sampling` takes it, for a video of so many frames, and so many per second.

        Raises:
            ValueError: the rate is not above 0, and the step is a time.
        """
        if self.share is not None:
            return float(self.share * num_frames)
        if self.seconds is None:
            return self.frames
        if not rate > 0:
            raise ValueError(
                f"frames per second = {rate}: frames by time need the video's rate. Cure: frame_step as a number."
            )
        return float(self.seconds * rate)

    @property
    def entry(self) -> int | str:
        """As JSON and metadata hold it: 4, or "0.125 s", or "0.0625 of a video"."""
        if self.share is not None:
            return f"{self.share!r}{_SHARE}"
        return self.frames if self.seconds is None else f"{self.seconds!r}{_SECONDS}"

    @classmethod
    def parse(cls, entry: int | str) -> Step:
        """From :attr:`entry`, also where a number was written as text.

        Raises:
            ValueError: it is none of them.
        """
        text = str(entry)
        if text.endswith(_SHARE):
            return cls(share=float(text.removesuffix(_SHARE)))
        return cls(seconds=float(text.removesuffix(_SECONDS))) if text.endswith(_SECONDS) else cls(int(text))

    def __str__(self) -> str:
        return str(self.entry)


def step_of(params: Params, benchmark: str) -> Step:
    """The step of a benchmark's clips, as params.yaml says it."""
    from pipeline.params.benchmarks import ByShare

    step, frames = params.benchmark(benchmark).data.frame_step, params.clip.frames
    if isinstance(step, int):
        return Step(step)
    if isinstance(step, ByShare):
        return Step(share=step.clip_share / frames)
    return Step(seconds=step.clip_seconds / frames)


def trained_step(info: ModelInfo, wanted: int | None = None) -> Step | None:
    """The step of a model's clips; None where its record says none, or several of different benchmarks.

    Args:
        wanted: a number of frames that a user said instead.
    """
    from models.info import FRAME_SECONDS, FRAME_SHARE

    if wanted is not None:
        return Step(wanted)
    seconds, shares = info.notes.get(FRAME_SECONDS), info.notes.get(FRAME_SHARE)
    steps = {Step(int(value)) for value in _values(info.frame_step)}
    steps |= {Step(seconds=float(value)) for value in _values(seconds)}
    steps |= {Step(share=float(value)) for value in _values(shares)}
    return steps.pop() if len(steps) == 1 else None


def sliding_step(info: ModelInfo, wanted: int | None = None) -> Step | None:
    """The step of windows in a video of any length: as trained, or of clips over a share as in a typical video."""
    step = trained_step(info, wanted)
    if step is None or step.share is None:
        return step
    typical = info.notes.get(TYPICAL)
    return Step(typical) if isinstance(typical, int) and typical >= 1 else None


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
