"""What a data set costs on disk and in hours, from measured rates, before the disk is bought."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.bench.preprocess import STEP
from pipeline.errors import InputError
from pipeline.params.benchmarks import PUBLISHED

#: A data set's figures by heading.
Row = dict[str, str | float]


@dataclass(frozen=True)
class DataSet:
    """A benchmark's cached frames, of the usual releases; its videos and their lengths are `planning.counts`'."""

    name: str
    width: int  # short side at most 256
    height: int
    frame_step: int


DATA_SETS = (
    DataSet("UCF101", 320, 240, 4),
    DataSet("HMDB51", 320, 240, 2),
    DataSet("K400", 340, 256, 4),
    DataSet("SSv2", 427, 240, 2),
    DataSet("OSCC", 341, 256, 4),
)


@dataclass(frozen=True)
class Rates:
    """What `everest bench preprocess` measured on one core.

    Attributes:
        frames_per_core_second: video frames preprocessed, of which JPEG keeps those on the step's grid.
        frames_per_core_second_all: where JPEG keeps every frame.
        pixels: of a video frame in that measurement; both rates are taken as inverse to it.
        jpeg_bytes_per_pixel: of a stored frame at quality 90.
    """

    frames_per_core_second: float
    frames_per_core_second_all: float
    pixels: int
    jpeg_bytes_per_pixel: float


def command(measured: Path) -> list[Row]:
    """The sheet of the rates in a file that `everest bench preprocess --json` printed.

    Raises:
        InputError: no such file, or not of that command.
    """
    cure = "Cure: `everest bench preprocess --json > rates.json`, then name rates.json."
    try:
        results = json.loads(measured.read_text(encoding="utf-8"))
        step, every = results["ways"][f"jpeg every {STEP}"], results["ways"]["jpeg every 1"]
        rates = Rates(
            step["frames_per_core_second"],
            every["frames_per_core_second"],
            results["clips"]["pixels_per_frame"],
            results["jpeg_bytes_per_pixel"],
        )
    except OSError as error:
        raise InputError(f"{measured} cannot be read ({error.strerror}). {cure}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{measured} holds no rates ({type(error).__name__}: {error}). {cure}") from None
    for name, value in asdict(rates).items():
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise InputError(f"{measured}: {name} = {value!r}, expected a number above 0. {cure}")
    return sheet(rates)


def sheet(rates: Rates, resolution: int = 224) -> list[Row]:
    """One row for each data set: GiB of JPEG and raw frames (of every step-th, and all), GiB of maps, core hours."""
    rows: list[Row] = []
    for data in DATA_SETS:
        pixels = data.width * data.height
        published = PUBLISHED[data.name.lower()]
        videos, frames = published.videos, published.frames
        total = videos * frames
        stored = videos * -(-frames // data.frame_step)
        hours = total * pixels / rates.pixels / 3600
        rows.append(
            {
                "data set": data.name,
                "videos": videos,
                "million frames": round(total / 1e6, 2),
                "frame step": data.frame_step,
                "jpeg step GiB": _gib(stored * pixels * rates.jpeg_bytes_per_pixel),
                "jpeg all GiB": _gib(total * pixels * rates.jpeg_bytes_per_pixel),
                "raw step GiB": _gib(stored * pixels * 3),
                "raw all GiB": _gib(total * pixels * 3),
                "maps GiB": _gib(stored * (resolution // 16) ** 2 * 2),
                "core hours, jpeg step": round(hours / rates.frames_per_core_second, 2),
                "core hours, jpeg all": round(hours / rates.frames_per_core_second_all, 2),
            }
        )
    return rows


def as_markdown(rows: list[Row]) -> str:
    """The sheet as a table."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [cell if isinstance(cell, str) else f"{cell:,}" for cell in row.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _gib(size: float) -> float:
    return round(size / 2**30, 1) if size >= 2**30 else round(size / 2**30, 2)
