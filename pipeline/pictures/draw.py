"""Draws a `Look` at a clip: a grid to read at a glance, and an animation.

Shapes: T frames, S slots, N tokens, H x W pixels of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.system.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

    from models.selection import Grid

TILE, GAP, LABEL, MARGIN = 144, 6, 190, 20
BACK, EMPTY, TEXT, FAINT, ACCENT = (
    (17, 20, 24),
    (38, 43, 51),
    (236, 239, 244),
    (140, 150, 165),
    (255, 176, 32),
)
DROPPED = 0.16  # brightness that is left of a dropped token
STOPS = np.array([[20, 16, 48], [120, 28, 109], [229, 92, 48], [246, 215, 70], [252, 255, 200]], dtype=float)


class Look(NamedTuple):
    """Everything a picture shows of one clip. Pixels are floats in [0, 1]; masks are over the N tokens."""

    grid: Grid
    pixels_TCHW: Tensor
    scores_N: Tensor
    kept_N: Tensor
    shown_N: Tensor | None
    rebuilt_TCHW: Tensor | None
    candidates_ACHW: Tensor | None
    counts_A: Tensor | None
    slots_S: Tensor | None
    times_T: list[float] | None = None


def pictures_at(path: Path, animation: str) -> list[Path]:
    """`path`.png and, unless `animation` is "none", `path`.gif or .webp."""
    return [path.with_name(f"{path.name}.{suffix}") for suffix in ("png", animation) if suffix != "none"]


def save_pictures(look: Look, path: Path, title: str, animation: str) -> list[Path]:
    """Write the files that :func:`pictures_at` names; each appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = pictures_at(path, animation)
    _save(draw_grid(look, title), written[0])
    if animation != "none":
        frames = draw_frames(look)
        _save(frames[0], written[1], save_all=True, append_images=frames[1:], duration=160, loop=0)
    return written


