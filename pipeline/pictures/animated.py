"""A clip in motion beside its kept tokens, as a small animated WebP.

Legend: T frames of a clip, S time slots.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.data.arrays import U8
from pipeline.pictures.tokens import DIM
from pipeline.system.files import atomic_path

#: [pixels] side of one of the two pictures, and of the gap between them.
SIDE, GAP = 128, 4
#: [ms] that one frame is shown.
FRAME_MS = 125
#: WebP's, of 100: 24 clips stay below a MiB.
QUALITY = 55


def draw_animated(view_THWC: U8, kept_SHW: np.ndarray, path: Path) -> None:
    """Write an animated WebP: left the clip, right the same with dropped tokens dimmed.

    Args:
        view_THWC: square frames, uint8.
        kept_SHW: which tokens are kept, bool (`tokens.kept_tokens`).
    """
    from PIL import Image

    step = len(view_THWC) // len(kept_SHW)
    frames = []
    for number, frame_HWC in enumerate(view_THWC):
        picture = np.asarray(Image.fromarray(frame_HWC).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        cells = Image.fromarray((kept_SHW[min(number // step, len(kept_SHW) - 1)] * 255).astype(np.uint8))
        kept = np.asarray(cells.resize((SIDE, SIDE), Image.Resampling.NEAREST))[..., None] > 0
        both = np.full((SIDE, 2 * SIDE + GAP, 3), 128, dtype=np.uint8)
        both[:, :SIDE] = picture
        both[:, SIDE + GAP :] = (picture * np.where(kept, 1.0, DIM)).astype(np.uint8)
        frames.append(Image.fromarray(both))
    with atomic_path(path) as unfinished:
        frames[0].save(
            unfinished,
            format="WEBP",
            save_all=True,
            append_images=frames[1:],
            duration=FRAME_MS,
            loop=0,
            quality=QUALITY,
            method=4,
        )
