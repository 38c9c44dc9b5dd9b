"""What a data set costs on disk and in hours, from measured rates: so that a disk can be planned
before it is bought.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DataSet:
    """A benchmark's videos. Counts are the publishers'; mean lengths and sizes are of the usual releases."""

    name: str
    videos: int
    frames: int  # mean of a video
    width: int  # of cached frames, short side at most 256
    height: int
    frame_step: int


DATA_SETS = (
    DataSet("UCF101", 13_320, 187, 320, 240, 4),
    DataSet("HMDB51", 6_766, 93, 320, 240, 2),
    DataSet("K400", 260_000, 300, 340, 256, 4),
    DataSet("SSv2", 220_847, 46, 427, 240, 2),
    DataSet("OSCC", 69_000, 240, 341, 256, 4),
)


@dataclass(frozen=True)
class Rates:
    """Measured by `everest bench preprocess`.

    Attributes:
        frames_per_core_second: video frames that one core preprocesses, by JPEG of the frames on the step's
        grid.
        pixels: of a frame in that measurement; the rate is taken as inverse to it.
        jpeg_bytes_per_pixel: of a stored frame at quality 90.
    """

    frames_per_core_second: float
    pixels: int
    jpeg_bytes_per_pixel: float


def sheet(rates: Rates, resolution: int = 224) -> list[dict[str, Any]]:
    """One row for each data set: GiB of JPEG and raw frames (all, and every step-th), GiB of maps, core hours."""
    rows = []
    for data in DATA_SETS:
        pixels = data.width * data.height
        total = data.videos * data.frames
        stored = data.videos * -(-data.frames // data.frame_step)
        speed = rates.frames_per_core_second * rates.pixels / pixels
        rows.append(
            {
                "data set": data.name,
                "videos": data.videos,
                "million frames": round(total / 1e6, 2),
                "frame step": data.frame_step,
                "jpeg all GiB": _gib(total * pixels * rates.jpeg_bytes_per_pixel),
                "jpeg step GiB": _gib(stored * pixels * rates.jpeg_bytes_per_pixel),
                "raw step GiB": _gib(stored * pixels * 3),
                "raw all GiB": _gib(total * pixels * 3),
                "maps GiB": _gib(stored * (resolution // 16) ** 2 * 2),
                "core hours": round(total / speed / 3600, 1),
                "hours on 32 cores": round(total / speed / 3600 / 32, 2),
            }
        )
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The sheet as a table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [row[name] if isinstance(row[name], str) else f"{row[name]:,}" for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _gib(size: float) -> float:
    return round(size / 2**30, 1) if size >= 2**30 else round(size / 2**30, 2)
