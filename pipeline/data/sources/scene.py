"""Drawn videos whose statistics are closer to filmed ones: what `generate` draws where a source names a `scene`.

The background has the falling spectrum of pictures of the world, the camera trembles, pixels are noisy, and objects
with a colour of their own lie about. One of them, the mover, covers a named share of the picture; the others only
tremble with the camera. Every pose is drawn from the same distribution for every class, so no single frame tells it.

`motion`: the mover goes right, left, down or up, turns, or changes its size, by about one patch of 16 pixels (of 96) in
two frames. `state_change`: the mover is made of two halves that part or join about the middle, or stay as they are.

Legend: T frames, H = W = size pixels, C colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.sources.draw import Frames, to_uint8
from pipeline.params import SceneParams

Floats = npt.NDArray[np.float32]

#: Amplitudes fall with the frequency to this power: of the background, and of an object's own texture.
BACKGROUND_FALL, OBJECT_FALL = 1.7, 2.5
#: Deviations of the two textures, mean brightness of a background, and how far an object's stands from it.
BACKGROUND_GAIN, OBJECT_GAIN, MEAN, AWAY = 0.08, 0.12, 0.45, 0.3
#: A frame's motion: share of the picture's side, radians, share of a doubling of the size.
SPEED, TURN, ZOOM = 7 / 96, 24 / 180 * np.pi, 1 / 9
#: Pixels over which an outline fades, and over which the camera may wander, of a picture of 96.
EDGE, MARGIN = 0.7 / 96, 16 / 96
#: Side of an object's texture in pixels.
TEXTURE = 64
#: How far the halves of an object part, in its own halves of a side, and in how many frames.
GAP, PARTING = 1.1, 4.0


@dataclass(frozen=True)
class Thing:
    """An object: its texture and, for each frame [T], centre, angle, size and the gap between its halves."""

    texture: Floats
    x: Floats
    y: Floats
    angle: Floats
    scale: Floats
    gap: Floats
    half: float


def draw_motion(rng: np.random.Generator, label: int, frames: int, size: int, scene: SceneParams) -> Frames:
    """One clip `[T,H,W,3]` uint8 of class `draw.MOTIONS[label]`."""
    kind, sign = label // 2, 1.0 if label % 2 == 0 else -1.0
    # Time runs symmetrically about the middle: its sign is the only thing that the opposite class flips.
    time = (sign * rng.uniform(0.75, 1.25) * (np.arange(frames) - (frames - 1) / 2)).astype(np.float32)
    still, half = 0 * time, _half(scene, size)
    centre, angle, phase = rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi), rng.uniform()
    things = [_resting(rng, frames, size, half) for _ in range(scene.distractors)]
    mover = Thing(
        _texture(rng),
        centre[0] + (SPEED * size * time if kind == 0 else still),
        centre[1] + (SPEED * size * time if kind == 1 else still),
        angle + (TURN * time if kind == 2 else still),
        # A sawtooth in log-scale with a random phase: a single frame's size says nothing about growing or shrinking.
        _sizes(phase + (ZOOM * time if kind == 3 else still)),
        still,
        half,
    )
    return _filmed(rng, [*things, mover], frames, size, scene)


def draw_state_change(rng: np.random.Generator, label: int, frames: int, size: int, scene: SceneParams) -> Frames:
    """One clip `[T,H,W,3]` uint8; `label` 1: the object opens or closes, 0: it keeps its state."""
    time, still, half = np.arange(frames, dtype=np.float32), np.zeros(frames, np.float32), _half(scene, size)
    things = [_resting(rng, frames, size, half) for _ in range(scene.distractors)]
    opened = bool(rng.integers(2))
    progress = np.clip((time - rng.uniform(0.42, 0.58) * frames) / PARTING + 0.5, 0, 1)
    openness = (1 - progress if opened else progress) if label else still + opened
    place, angle, drift = rng.uniform(0.3, 0.7, 2) * size, rng.uniform(0, 2 * np.pi), rng.uniform(-0.01, 0.01, 2) * size
    changing = Thing(
        _texture(rng), place[0] + drift[0] * time, place[1] + drift[1] * time, angle + still, 1 + still,
        (GAP * half * openness).astype(np.float32), half,
    )  # fmt: skip
    return _filmed(rng, [*things, changing], frames, size, scene)


def falling_spectrum(rng: np.random.Generator, size: int, fall: float) -> Floats:
    """A random picture [H,W,3] of deviation 1 whose amplitudes fall as frequency to the power `fall`; it tiles."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) * size
    frequency[0, 0] = np.inf  # no mean
    phase = rng.random((4, *frequency.shape), dtype=np.float32)
    waves = np.fft.irfft2(frequency**-fall * np.exp(2j * np.pi * phase), s=(size, size))
    waves /= waves.std(axis=(1, 2), keepdims=True)
    # Mostly brightness, some colour.
    picture: Floats = np.stack([0.9 * waves[0] + 0.45 * colour for colour in waves[1:]], axis=-1).astype(np.float32)
    return picture


