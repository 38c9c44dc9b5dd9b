"""A picture of a video and its nearest neighbours: a row of frames for each.

Shapes: T frames of a clip, s pixels of a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.data.arrays import U8
from pipeline.pictures.draw import ACCENT, BACK, FAINT, GAP, MARGIN, TEXT
from pipeline.system.files import atomic_path
from pipeline.system.text import printable

#: [pixels] A frame, and the line of text above a row; frames of a row.
TILE, LINE, SHOWN = 112, 24, 8


def draw_neighbours(rows: Sequence[tuple[str, U8]], path: Path) -> None:
    """Write a PNG: the first row is the video that was asked for, the others its neighbours.

    Args:
        rows: (what is written above it, frames uint8 [T, s, s, 3]).
    """
    shown = min(SHOWN, *(len(frames) for _, frames in rows))
    width = 2 * MARGIN + shown * (TILE + GAP) - GAP
    height = 2 * MARGIN + len(rows) * (LINE + TILE + GAP + 4)
    image = Image.new("RGB", (width, height), BACK)
    draw = ImageDraw.Draw(image)
    y = MARGIN
    for number, (text, frames_THWC) in enumerate(rows):
        colour = ACCENT if number == 0 else TEXT if number <= 3 else FAINT
        draw.text((MARGIN, y), _fitting(draw, printable(text), width - 2 * MARGIN), colour, ImageFont.load_default(15))
        y += LINE
        for column, place in enumerate(np.linspace(0, len(frames_THWC) - 1, shown).round().astype(int)):
            tile = Image.fromarray(frames_THWC[place]).resize((TILE, TILE), Image.Resampling.LANCZOS)
            image.paste(tile, (MARGIN + column * (TILE + GAP), y))
        if number == 0:
            draw.rectangle((MARGIN - 3, y - 3, width - MARGIN + 2, y + TILE + 2), outline=ACCENT, width=2)
        y += TILE + GAP + 4
    with atomic_path(path) as unfinished:
        image.save(unfinished, "PNG")


def _fitting(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """The text, or its beginning and its end where it is too wide."""
    font = ImageFont.load_default(15)
    if draw.textlength(text, font) <= width:
        return text
    kept = len(text)
    while kept > 10 and draw.textlength(f"{text[: kept // 3]} ... {text[-(kept - kept // 3) :]}", font) > width:
        kept -= 2
    return f"{text[: kept // 3]} ... {text[-(kept - kept // 3) :]}"
