"""A clip as a strip: its time slots above, and below each the tokens that EVEREST keeps of it.

Shapes: T frames, S slots, L places; H x W pixels of a tile.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.audit.changes import RESOLUTION, SHORT_SIDE, first_as_second
from pipeline.audit.record import CLIP_FRAMES, Audited
from pipeline.audit.summary import VideoRow
from pipeline.data.arrays import TUBELET, U8
from pipeline.data.cache.maps import MapBuilder
from pipeline.data.ingest.isolated import IsolatedFrames
from pipeline.data.ingest.process import Limits
from pipeline.data.ingest.reading import Accepted
from pipeline.data.video import VideoError
from pipeline.params import IngestParams

TILE, GAP, DIM = 96, 4, 0.16


def strips(
    root: Path, videos: Sequence[VideoRow], records: Mapping[str, Audited], rules: IngestParams, keep: float
) -> dict[str, str]:
    """A JPEG as a data address for each video's middle clip; a video that cannot be read any more has none.

    Only the clip's frames are read: what the audit has measured says where they are.
    """
    known = {
        root / video.path: Accepted.of(measured) for video in videos for measured in [records[video.path].measurement]
    }
    result = {}
    with IsolatedFrames(Limits.of(rules), 1, accepted=known) as reader:
        for video in videos:
            step = video.frame_step

            def middle(accepted: Accepted, step: int = step) -> list[int]:
                count = min(CLIP_FRAMES, (accepted.frames - 1) // step + 1) // TUBELET * TUBELET
                first = (accepted.frames - 1 - (count - 1) * step) // 2
                return [first + place * step for place in range(count)]

            try:
                _, frames_THWC = reader.frames(root / video.path, middle, SHORT_SIDE)
            except VideoError:
                continue
            result[video.path] = _address(strip(frames_THWC, keep))
    return result


def strip(frames_THWC: U8, keep: float) -> U8:
    """The picture, uint8 RGB: the first frame of each slot, and below it what is left of it."""
    from PIL import Image

    kept_SGG = kept_places(frames_THWC, keep)
    height, width = frames_THWC.shape[1:3]
    tile = (max(1, round(TILE * width / height)), TILE) if width >= height else (TILE, round(TILE * height / width))
    sheet = np.full((2 * tile[1] + GAP, len(kept_SGG) * (tile[0] + GAP) - GAP, 3), 255, np.uint8)
    for slot, kept_GG in enumerate(kept_SGG):
        picture = np.asarray(Image.fromarray(frames_THWC[slot * TUBELET]).resize(tile, Image.Resampling.LANCZOS))
        cells = Image.fromarray(kept_GG.astype(np.uint8) * 255).resize(tile, Image.Resampling.NEAREST)
        bright_HW1 = np.where(np.asarray(cells)[..., None] > 0, 1.0, DIM)
        left = slot * (tile[0] + GAP)
        sheet[: tile[1], left : left + tile[0]] = picture
        sheet[tile[1] + GAP :, left : left + tile[0]] = (picture * bright_HW1).astype(np.uint8)
    return sheet


def kept_places(frames_THWC: U8, keep: float) -> np.ndarray:
    """Which places of each slot change and are among the `keep` of all that change most: bool [S, 14, 14]."""
    builder = MapBuilder(RESOLUTION)
    for frame in frames_THWC:
        builder.add(frame)
    scores_SL = first_as_second(builder.maps()[::TUBELET][: len(frames_THWC) // TUBELET].astype(np.float32))
    count = max(1, int(keep * scores_SL.size + 1e-9))
    kept_N = np.zeros(scores_SL.size, bool)
    kept_N[np.argsort(-scores_SL.ravel(), kind="stable")[:count]] = True
    kept_N &= scores_SL.ravel() > 0
    side = RESOLUTION // 16
    return kept_N.reshape(-1, side, side)


def _address(picture_HWC: U8) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture_HWC).save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
