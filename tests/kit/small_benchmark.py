"""A small benchmark of real H.264 files with its manifest, in the current folder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline import layout
from pipeline.data import manifest
from pipeline.data.ingest.measure import measure
from pipeline.data.video import write_video
from pipeline.params import Params, check_params, load_params

ROOT = Path(__file__).resolve().parents[2]
#: decord cannot copy frames of some narrower widths (48 pixels, for one).
SIZE = 64


def params(**overrides: Any) -> Params:
    """The recipe drawn with one benchmark `small` of 64-pixel videos."""
    raw = load_params(ROOT / "recipes" / "drawn.yaml").model_dump()
    data = raw["benchmarks"].pop("motion")
    raw["benchmarks"] = {"small": data}
    raw["compare"]["benchmarks"] = ["small"]
    raw["clip"] |= {"frames": 8, "resolution": 32}
    raw["preprocess"] |= {"short_side": 64, "workers": 1}
    raw["pretrain"] |= {"corpus": ["small"], "batch": 8}
    raw["finetune"] |= {"batch": 8, "label_fraction": 1.0}
    for dotted, value in overrides.items():
        node = raw
        *parents, last = dotted.split("__")
        for part in parents:
            node = node[part]
        node[last] = value
    return check_params(raw)


def moving_frames(seed: int, frames: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """A bright square that rests, then moves, over smooth random texture: uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 130, (6, 6, 3), dtype=np.uint8)
    back = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    clip = np.repeat(back[None], frames, axis=0).copy()
    for number in range(frames):
        x = 4 + 2 * max(0, number - frames // 2)
        clip[number, 10:26, x % (width - 16) : x % (width - 16) + 16] = 200 + seed % 50
    return clip


def name_classes(names: list[str], name: str = "small") -> None:
    """Write the list of classes beside the manifest, as the download does."""
    layout.manifest_dir(name).mkdir(parents=True, exist_ok=True)
    manifest.save_classes(layout.manifest_dir(name), names, [])


def make(
    count: int = 24,
    frames: int = 20,
    sizes: tuple[tuple[int, int], ...] = ((SIZE, SIZE),),
    name: str = "small",
    splits: tuple[str, ...] = ("train", "train", "train", "test"),
    draw: Callable[[int], np.ndarray] | None = None,
    labels: Callable[[int], tuple[int, ...]] | None = None,
) -> list[str]:
    """Write `count` videos and their manifest; returns the video ids.

    Args:
        draw: the frames of a video by its number; else `moving_frames`, of classes 0 to 7 in turn.
        labels: its classes; with several of some video the manifest has the column for them.
    """
    raw = layout.raw_dir(name)
    classes = labels or (lambda number: (number % 8,))
    several = any(len(classes(number)) > 1 for number in range(count))
    rows = []
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        path = raw / f"v{number:03d}.mp4"
        pictures = moving_frames(number, frames, height, width) if draw is None else draw(number)
        frames, height, width, _ = pictures.shape
        write_video(path, pictures, fps=12)
        split = splits[number % len(splits)]
        rows.append(
            {
                "video_id": path.stem,
                "path": path.name,
                "split": split,
                "splits": split,
                "label": classes(number)[0],
                "label_name": "|".join(map(str, classes(number))),
                **({"labels": classes(number)} if several else {}),
                "source": "test",
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "bytes": path.stat().st_size,
                "frames_declared": frames,
                "frames_decoded": frames,
                "fps": 12.0,
                "width": width,
                "height": height,
                "rotation": 0,
                "reader": "pyav",
                "jumps": measure(path).jumps,
                "repeated_run": 0,
                "status": "ok",
                "reason": "",
            }
        )
    manifest.save(manifest.from_rows(rows), layout.manifest_dir(name) / "manifest.parquet")
    name_classes([f"motion {number}" for number in range(8)], name)
    return [str(row["video_id"]) for row in rows]
