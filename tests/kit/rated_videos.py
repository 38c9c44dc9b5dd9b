"""The same scene in real mp4 files of different rates: each frame's brightness tells its time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import small_benchmark
from PIL import Image

from pipeline.data.video import write_video
from pipeline.params import Params
from pipeline.stages import corpus, download, preprocess

#: [per second], in the order of the files' names; [s] of each file.
RATES = (15, 25, 60)
SECONDS = 4
SIZE = 64


def frames(rate: int, seconds: float = SECONDS) -> np.ndarray:
    """uint8 [T, H, W, 3]: half of each picture is as bright as its time, from 20 at 0 s by 50 a second."""
    back = Image.fromarray(np.random.default_rng(3).integers(30, 220, (8, 8, 3), dtype=np.uint8))
    clip = np.repeat(np.asarray(back.resize((SIZE, SIZE)))[None], round(rate * seconds), axis=0).copy()
    for number, frame in enumerate(clip):
        frame[:, : SIZE // 2] = round(20 + 50 * number / rate)
    return clip


def shown_at(pictures: np.ndarray) -> np.ndarray:
    """[s] when pictures [..., H, W, 3] were shown, by their brightness; to 0.02 s, as grey levels are whole."""
    quarter = pictures[..., 4 : pictures.shape[-3] - 14, 4 : pictures.shape[-2] // 2 - 6, :].astype(np.float64)
    return (quarter.mean(axis=(-3, -2, -1)) - 20) / 50


def write_set(
    folder: Path, copies: int = 1, splits: tuple[str, ...] = ("train", "test"), seconds: tuple[float, ...] = (4, 4, 4)
) -> None:
    """A file for each rate, split and copy, in two classes, and their table; each rate lasts its own `seconds`."""
    rows = ["path,label,split"]
    for split in splits:
        for copy in range(copies):
            for number, rate in enumerate(RATES):
                name = f"{split}-{copy}-{rate:02d}.mp4"
                clip = frames(rate, seconds[number])
                clip[:, -8:] = 37 * len(rows) % 256  # no two files are equal
                write_video(folder / name, clip, fps=rate, crf=4)
                rows.append(f"{name},{'ab'[number % 2]},{split}")
    (folder / "videos.csv").write_text("\n".join(rows) + "\n")


def params(folder: Path, step: Mapping[str, float], **overrides: object) -> Params:
    """Parameters of the set, with clips of 8 frames by time or by a share of the video, as `frame_step` has them."""
    source = {"kind": "folder", "path": str(folder), "annotations": "videos.csv"}
    data = {"dataset": "folder", "split": 1, "classes": 2, "frame_step": dict(step), "source": source}
    values = {
        "benchmarks": {"small": {"data": data, "finetune": {}, "evaluate": {}}},
        "ingest__min_frames": 8, "ingest__workers": 1, "preprocess__store": "raw", "finetune__validate_split": "test",
        "compute__device": "cpu", "compute__ranks": 1, "compute__loader_workers": 0,
    }  # fmt: skip
    return small_benchmark.params(**(values | overrides))


def ready(folder: Path, step: Mapping[str, float], **overrides: object) -> Params:
    """The set in the current folder's manifest, cache and corpus."""
    made = params(folder, step, **overrides)
    download.run(made, "small")
    preprocess.run(made, "small")
    corpus.run(made, "small")
    return made
