"""Which frames a clip takes, and every random number of the data path, as pure functions.

Randomness is a counter, not a state: `uniforms(seed, epoch, sample, stream, k)` hashes its arguments, so a
sample draws the same numbers on any rank, in any worker, before and after a resume. Order, crops, flips,
chosen frames and mask noise all come from here under different stream names.

A step is a whole number of frames, or a float: one of the video's own, as :mod:`pipeline.data.frame_step` has it.

Legend: B samples, K numbers a sample, T frames of a clip, C candidate slots, S slots of a clip (a slot is a
tubelet of 2 frames). Frame numbers are those of the video.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from pipeline.data import frame_step
from pipeline.data.arrays import TUBELET, Floats, Ints


def uniforms(seed: int, epoch: int, samples: npt.ArrayLike, stream: str, count: int) -> Floats:
    """`count` uniform numbers in [0, 1) for every sample, as [B, K] float64.

    A SplitMix64 hash chain over (seed, epoch, sample, stream name, k): independent of the order of the calls.
    """
    sample_B = np.atleast_1d(np.asarray(samples, dtype=np.uint64))
    with np.errstate(over="ignore"):
        key = _mix(np.asarray([seed], dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        key = _mix(key ^ _mix(np.asarray([epoch], dtype=np.uint64) + np.uint64(0xD1B54A32D192ED03)))
        key = _mix(key + np.uint64(zlib.crc32(stream.encode())))
        key_B = _mix(key ^ _mix(sample_B + np.uint64(0x8CB92BA72F3D8DD7)))
        steps_K = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits_BK = _mix(key_B[:, None] + steps_K[None, :])
    return (bits_BK >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normals(seed: int, epoch: int, samples: npt.ArrayLike, stream: str, count: int) -> Floats:
    """Standard normal numbers [B, K], by Box-Muller over :func:`uniforms`."""
    half = uniforms(seed, epoch, samples, stream, 2 * count)
    radius = np.sqrt(-2.0 * np.log1p(-half[:, :count]))
    return radius * np.cos(2.0 * np.pi * half[:, count:])


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def epoch_order(seed: int, epoch: int, size: int, shuffle: bool) -> Ints:
    """The rows of a data set in the order of one epoch; each row once."""
    if not shuffle:
        return np.arange(size, dtype=np.int64)
    return np.argsort(uniforms(seed, epoch, np.arange(size), "order", 1)[:, 0], kind="stable").astype(np.int64)


@functools.cache
def candidate_slots(frames: int, oversample: float) -> int:
    """How many slots frame selection chooses from: ceil(oversample * S), on exact decimals (METHOD section 3)."""
    return math.ceil(Fraction(str(oversample)) * (frames // TUBELET))


def span(frames: int, step: float) -> float:
    """Frames from the first to the last frame of a clip, both counted."""
    return (frames - 1) * step + 1


def clip_start(num_frames: int, frames: int, step: int, grid: int, u: float) -> int:
    """The first frame of a clip: uniform over all starts on multiples of `grid` where the clip fits, else 0."""
    places = (num_frames - (frames - 1) * step - 1) // grid + 1
    return int(u * places) * grid if places > 0 else 0


def spread(num_frames: int, frames: int, step: int, start: int, grid: int = 1) -> Ints:
    """`frames` frame numbers from `start`, `step` apart; where the video is too short the step shrinks.

    Shrunk clips run from the first to the last frame evenly; with fewer frames than asked for, frames repeat.
    All numbers are multiples of `grid` (the frames that a cache holds).
    """
    if start + (frames - 1) * step < num_frames:
        return start + step * np.arange(frames, dtype=np.int64)
    last = (num_frames - 1) // grid
    return (np.arange(frames, dtype=np.int64) * last // max(1, frames - 1)) * grid


def uniform_clip(num_frames: int, frames: int, step: int | float, u: float, grid: int = 1) -> Ints:
    """A training clip at a uniformly drawn place: [T] frame numbers. `u` in [0, 1)."""
    if isinstance(step, float):
        return frame_step.clip_at(num_frames, frames, step, u)
    return spread(num_frames, frames, step, clip_start(num_frames, frames, step, grid, u), grid)


def centre_clip(num_frames: int, frames: int, step: int | float, grid: int = 1) -> Ints:
    """The validation clip: the middle of the video, always the same [T] frame numbers."""
    return uniform_clip(num_frames, frames, step, 0.5, grid)


def candidate_clip(
    num_frames: int, frames: int, step: int | float, u: float, *, oversample: float, window: str, grid: int = 1
) -> Ints:
    """Frame numbers [2C] of the candidate slots of one window (METHOD section 3).

    Args:
        window: `grow` keeps the frame step and lets the window grow by `oversample`; `fixed` keeps the
        window of a
            plain clip and squeezes the candidates into it, slot starts spread evenly.
    """
    wanted = TUBELET * candidate_slots(frames, oversample)
    if window == "grow":
        return uniform_clip(num_frames, wanted, step, u, grid)
    if isinstance(step, float):
        return frame_step.squeezed(num_frames, frames, wanted, step, u)
    plain = uniform_clip(num_frames, frames, step, u, grid)
    first, last = int(plain[0]) // grid, int(plain[-1]) // grid
    pair = step // grid if last - first >= frames - 1 else 1
    pair = min(pair, last - first)
    slots = wanted // TUBELET
    starts = first + np.arange(slots, dtype=np.int64) * (last - pair - first) // max(1, slots - 1)
    return (np.stack([starts, starts + pair], axis=1).reshape(-1) * grid).astype(np.int64)


def view_starts(num_frames: int, frames: int, step: int, segments: int, grid: int = 1) -> Ints:
    """First frames of the test views [segments]: from the first to the last place evenly; one view is the middle."""
    places = max(0, (num_frames - (frames - 1) * step - 1) // grid)
    if segments == 1:
        return np.asarray([places // 2 * grid], dtype=np.int64)
    return (np.arange(segments, dtype=np.int64) * places // (segments - 1)) * grid


def view_clips(num_frames: int, frames: int, step: int | float, segments: int, grid: int = 1) -> Ints:
    """The frame numbers of every test view, [segments, T]."""
    if isinstance(step, float):
        return frame_step.views_at(num_frames, frames, step, segments)
    starts = view_starts(num_frames, frames, step, segments, grid)
    return np.stack([spread(num_frames, frames, step, int(start), grid) for start in starts])


def view_offsets(height: int, width: int, crops: int) -> list[tuple[int, int]]:
    """(top, left) of square test crops with the short side's length, along the long side; one crop is the centre."""
    side = min(height, width)
    slack = max(height, width) - side
    places: Sequence[int] = [slack // 2] if crops == 1 else [slack * k // (crops - 1) for k in range(crops)]
    return [(place, 0) if height > width else (0, place) for place in places]
