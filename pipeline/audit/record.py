"""What an audit knows of one video, and the grids that its numbers are given on."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.data.ingest.measure import VERSION as MEASURED
from pipeline.data.ingest.verdicts import Measurement

#: Raised when a record changes its meaning, so that noted ones are made again.
VERSION = f"3.{MEASURED}"
#: A clip of the paper: frames, time slots, and slots that eight are chosen from (oversample 1.5).
CLIP_FRAMES, SLOTS, CANDIDATES = 16, 8, 12
#: Lower edges of the histogram of token change, in grey levels of 255 (root mean square over a token's pixels).
BINS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
#: [grey levels] A token that changes by less is called still: about what compression and a camera's noise do to it.
STILL = 4.0
#: Shares of the change for which the tokens and slots that hold them are counted.
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
#: Keep ratios for which the share of the change that is kept is told.
KEEPS = tuple(number / 20 for number in range(1, 21))


@dataclass(frozen=True)
class TokenChange:
    """How the tokens of a video change from one slot to the next.

    Attributes:
        frame_step: frames from one of a clip to the next.
        clips: that were looked at, one after the other.
        histogram: tokens by their change, on BINS.
        still: share of tokens below STILL.
        median, mean: [grey levels] change of a token.
        change_kept: share of the change that the highest tokens hold, for each ratio of KEEPS; mean over clips.
        tokens_needed: share of tokens that hold each of SHARES; mean over clips.
        slots_needed: share of slots that hold each of SHARES; mean over windows of CANDIDATES slots.
        jpeg_bytes: [byte] the first frame as the cache would keep it.
        signatures: of some pictures, 16 hexadecimal digits each (`pipeline.audit.signature`).
    """

    frame_step: int
    clips: int
    histogram: list[int]
    still: float
    median: float
    mean: float
    change_kept: list[float]
    tokens_needed: list[float]
    slots_needed: list[float]
    jpeg_bytes: int
    signatures: list[str]


@dataclass(frozen=True)
class Audited:
    """One file: what ingest measures of it, and its change where it could be decoded."""

    measurement: Measurement
    change: TokenChange | None = None
