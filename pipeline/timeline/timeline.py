"""Class probabilities of long videos over time: one pass over each, a few frames in memory.

Shapes: X crops, T frames of a window, R the model's resolution.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.data.arrays import U8
from pipeline.data.frame_step import Step, ticks
from pipeline.data.video.listing import find_videos
from pipeline.errors import InputError
from pipeline.inference.predict import Failed, class_names
from pipeline.system.files import make_folder
from pipeline.system.text import shortened
from pipeline.timeline.files import Windows, write_segments, write_windows
from pipeline.timeline.segments import Segment, cells_of, meeting_ends, merge
from pipeline.timeline.windows import Slider, Window, stride_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from models.info import ModelInfo
    from pipeline.data.ingest.streaming import IsolatedPass

#: Clips that go through the model together: activations of 32 clips of a base model alone are 1 GiB.
BATCH = 4


@dataclass(frozen=True)
class Timeline:
    """One video's timeline.

    Attributes:
        windows: how many.
        length: seconds that they cover.
        table, picture: files with all windows, and the plot.
        segments: in order of time.
        stopped: why the video could not be read to its end; "" where it was.
    """

    video: str
    windows: int
    length: float
    table: str
    picture: str
    segments: list[Segment]
    stopped: str = ""


@dataclass(frozen=True)
class Timelines:
    """The result of :func:`timeline`; `segments` is the file with those of all videos, "" where there is none."""

    timelines: list[Timeline]
    failed: list[Failed]
    segments: str
    model: str
    seconds: float
    temperature: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain values, with `class` for the name of a segment's class."""
        record = asdict(self)
        for one in record["timelines"]:
            one["segments"] = [
                {"start": s["start"], "end": s["end"], "class": s["class_name"], "score": s["score"]}
                for s in one["segments"]
            ]
        return record


@dataclass(frozen=True)
class Options:
    """How windows are cut and merged: see :func:`timeline`."""

    step: Step
    crops: int
    stride: float | None
    threshold: float
    shortest: float
    batch: int
    temperature: float | None = None


def timeline(
    videos: Sequence[str | Path],
    model: str,
    out: Path | str = Path("outputs/timeline"),
    *,
    stride: float | None = None,
    threshold: float = 0.5,
    shortest: float = 0.0,
    crops: int | None = None,
    frame_step: int | None = None,
    batch: int = BATCH,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    temperature: bool = True,
) -> Timelines:
    """Classify sliding windows of videos, and merge them into segments.

    Args:
        videos: files, or folders that are searched for videos.
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, a run's id, or a folder.
        out: a folder for a table and a plot of each video, and for segments.csv.
        stride: seconds from one window to the next, in whole steps of frames; half a window by default.
        threshold: probability from which on the most probable class makes a segment.
        shortest: seconds; shorter segments are left out.
        crops, frame_step: of a window; by default those that the model was tested with.
        batch: clips that go through the model together.
        temperature: bring probabilities to the model's fitted temperature, as :func:`predict` does.

    Returns:
        Timelines of the videos that could be read, if only to some point; those that failed, with the reason.

    Raises:
        InputError: no such model, no video, options out of bounds, a folder that cannot be written to.
    """
    files = find_videos([str(video) for video in videos])
    _check(stride, threshold, shortest, batch)
    make_folder(Path(out))
    from pipeline.data.frame_step import sliding_step
    from pipeline.data.ingest.streaming import IsolatedPass
    from pipeline.distributed.groups import choose_device
    from pipeline.inference.models import load
    from pipeline.model_folder import sha256

    with IsolatedPass.by_params() as reader:
        folder, info, network = load(model)
        names = class_names(info, folder)
        step = sliding_step(info, frame_step)
        if step is None:
            raise InputError(f"{folder}/model.json names no frame_step. Cure: say it with --frame-step (demo: 1).")
        fitted = info.temperature if temperature else None
        how = Options(step, crops or info.views.crops, stride, threshold, shortest, batch, fitted)
        place = choose_device(device)
        network = network.to(place).eval()
        about = {
            "model": str(folder),
            "sha256": sha256(folder),
            "frames": info.frames,
            **asdict(how),
            "step": step.entry,
        }
        began = time.perf_counter()
        done: list[Timeline] = []
        failed: list[Failed] = []
        for number, file in enumerate(files):
            windows, stopped = _windows(reader, file, network, info, how, place)
            if windows is None:
                failed.append(Failed(str(file), stopped))
                continue
            prefix = f"{number:05d}-" if len(files) > 1 else ""
            base = Path(out) / f"{prefix}{shortened(file.stem, 180)}"
            done.append(
                _written(file, base, windows, names, how, {**about, "video": str(file)}, stopped, info.multi_label)
            )
    table = Path(out) / "segments.csv"
    if done:
        write_segments(table, [(one.video, segment) for one in done for segment in one.segments])
    spent = round(time.perf_counter() - began, 3)
    return Timelines(done, failed, str(table) if done else "", str(folder), spent, fitted)


def _check(stride: float | None, threshold: float, shortest: float, batch: int) -> None:
    if stride is not None and not (math.isfinite(stride) and stride > 0):
        raise InputError(f"stride = {stride}: expected seconds above 0. Cure: --stride 1.")
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold = {threshold}: expected a probability from 0 to 1. Cure: --threshold 0.5.")
    if not (math.isfinite(shortest) and shortest >= 0):
        raise InputError(f"shortest = {shortest}: expected seconds from 0 on. Cure: --shortest 1.")
    if batch < 1:
        raise InputError(f"batch = {batch}: expected at least 1. Cure: --batch {BATCH}.")


