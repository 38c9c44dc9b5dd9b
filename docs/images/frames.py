"""Draws frames.png beside this file: the frames that information-intensive selection takes, beside uniform ones.

python docs/images/frames.py VIDEO [VIDEO ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from pipeline.pictures import look, read_window

SLOTS, CANDIDATES, STEP = 8, 12, 4
SIDE, GAP, LABEL, BAR = 78, 5, 165, 26
ORANGE, GREY = (230, 159, 0), (190, 190, 190)


def rows(video: Path) -> tuple[np.ndarray, list[int], list[int], list[int]]:
    """First frames [A, H, W, 3] of the candidate slots, their kept tokens, the chosen and the uniform slots."""
    clip, _ = read_window(video, 2 * CANDIDATES, STEP, None, 224)
    found = look(None, clip, SLOTS, torch.Generator().manual_seed(0))
    assert found.candidates_ACHW is not None
    assert found.counts_A is not None
    assert found.slots_S is not None
    pixels = (found.candidates_ACHW.permute(0, 2, 3, 1) * 255).byte().numpy()
    first = (CANDIDATES - SLOTS) // 2  # a clip of the same frame step from the middle of the window
    return pixels, found.counts_A.tolist(), found.slots_S.tolist(), list(range(first, first + SLOTS))


def main(videos: list[Path]) -> None:
    """Write the picture beside this file."""
    height = 2 * (SIDE + BAR + GAP) + 6 * GAP
    sheet = Image.new("RGB", (LABEL + CANDIDATES * (SIDE + GAP) + GAP, len(videos) * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, video in enumerate(videos):
        pixels, counts, chosen, uniform = rows(video)
        for row, (name, slots) in enumerate((("uniform", uniform), ("frame selection", chosen))):
            top = GAP + number * height + row * (SIDE + BAR + GAP)
            share = sum(counts[slot] for slot in slots) / sum(counts)
            draw.text((GAP, top + 12), name, "black", font_size=15)
            draw.text((GAP, top + 34), f"{share:.0%} of the tokens kept", (90, 90, 90), font_size=11)
            draw.text((GAP, top + 50), video.stem[:26], (90, 90, 90), font_size=11)
            for slot in range(CANDIDATES):
                left, taken = LABEL + slot * (SIDE + GAP), slot in slots
                tile = Image.fromarray(pixels[slot]).resize((SIDE, SIDE))
                sheet.paste(
                    tile if taken else Image.blend(tile, Image.new("RGB", tile.size, "white"), 0.75), (left, top)
                )
                if taken:
                    draw.rectangle((left - 1, top - 1, left + SIDE, top + SIDE), outline=ORANGE, width=3)
                wide = round(SIDE * counts[slot] / max(counts))
                colour = ORANGE if taken else GREY
                draw.rectangle((left, top + SIDE + 3, left + max(1, wide), top + SIDE + 9), fill=colour)
                draw.text((left, top + SIDE + 10), str(counts[slot]), "black", font_size=11)
    sheet.quantize(256).save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
