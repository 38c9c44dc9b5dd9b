"""Clips that the data benchmarks read: generated 340x256 H.264 files, or the videos of a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.data.cache.build import FrameRule, MapRule, Unit, plan
from pipeline.data.cache.publish import build, publish
from pipeline.data.cache.read import Cache
from pipeline.data.frame_source import VideoFile
from pipeline.data.frame_step import Step
from pipeline.data.ingest.measure import measure
from pipeline.data.ingest.verdicts import Measurement
from pipeline.data.video import VideoError, plain_frames, write_video
from pipeline.data.video.listing import find_videos
from pipeline.errors import InputError

VIDEOS, LENGTH, HEIGHT, WIDTH, SEED = 8, 150, 256, 340, 20
#: [pixels] of cached frames, as in the recipes.
SHORT_SIDE = 256
#: Frames that a benchmark's clip spans.
SPAN = 61


def bench_clips(folder: Path | None, scratch: Path) -> list[VideoFile]:
    """The videos of `folder` that are long enough, or generated ones in `scratch`.

    Raises:
        InputError: no such folder, or no video in it is long enough.
    """
    if folder is None:
        paths = [scratch / f"clip{number}.mp4" for number in range(VIDEOS)]
        for number, path in enumerate(paths):
            write_video(path, scene(number), fps=30, crf=23)
    else:
        paths = find_videos([folder])
    files = []
    for path in paths:
        try:
            # The usual way, which all others are held against, reads with decord.
            plain_frames(path, [0])
        except VideoError:
            continue
        measured = measure(path)
        if not measured.reason and measured.frames_decoded >= SPAN:
            files.append(video_file(path.stem, path, measured))
    if not files:
        raise InputError(f"{folder} holds no video of at least {SPAN} frames that decord reads. Cure: another folder.")
    return files


def video_file(name: str, path: Path, measured: Measurement) -> VideoFile:
    """A measured video of class 0, as a manifest would list it."""
    return VideoFile(
        name,
        path,
        measured.frames_decoded,
        measured.height,
        measured.width,
        measured.sha256,
        label=0,
        reader=measured.reader,
        jumps=measured.jumps,
    )


def scene(number: int, length: int = 0) -> np.ndarray:
    """A textured object moves over a texture that pans slowly, with camera noise: uint8 [T, 256, 340, 3].

    Args:
        length: frames; by default :data:`LENGTH`.
    """
    length = length or LENGTH
    rng = np.random.default_rng([SEED, number])
    wide = _texture(rng, HEIGHT + 40, WIDTH + 60)
    sprite = _texture(rng, 90, 90)
    speed = rng.uniform(0.5, 2.0, 2)
    frames = np.empty((length, HEIGHT, WIDTH, 3), np.uint8)
    for time in range(length):
        pan = int(20 + 20 * np.sin(time / 9)), int(30 + 30 * np.sin(time / 11 + number))
        frame = wide[pan[0] : pan[0] + HEIGHT, pan[1] : pan[1] + WIDTH].astype(np.int16)
        y, x = (int(time * speed[0]) % (HEIGHT - 90), int(time * speed[1]) % (WIDTH - 90))
        frame[y : y + 90, x : x + 90] = sprite
        frame += rng.integers(-9, 10, (HEIGHT, WIDTH, 1), dtype=np.int16)
        frames[time] = frame.clip(0, 255)
    return frames


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    from PIL import Image

    total = np.zeros((height, width, 3), np.float32)
    for size, weight in ((4, 90), (16, 70), (64, 60), (160, 20)):
        coarse = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
        if size > 16:
            coarse = coarse.convert("L").convert("RGB")
        total += np.float32(weight / 255) * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return total.clip(0, 255).astype(np.uint8)


def units_for(files: list[VideoFile], store: str, step: int, resolution: int, keep_every: int = 1) -> list[Unit]:
    """These files as one shard unit, as a large benchmark's units are: some thousand frames, not one video each."""
    frames = FrameRule(store, 90, SHORT_SIDE, keep_every)
    # Planned together, but not cut into the many small units that a small benchmark gets for its workers.
    cut = plan(files, frames, MapRule("pixels", Step(step), resolution, SHORT_SIDE), 512 << 20)
    return [replace(cut[0], videos=tuple(files))]


def caches_of(files: list[VideoFile], scratch: Path, step: int = 4, resolution: int = 224) -> tuple[Cache, Cache]:
    """(raw, JPEG quality 90) caches of these files."""
    caches = []
    for store in ("raw", "jpeg"):
        units = units_for(files, store, step, resolution)
        build(units, scratch / f"store-{store}", 1)
        publish("bench", units, scratch / f"store-{store}", scratch / store)
        caches.append(Cache.open(scratch / store))
    return caches[0], caches[1]
