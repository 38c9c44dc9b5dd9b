"""Draws augmentations.png beside this file: what every augmentation does to a clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from pipeline.bench.clips import scene
from pipeline.data.loader import Batch
from pipeline.data.pixels.normalise import denormalise
from pipeline.data.pixels.transforms import FinetuneTransform, PretrainTransform

SIDE, FRAMES, GAP, LABEL = 96, 4, 4, 150


def clip(number: int) -> np.ndarray:
    """Four frames of a generated clip with a letter that shows mirroring: uint8 [T, 256, 340, 3]."""
    frames = scene(number)[:64:16].copy()
    for time, frame in enumerate(frames):
        picture = Image.fromarray(frame)
        ImageDraw.Draw(picture).text((60 + 25 * time, 70), "RF"[number % 2], (255, 255, 255), font_size=120)
        frames[time] = np.asarray(picture)
    return frames


def batch(epoch: int) -> Batch:
    """Two clips; the epoch changes what is drawn."""
    clips = torch.from_numpy(np.stack([clip(0), clip(1)]))
    numbers = torch.arange(2)
    sizes = torch.tensor([[256, 340]] * 2)
    return Batch(clips, sizes, numbers, numbers, numbers, torch.zeros(2, FRAMES).long(), seed=3, epoch=epoch)


def pictures(clips_BCTHW: torch.Tensor) -> np.ndarray:
    """Back from normalised values to uint8 [B, T, H, W, 3]."""
    return (denormalise(clips_BCTHW) * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1).numpy()


def main() -> None:
    """Write the picture beside this file."""
    plain = {"flip": 0.0, "crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    whole = batch(0).clips_BTHWC[:, :, :, 42:298]
    resized = [[Image.fromarray(f).resize((SIDE, SIDE)) for f in one.numpy()] for one in whole]
    rows: list[tuple[str, np.ndarray]] = [("source (centre)", np.stack([np.stack(one) for one in resized]))]
    multi_scale = PretrainTransform(SIDE, (1, 0.875, 0.75, 0.66))
    rows += [("multi-scale crop", pictures(multi_scale(batch(epoch), "cpu")[0])) for epoch in (0, 1)]
    cases: dict[str, dict[str, object]] = {
        "random-resized crop, flip": {"flip": 0.5, "crop_scale": (0.08, 1.0), "crop_ratio": (0.75, 1.33)},
        "RandAugment m7-n4": plain | {"rand_augment": "m7-n4-mstd0.5-inc1"},
        "random erasing": plain | {"random_erasing": 1.0},
        "mixup 0.8": plain | {"mixup": 0.8},
        "cutmix 1.0": plain | {"cutmix": 1.0},
        "all together": {
            "rand_augment": "m7-n4-mstd0.5-inc1",
            "random_erasing": 0.5,
            "mixup": 0.8,
            "cutmix": 1.0,
        },
    }
    for name, settings in cases.items():
        for epoch in (4, 5):
            transform = FinetuneTransform(SIDE, 2, **settings)  # type: ignore[arg-type]
            rows.append((name, pictures(transform(batch(epoch), "cpu")[0])))
    width = LABEL + 2 * FRAMES * (SIDE + GAP) + 3 * GAP
    sheet = Image.new("RGB", (width, len(rows) * (SIDE + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, clips) in enumerate(rows):
        top = GAP + number * (SIDE + GAP)
        draw.text((GAP, top + SIDE // 2 - 6), name, "black", font_size=12)
        for place, frame in enumerate(clips.reshape(-1, SIDE, SIDE, 3)):
            left = LABEL + place * (SIDE + GAP) + (2 * GAP if place >= FRAMES else 0)
            sheet.paste(Image.fromarray(frame), (left, top))
    sheet.quantize(256).save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main()