def _written(
    file: Path,
    base: Path,
    windows: Windows,
    names: Sequence[str],
    how: Options,
    about: dict[str, object],
    stopped: str,
    several: bool,
) -> Timeline:
    from pipeline.timeline.picture import draw

    cells = cells_of(windows.start_W, windows.end_W, windows.probability_WC)
    segments = merge(cells, names, how.threshold, how.shortest, several)
    table, picture = (base.parent / f"{base.name}{suffix}" for suffix in (".parquet", ".png"))
    write_windows(table, windows, names, {**about, "stopped": stopped})
    draw(picture, file.name, cells, segments, names)
    length = float(windows.end_W[-1] - windows.start_W[0])
    return Timeline(
        str(file), len(windows.start_W), round(length, 3), str(table), str(picture), segments, stopped=stopped
    )


def _windows(
    reader: IsolatedPass, file: Path, network: nn.Module, info: ModelInfo, how: Options, device: torch.device
) -> tuple[Windows | None, str]:
    """All windows of a video, and why it could not be read to its end; None where not one window could be had."""
    from pipeline.data.video import VideoError
    from pipeline.system.progress import Line, wanted

    line = Line() if wanted() else None
    places: list[tuple[float, float, int, int]] = []
    probabilities: list[np.ndarray] = []
    stopped = ""
    waiting: list[Window] = []
    size = max(1, how.batch // how.crops)

    def classify() -> None:
        if waiting:
            probabilities.extend(_probabilities(network, waiting, how, device, info.multi_label))
            places.extend((one.start, one.end, one.first, one.last) for one in waiting)
            waiting.clear()
            if line is not None:
                line.show(f"{file.name}: {places[-1][1]:.0f} s of video, {len(places)} windows")

    try:
        for window in _sliding(reader, file, info, how):
            waiting.append(window)
            if len(waiting) == size:
                classify()
    except VideoError as error:
        stopped = str(error)
    finally:
        if line is not None:
            line.close()
    classify()
    if not places:
        return None, stopped
    start_W, end_W, first_W, last_W = (np.asarray(column) for column in zip(*places, strict=True))
    end_W = meeting_ends(start_W, end_W, first_W, last_W, info.frames)
    return Windows(start_W, end_W, first_W, last_W, np.stack(probabilities)), stopped


def _sliding(reader: IsolatedPass, file: Path, info: ModelInfo, how: Options) -> Iterator[Window]:
    """The windows of a video; one that is shorter than a window gets one, of frames as prediction takes them."""
    resolution, short_side = info.pixels.resolution, info.pixels.short_side
    slider: Slider | None = None
    passed, until, period, windows = 0, 0.0, 0.04, 0
    step: int | float = 1
    for portion in reader.portions(file, how.step, short_side):
        if slider is None:
            rate = reader.fps or 25.0
            period, step = 1 / rate, how.step.of(0, rate)
            slider = Slider(info.frames, stride_of(how.stride, rate, info.frames, step), period)
        passed, until = portion.passed, portion.until
        if portion.numbers:
            squares = _squares(portion.pictures, how.crops, resolution)
            for row, number, seconds in zip(squares, portion.numbers, portion.seconds, strict=True):
                for _ in range(ticks(number, step)):
                    window = slider.take(row, number, seconds)
                    if window is not None:
                        windows += 1
                        yield window
    if slider is None:
        return
    for window in slider.finish():
        windows += 1
        yield window
    if not windows:
        yield _short(reader, file, passed, until + period, info, how)


def _short(reader: IsolatedPass, file: Path, passed: int, end: float, info: ModelInfo, how: Options) -> Window:
    """The only window of a video of `passed` frames, fewer than a window spans."""
    from pipeline.data.sampling import view_clips

    numbers = view_clips(passed, info.frames, how.step.of(passed, reader.fps or 25.0), 1)[0]
    squares: list[U8] = []
    for portion in reader.portions(file, Step(), info.pixels.short_side):
        if portion.numbers:
            squares.extend(_squares(portion.pictures, how.crops, info.pixels.resolution))
    clips = np.stack([squares[number] for number in numbers], axis=1)
    return Window(clips, int(numbers[0]), int(numbers[-1]), 0.0, end)


def _squares(pictures_NHWC: U8, crops: int, resolution: int) -> U8:
    """Square crops of frames at the model's resolution, uint8 [N, X, R, R, 3]: its pixels before normalisation."""
    import torch

    from pipeline.data.pixels.resize import resize
    from pipeline.data.sampling import view_offsets

    height, width = pictures_NHWC.shape[1:3]
    side = min(height, width)
    cut = [
        resize(
            torch.from_numpy(np.ascontiguousarray(pictures_NHWC[:, top : top + side, left : left + side])),
            (resolution, resolution),
        ).numpy()
        for top, left in view_offsets(height, width, crops)
    ]
    result: U8 = np.stack(cut, axis=1)
    return result


def _probabilities(
    network: nn.Module, windows: Sequence[Window], how: Options, device: torch.device, several: bool
) -> list[np.ndarray]:
    """Probabilities [C] of each window, the mean of its crops at the temperature."""
    import torch

    from pipeline.data.pixels.normalise import normalise
    from pipeline.evaluation.inference import probabilities

    clips = torch.from_numpy(np.concatenate([window.clips for window in windows])).to(device)
    with torch.inference_mode():
        logits = torch.cat([network(normalise(part)) for part in clips.split(how.batch)]).float().cpu().numpy()
    return [probabilities(part, how.temperature, several) for part in np.split(logits, len(windows))]