def draw_grid(look: Look, title: str) -> Image.Image:
    """Rows: the choice of slots, frames, score bars, scores, kept tokens, what the encoder sees, reconstruction."""
    rows = _rows(look)
    slots, tile = look.grid.slots, TILE
    width = MARGIN * 2 + LABEL + slots * (tile + GAP)
    strip = 0 if look.candidates_ACHW is None else 150
    height = MARGIN * 2 + 60 + strip + 96 + len(rows) * (tile + GAP)
    image = Image.new("RGB", (width, height), BACK)
    draw = ImageDraw.Draw(image)
    draw.text((MARGIN, MARGIN), title, TEXT, _font(20))
    draw.text((MARGIN, MARGIN + 28), summary(look), FAINT, _font(15))
    y = MARGIN + 60
    if strip:
        _draw_choice(image, draw, look, y, width)
        y += strip
    for number, (name, note, frames_THWC) in enumerate(rows):
        if number == 1:
            _draw_bars(draw, look, y)
            y += 96
        _label(draw, y + tile // 2 - 28, name, note)
        for slot in range(slots):
            x = MARGIN + LABEL + slot * (tile + GAP)
            image.paste(_tile(frames_THWC[2 * slot], tile), (x, y))
            if number == 0 and look.times_T:
                _tag(draw, x, y, f"{look.times_T[2 * slot]:.2f} s")
        y += tile + GAP
    return image


def draw_frames(look: Look) -> list[Image.Image]:
    """One picture per frame of the clip: the rows side by side, in motion."""
    rows, tile = _rows(look), 224
    width = MARGIN + len(rows) * (tile + GAP) + MARGIN
    frames = []
    for t in range(len(look.pixels_TCHW)):
        image = Image.new("RGB", (width, tile + 62), BACK)
        draw = ImageDraw.Draw(image)
        for column, (name, note, frames_THWC) in enumerate(rows):
            x = MARGIN + column * (tile + GAP)
            draw.text((x, 8), name, TEXT, _font(17))
            if column:  # the first row's note is about the grid
                draw.text((x, 30), note.replace("\n", " "), FAINT, _font(12))
            image.paste(_tile(frames_THWC[t], tile), (x, 50))
        frames.append(image)
    return frames


def summary(look: Look) -> str:
    """Counts and shares in one line."""
    tokens, kept = look.grid.tokens, int(look.kept_N.sum())
    parts = [f"{tokens} tokens", f"{kept} kept ({kept / tokens:.0%})"]
    if look.shown_N is not None:
        shown = int(look.shown_N.sum())
        parts += [f"{shown} shown to the encoder ({shown / tokens:.0%})", f"{kept - shown} to reconstruct"]
    return "  ·  ".join([*parts, f"{tokens - kept} dropped"])


def _rows(look: Look) -> list[tuple[str, str, np.ndarray]]:
    """(name, note, frames [T, H, W, 3] in [0, 1]) of each row."""
    pixels = look.pixels_TCHW.permute(0, 2, 3, 1).numpy()
    kept, tokens = int(look.kept_N.sum()), look.grid.tokens
    rows = [
        ("original", "first frame\nof each slot", pixels),
        ("ReRo score", "distance to the\nslot before", _heat(look)),
        ("kept", f"{kept} tokens, {kept / tokens:.0%}", _masked(pixels, look.kept_N, look, DROPPED)),
    ]
    if look.shown_N is not None:
        shown = int(look.shown_N.sum())
        rows.append(("encoder sees", f"{shown} tokens, {shown / tokens:.0%}", _masked(pixels, look.shown_N, look, 0)))
    if look.rebuilt_TCHW is not None:
        rebuilt = look.rebuilt_TCHW.permute(0, 2, 3, 1).numpy()
        note = "seen + predicted\n(mean, contrast true)"
        rows.append(("reconstruction", note, _masked(rebuilt, look.kept_N, look, 0)))
    return rows


def _spread(value_N: Tensor, look: Look, size: Sequence[int]) -> np.ndarray:
    """One value per token as one per pixel and frame: [T, H, W]."""
    cells = value_N.view(*look.grid).numpy().repeat(2, axis=0)
    return cells.repeat(size[0] // look.grid.height, axis=1).repeat(size[1] // look.grid.width, axis=2)


def _masked(pixels_THWC: np.ndarray, mask_N: Tensor, look: Look, rest: float) -> np.ndarray:
    bright = np.where(_spread(mask_N, look, pixels_THWC.shape[1:3]), 1.0, rest)
    return pixels_THWC * bright[..., None] + (1 - bright[..., None]) * np.array(EMPTY) / 255


def _heat(look: Look) -> np.ndarray:
    # The 98th percentile as the top, so that one cut in the video does not darken everything else.
    top = max(float(np.quantile(look.scores_N.numpy(), 0.98)), 1e-12)
    value = np.clip(_spread(look.scores_N, look, look.pixels_TCHW.shape[2:]) / top, 0, 1)
    at = np.linspace(0, 1, len(STOPS))
    return np.stack([np.interp(value, at, STOPS[:, channel]) for channel in range(3)], axis=-1) / 255


def _draw_choice(image: Image.Image, draw: ImageDraw.ImageDraw, look: Look, y: int, width: int) -> None:
    """All candidate slots with their counts of kept tokens; the chosen ones framed, the others dim."""
    if look.candidates_ACHW is None or look.counts_A is None or look.slots_S is None:
        return
    counts, chosen = look.counts_A.tolist(), set(look.slots_S.tolist())
    _label(draw, y + 20, "frame choice", f"{len(chosen)} of {len(counts)} slots drawn,\nodds by kept tokens")
    step = (width - 2 * MARGIN - LABEL) // len(counts)
    size = min(step - 8, 84)
    for slot, count in enumerate(counts):
        x = MARGIN + LABEL + slot * step
        picture = _tile(look.candidates_ACHW[slot].permute(1, 2, 0).numpy(), size)
        if slot in chosen:
            draw.rectangle((x - 3, y - 3, x + size + 2, y + size + 2), outline=ACCENT, width=3)
        else:
            picture = picture.point(lambda value: int(value * 0.4))
        image.paste(picture, (x, y))
        length = round(size * count / max(1, *counts))
        colour = ACCENT if slot in chosen else FAINT
        draw.rectangle((x, y + size + 8, x + length, y + size + 14), fill=colour)
        draw.text((x, y + size + 17), str(count), colour, _font(13))


def _draw_bars(draw: ImageDraw.ImageDraw, look: Look, y: int) -> None:
    """Mean score of each slot as a bar, with how many of its tokens are kept."""
    mean_S = look.scores_N.view(look.grid.slots, -1).mean(1)
    kept_S = look.kept_N.view(look.grid.slots, -1).sum(1).tolist()
    _label(draw, y + 14, "slot score", "mean, and tokens\nkept of the slot")
    top = max(float(mean_S.max()), 1e-12)
    for slot, value in enumerate(mean_S.tolist()):
        x, length = MARGIN + LABEL + slot * (TILE + GAP), round(56 * value / top)
        draw.rectangle((x, y + 66 - length, x + TILE - 1, y + 66), fill=ACCENT)
        draw.line((x, y + 66, x + TILE - 1, y + 66), fill=FAINT)
        draw.text((x, y + 70), f"{value:.3g}  ·  {kept_S[slot]} kept", FAINT, _font(13))


def _label(draw: ImageDraw.ImageDraw, y: int, name: str, note: str) -> None:
    draw.text((MARGIN, y), name, TEXT, _font(18))
    draw.multiline_text((MARGIN, y + 24), note, FAINT, _font(13))


def _tag(draw: ImageDraw.ImageDraw, x: int, y: int, text: str) -> None:
    draw.rectangle((x, y, x + draw.textlength(text, _font(12)) + 8, y + 17), fill=BACK)
    draw.text((x + 4, y + 1), text, TEXT, _font(12))


def _tile(pixels_HWC: np.ndarray, size: int) -> Image.Image:
    image = Image.fromarray((pixels_HWC * 255).round().astype(np.uint8))
    return image.resize((size, size), Image.Resampling.LANCZOS if image.width > size else Image.Resampling.NEAREST)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _save(image: Image.Image, path: Path, **options: Any) -> None:
    with atomic_path(path) as unfinished:
        image.save(unfinished, **options)
