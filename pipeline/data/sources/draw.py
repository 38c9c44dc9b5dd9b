"""Pictures of the two generated tasks, as pure functions of a random generator.

Everything is smooth: textures are slow waves and the sprite's edge is soft, so that a hidden token can be told from
its neighbours in space and time. On sharp noise a masked autoencoder learns nothing but the mean.

`motion`: a textured sprite moves over a static texture in one of eight ways. Every pose is drawn from the same
distribution for every class, and the opposite motion with the same draws is the same video backwards, so no single
frame tells the class.

`state_change`: an object made of two halves lies on a texture, closed or open, and drifts a little while a bar passes
over the scene. In class 1 the halves part or join about the middle, which every clip of two thirds of the video sees;
in class 0 they do not.

Legend: T frames, H = W = size pixels, C colours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOTIONS = ("right", "left", "down", "up", "clockwise", "anticlockwise", "grow", "shrink")
STATES = ("unchanged", "changed")

Floats = NDArray[np.floating]
Frames = NDArray[np.uint8]

#: How far the sprite stands out: its range of brightness overlaps with the background's.
BACKGROUND_GAIN = 0.6
SPRITE_FLOOR, SPRITE_GAIN = 0.4, 0.6
#: Wavelengths of the textures, as shares of the picture's size.
WAVELENGTHS = (1.2, 2.5)
#: [pixels] over which the sprite's edge fades, of a picture of 64.
EDGE = 5.0 / 64
#: The passing bar hides this share of what lies under it.
BAR_OPACITY = 0.5


def draw_motion(rng: np.random.Generator, label: int, frames: int, size: int) -> Frames:
    """One clip `[T,H,W,3]` uint8 of class `MOTIONS[label]`."""
    background = BACKGROUND_GAIN * texture(rng, size)
    sprite = SPRITE_FLOOR + SPRITE_GAIN * texture(rng, size)
    centre_x, centre_y = rng.uniform(0, size, 2)
    angle = rng.uniform(0, 2 * np.pi)
    phase = rng.uniform(0, 1)
    radius = rng.uniform(0.16, 0.22) * size
    speed = rng.uniform(0.8, 1.2)

    # Time runs symmetrically about the clip's middle: its sign is the only thing that the opposite class flips.
    sign = 1.0 if label % 2 == 0 else -1.0
    time = sign * speed * (np.arange(frames, dtype=np.float32) - (frames - 1) / 2)
    kind = label // 2
    move = time * size / 24
    x = centre_x + (move if kind == 0 else 0 * move)
    y = centre_y + (move if kind == 1 else 0 * move)
    turn = angle + (time * np.pi / 12 if kind == 2 else 0 * time)
    # A sawtooth in log-scale with a random phase: a single frame's size says nothing about growing or shrinking.
    saw = (phase + (time / 14 if kind == 3 else 0 * time)) % 1.0
    scale = 0.7 * 2.0**saw
    return to_uint8(_composite(background, sprite, x, y, turn, scale, radius, gap=0 * time))


def draw_state_change(rng: np.random.Generator, label: int, frames: int, size: int) -> Frames:
    """One clip `[T,H,W,3]` uint8; `label` 1: the object opens or closes, 0: it keeps its state."""
    background = BACKGROUND_GAIN * texture(rng, size)
    sprite = SPRITE_FLOOR + SPRITE_GAIN * texture(rng, size)
    time = np.arange(frames, dtype=np.float32)
    radius = rng.uniform(0.18, 0.24) * size
    drift_x, drift_y = rng.uniform(-0.1, 0.1, 2)
    x = rng.uniform(0.35, 0.65) * size + drift_x * time
    y = rng.uniform(0.35, 0.65) * size + drift_y * time
    angle = np.full(frames, rng.uniform(0, 2 * np.pi), np.float32)
    opened = bool(rng.integers(2))
    when = rng.uniform(0.46, 0.54) * frames
    progress = np.clip((time - when) / 8 + 0.5, 0, 1)
    openness = (1 - progress if opened else progress) if label else np.full(frames, float(opened), np.float32)
    video = _composite(background, sprite, x, y, angle, np.ones_like(time), radius, gap=openness * 0.4 * size)
    return to_uint8(_with_passing_bar(rng, video))


def texture(rng: np.random.Generator, size: int) -> Floats:
    """A slow plane wave between a dark and a bright colour, `[H,W,3]` in [0,1]."""
    wavelength = rng.uniform(*WAVELENGTHS) * size
    direction, phase = rng.uniform(0, 2 * np.pi, 2)
    grid = np.arange(size, dtype=np.float32) - size / 2
    along = np.cos(direction) * grid[None, :] + np.sin(direction) * grid[:, None]
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * along / wavelength + phase)
    dark, bright = rng.uniform(0, 0.3, 3), rng.uniform(0.7, 1, 3)
    return (dark + (bright - dark) * wave[..., None]).astype(np.float32)


def to_uint8(video: Floats) -> Frames:
    return np.clip(np.rint(video * 255), 0, 255).astype(np.uint8)


def _composite(
    background: Floats,
    sprite: Floats,
    x: Floats,
    y: Floats,
    turn: Floats,
    scale: Floats,
    radius: float,
    gap: Floats,
) -> Floats:
    """Lay the sprite over the background at each frame's pose; the plane wraps, so that no pose is special."""
    size = background.shape[0]
    grid = np.arange(size, dtype=np.float32)
    half = size / 2
    # Offsets of every pixel from the sprite's centre on the wrapped plane, in the sprite's own frame.
    dx = ((grid[None, None, :] - x[:, None, None] + half) % size) - half
    dy = ((grid[None, :, None] - y[:, None, None] + half) % size) - half
    cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    u = (cos * dx + sin * dy) / scale[:, None, None]
    v = (-sin * dx + cos * dy) / scale[:, None, None]
    # A gap moves the halves apart along v: shift each half back before it is looked up.
    gap = gap[:, None, None]
    beside_gap = np.where(gap > 0, np.abs(v) - gap / 2, np.inf)
    v = v - np.sign(v) * gap / 2
    # A square with one cut corner: its outline shows how it is turned. Positive inside, in pixels.
    depth = np.minimum(radius - np.maximum(np.abs(u), np.abs(v)), (1.3 * radius - u - v) / np.sqrt(2))
    depth = np.minimum(depth, beside_gap) * scale[:, None, None]
    cover = _soft(depth, size)
    seen = cover > 1e-3
    video = np.repeat(background[None], len(x), axis=0)
    cover = cover[seen][:, None]
    video[seen] = (1 - cover) * video[seen] + cover * _sample(sprite, v[seen] + half, u[seen] + half)
    return video


