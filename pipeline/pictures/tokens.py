"""A picture of the tokens that a classifier keeps: a row of time slots, and below each what is left of it.

Legend: S time slots, L places of a slot (rows x columns of patches), N = S * L tokens, K kept ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.arrays import U8
from pipeline.system.files import atomic_path

if TYPE_CHECKING:
    from torch import nn

PATCH = 16
#: Pixels of one frame in the picture, and of the gap between two.
FRAME, GAP = 112, 6
#: Brightness that a dropped token keeps.
DIM = 0.16


def kept_tokens(model: nn.Module, view_THWC: U8, resolution: int) -> np.ndarray:
    """Which tokens of one view are kept: bool [S, rows, columns]."""
    import torch

    from pipeline.data.pixels.normalise import model_pixels

    with torch.inference_mode():
        device = next(model.parameters()).device
        clip_BCTHW = model_pixels(torch.from_numpy(view_THWC[None]), resolution, device)
        tubelets_BNP, grid = model.cut(clip_BCTHW)  # type: ignore[operator]
        # Of one clip nothing is padded, whatever its budget.
        index = model.select(model.patch_embed(tubelets_BNP), grid, tubelets_BNP)[0][0]  # type: ignore[operator]
    mask = np.zeros(grid.tokens, dtype=bool)
    mask[index.cpu().numpy()] = True
    side = resolution // PATCH
    return mask.reshape(-1, side, side)


def draw_kept(view_THWC: U8, kept_SHW: np.ndarray, path: Path) -> None:
    """Write a PNG: above the first frame of each slot, below the same with dropped tokens dimmed."""
    from PIL import Image

    slots = len(kept_SHW)
    step = len(view_THWC) // slots
    width = slots * (FRAME + GAP) - GAP
    sheet = np.full((2 * FRAME + GAP, width, 3), 255, dtype=np.uint8)
    for slot in range(slots):
        frame = np.asarray(Image.fromarray(view_THWC[slot * step]).resize((FRAME, FRAME), Image.Resampling.BILINEAR))
        cells = Image.fromarray((kept_SHW[slot] * 255).astype(np.uint8)).resize(
            (FRAME, FRAME), Image.Resampling.NEAREST
        )
        bright = np.where(np.asarray(cells)[..., None] > 0, 1.0, DIM)
        left = slot * (FRAME + GAP)
        sheet[:FRAME, left : left + FRAME] = frame
        sheet[FRAME + GAP :, left : left + FRAME] = (frame * bright).astype(np.uint8)
    with atomic_path(path) as unfinished:
        Image.fromarray(sheet).save(unfinished, optimize=True)