def _half(scene: SceneParams, size: int) -> float:
    """Half a side of a square that covers the scene's share of the picture."""
    return 0.5 * float(np.sqrt(scene.mover_share)) * size


def _sizes(phase: npt.NDArray[np.floating]) -> Floats:
    return (0.7 * 2.0 ** (phase % 1.0)).astype(np.float32)


def _texture(rng: np.random.Generator) -> Floats:
    away = AWAY * rng.uniform(0.7, 1.2) * (1 if rng.integers(2) else -1)
    colour = (MEAN + away + rng.uniform(-0.15, 0.15, 3)).astype(np.float32)
    picture: Floats = np.clip(colour + OBJECT_GAIN * falling_spectrum(rng, TEXTURE, OBJECT_FALL), 0, 1)
    return picture


def _resting(rng: np.random.Generator, frames: int, size: int, half: float) -> Thing:
    """An object like the mover in all but that it rests."""
    still = np.zeros(frames, np.float32)
    x, y = rng.uniform(0, size, 2)
    turn, scale = rng.uniform(0, 2 * np.pi), _sizes(rng.uniform() + still)
    return Thing(_texture(rng), x + still, y + still, turn + still, scale, still, half)


def _filmed(rng: np.random.Generator, things: list[Thing], frames: int, size: int, scene: SceneParams) -> Frames:
    """The scene from a trembling camera with a noisy sensor, later things over earlier ones."""
    margin = max(2, round(MARGIN * size))
    background = MEAN + BACKGROUND_GAIN * falling_spectrum(rng, size + 2 * margin, BACKGROUND_FALL)
    path = np.cumsum(rng.normal(0, scene.camera * size / 96, (frames, 2)), axis=0)
    path = np.clip(path - path.mean(axis=0), 1 - margin, margin - 1).astype(np.float32)
    video = np.empty((frames, size, size, 3), np.float32)
    for number, (down, right) in enumerate(path):
        picture = _window(background, margin + down, margin + right, size)
        for thing in things:
            _lay_over(picture, thing, number, down, right)
        video[number] = picture
    if scene.noise:
        video += np.float32(scene.noise) * rng.standard_normal(video.shape, dtype=np.float32)
    return to_uint8(video)


def _window(picture: Floats, top: np.float32, left: np.float32, size: int) -> Floats:
    """The square of a picture from a fractional place on."""
    row, column = int(top), int(left)
    down, right = np.float32(top - row), np.float32(left - column)
    part = picture[row : row + size + 1, column : column + size + 1]
    part = part[:-1] * (1 - down) + part[1:] * down
    window: Floats = part[:, :-1] * (1 - right) + part[:, 1:] * right
    return window


def _lay_over(picture: Floats, thing: Thing, number: int, down: np.float32, right: np.float32) -> None:
    """Draw a thing at a frame's pose; the plane wraps, so that no place is special."""
    size = picture.shape[0]
    grid, middle = np.arange(size, dtype=np.float32), size / 2
    scale = thing.scale[number]
    cos, sin = np.cos(thing.angle[number]) / scale, np.sin(thing.angle[number]) / scale
    dx = ((grid - thing.x[number] + right + middle) % size - middle)[None].astype(np.float32)
    dy = ((grid - thing.y[number] + down + middle) % size - middle)[:, None].astype(np.float32)
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    gap, half = thing.gap[number], thing.half
    beside = np.abs(v) - gap / 2 if gap > 0 else np.float32(np.inf)
    v = v - np.sign(v) * gap / 2
    # A square with one cut corner: its outline shows how it is turned. Positive inside, in pixels.
    depth = np.minimum(half - np.maximum(np.abs(u), np.abs(v)), (1.3 * half - u - v) / np.sqrt(2))
    depth = np.minimum(depth, beside) * scale
    edge = EDGE * size
    seen = depth > -4 * edge
    cover = (1 / (1 + np.exp(-depth[seen] / edge)))[:, None].astype(np.float32)
    picture[seen] = (1 - cover) * picture[seen] + cover * _sample(thing.texture, v[seen], u[seen], size)


def _sample(texture: Floats, down: Floats, right: Floats, size: int) -> Floats:
    """Bilinear look-up around the texture's middle, which tiles; a pixel of a picture of 96 is one of the texture's."""
    rows, columns = (TEXTURE / 2 + offset * (96 / size) for offset in (down, right))
    top, left = np.floor(rows).astype(np.intp), np.floor(columns).astype(np.intp)
    low, far = (rows - top).astype(np.float32)[:, None], (columns - left).astype(np.float32)[:, None]
    row, column = top % TEXTURE * TEXTURE, left % TEXTURE
    below, beyond = (top + 1) % TEXTURE * TEXTURE, (left + 1) % TEXTURE
    flat = texture.reshape(-1, 3)
    upper = flat[row + column] * (1 - far) + flat[row + beyond] * far
    lower = flat[below + column] * (1 - far) + flat[below + beyond] * far
    return upper * (1 - low) + lower * low
