"""How much the tokens of one video change, seen while ingest decodes it: what `everest audit` keeps of a file.

Distances are those of the cache's maps (`pipeline.data.cache.maps`): raw pixels, the whole frame as 14 x 14 places (224
pixels), shrunk to the short side that a cache keeps. Clips are 16 frames, cut one after the other.

Shapes: J sampled frames, L places, S slots of a clip, N tokens = S x L.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.audit.record import BINS, CANDIDATES, CLIP_FRAMES, KEEPS, SHARES, SLOTS, STILL, TokenChange
from pipeline.audit.signature import signature
from pipeline.data.arrays import TUBELET, U8
from pipeline.data.cache.maps import TUBELET_VALUES, MapBuilder
from pipeline.data.cache.write import jpeg
from pipeline.data.video.shrink import shrunk_size

RESOLUTION, SHORT_SIDE, JPEG_QUALITY = 224, 256, 90
#: [s] that a clip spans where the video is long enough: the paper's frame step of 4 at 30 frames a second.
CLIP_SECONDS = 2.0
#: [1/s] Pictures of which a signature is taken, and how many a video keeps of them.
SIGNATURES_PER_SECOND, SIGNATURES = 3.0, 24


class Changes:
    """A `Watcher` of ingest's pass over a video; afterwards :meth:`record` says what it saw."""

    short_side: int | None = SHORT_SIDE

    def __init__(self) -> None:
        self.step = 1
        self._builder = MapBuilder(RESOLUTION)
        self._every = 1
        self._seen = 0
        self._signatures: list[int] = []
        self._jpeg_bytes = 0
        self._size: tuple[int, int] | None = None

    def begin(self, rate: float, expected: int) -> None:
        """Choose the frame step: by time, and so that a short video still holds a clip."""
        self.step = frame_step(rate, expected)
        self._every = max(1, round((rate or 30.0) / self.step / SIGNATURES_PER_SECOND))

    def wants(self, number: int) -> bool:
        return number % self.step == 0

    def frame(self, frame_HWC: U8) -> None:
        # Where the size changes within the stream, every frame gets the size of the first.
        self._size = self._size or shrunk_size(frame_HWC.shape[0], frame_HWC.shape[1], SHORT_SIDE)
        if self._size != frame_HWC.shape[:2]:
            from PIL import Image

            small = Image.fromarray(frame_HWC).resize(self._size[::-1], Image.Resampling.BILINEAR)
            frame_HWC = np.asarray(small)
        if not self._seen:
            self._jpeg_bytes = len(jpeg(frame_HWC, JPEG_QUALITY))
        self._builder.add(frame_HWC.copy())
        if self._seen % self._every == 0 and (fingerprint := signature(frame_HWC)) is not None:
            self._signatures.append(fingerprint)
        self._seen += 1

    def record(self) -> TokenChange | None:
        """What a finished pass saw; None of fewer frames than two slots take."""
        maps_JL = self._builder.maps()
        slots_SL = maps_JL[::TUBELET][: len(maps_JL) // TUBELET].astype(np.float32)
        if len(slots_SL) < 2:
            return None
        clips = [first_as_second(clip) for clip in cut(slots_SL, SLOTS)]
        windows = [first_as_second(window) for window in cut(slots_SL, CANDIDATES)]
        greys_N = np.concatenate([clip.ravel() for clip in clips]) * (255.0 / np.sqrt(TUBELET_VALUES))
        return TokenChange(
            frame_step=self.step,
            clips=len(clips),
            histogram=np.histogram(greys_N, bins=[*BINS, np.inf])[0].tolist(),
            still=float((greys_N < STILL).mean()),
            median=float(np.median(greys_N)),
            mean=float(greys_N.mean()),
            change_kept=_mean([kept(clip.ravel(), KEEPS) for clip in clips]),
            tokens_needed=_mean([needed(clip.ravel(), SHARES) for clip in clips]),
            slots_needed=_mean([needed(window.sum(axis=1), SHARES) for window in windows]),
            jpeg_bytes=self._jpeg_bytes,
            signatures=[f"{one:016x}" for one in spread(self._signatures, SIGNATURES)],
        )


def frame_step(rate: float, expected: int) -> int:
    """Frames from one of a clip to the next: a clip spans CLIP_SECONDS, or the video where that is shorter.

    Args:
        rate: [1/s] frames per second, 0 where unknown.
        expected: frames of the video, 0 where unknown.
    """
    by_time = max(1, round(CLIP_SECONDS * (rate or 30.0) / CLIP_FRAMES))
    return min(by_time, max(1, expected // CLIP_FRAMES)) if expected else by_time


def cut(slots_SL: np.ndarray, length: int) -> list[np.ndarray]:
    """Clips of `length` slots one after the other, without the rest; all slots where they are fewer."""
    count = len(slots_SL) // length
    return [slots_SL[n * length : (n + 1) * length] for n in range(count)] or [slots_SL]


def first_as_second(clip_SL: np.ndarray) -> np.ndarray:
    """The clip's scores: its first slot, which has none before it, takes the second's (METHOD section 2)."""
    return np.concatenate([clip_SL[1:2], clip_SL[1:]])


def needed(scores_N: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Share of all, of the fewest that hold each share of the scores' sum; 0 where nothing changes."""
    held_N = np.sort(scores_N)[::-1].cumsum(dtype=np.float64)
    if held_N[-1] <= 0:
        return np.zeros(len(shares))
    count = np.searchsorted(held_N, np.asarray(shares) * held_N[-1] * (1 - 1e-12)) + 1
    share: np.ndarray = np.minimum(count, len(held_N)) / len(held_N)
    return share


def kept(scores_N: np.ndarray, ratios: Sequence[float]) -> np.ndarray:
    """Share of the scores' sum that the highest ones hold, for each ratio of them; 1 where nothing changes."""
    held_N = np.sort(scores_N)[::-1].cumsum(dtype=np.float64)
    if held_N[-1] <= 0:
        return np.ones(len(ratios))
    places = np.maximum(1, (np.asarray(ratios) * len(held_N) + 1e-9).astype(int)) - 1
    share: np.ndarray = held_N[places] / held_N[-1]
    return share


def spread(values: Sequence[int], count: int) -> list[int]:
    """So many of the values, evenly over their length."""
    if len(values) <= count:
        return list(values)
    return [values[round(place)] for place in np.linspace(0, len(values) - 1, count)]


def _mean(rows: Sequence[np.ndarray]) -> list[float]:
    means: list[float] = np.mean(rows, axis=0).round(6).tolist()
    return means