def _with_passing_bar(rng: np.random.Generator, video: Floats) -> Floats:
    """A soft, half-transparent bar crosses at a random time, in both classes: motion alone does not tell the state."""
    frames, size = video.shape[:2]
    colour = 0.25 + 0.3 * rng.random(3, dtype=np.float32)
    width = rng.uniform(0.06, 0.1) * size
    start, end = (-width, size + width) if rng.integers(2) else (size + width, -width)
    middle = rng.uniform(0.3, 0.7) * frames
    position = start + (end - start) * ((np.arange(frames) - middle) / frames + 0.5)
    axis = np.arange(size)[None, :] - position[:, None]
    cover = _soft(width / 2 - np.abs(axis), size)
    mask = BAR_OPACITY * (cover[:, None, :, None] if rng.integers(2) else cover[:, :, None, None])
    return (1 - mask) * video + mask * colour


def _soft(depth: Floats, size: int) -> Floats:
    """How much of a pixel is covered, 0 to 1, by what reaches `depth` pixels beyond it."""
    cover: Floats = 1 / (1 + np.exp(-4 * depth / (EDGE * size)))
    return cover


def _sample(image: Floats, rows: Floats, columns: Floats) -> Floats:
    """Bilinear look-up of `image[rows, columns]`, clamped at the border."""
    height, width = image.shape[:2]
    rows, columns = np.clip(rows, 0, height - 1.001), np.clip(columns, 0, width - 1.001)
    top, left = rows.astype(np.intp), columns.astype(np.intp)
    down = (rows - top).astype(np.float32)[..., None]
    right = (columns - left).astype(np.float32)[..., None]
    flat = image.reshape(-1, image.shape[2])
    corner = top * width + left
    upper = flat[corner] * (1 - right) + flat[corner + 1] * right
    lower = flat[corner + width] * (1 - right) + flat[corner + width + 1] * right
    return upper * (1 - down) + lower * down
