"""`everest bench preprocess`: the rate of the preprocess stage against pure decoding of the same videos.

The stage decodes each video once and does everything else (skip, resize, distance maps, JPEG or raw, hashing,
writing, syncing to the disk) on top; what that costs shows in the share of the pure decoding rate. Pure decoding
turns every frame into RGB and throws it away: once with the stage's own reader, which the goal is held against, and
once with decord, the usual one. All take turns in the same run, on one process; then the stage runs on one process
and on two.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.bench.clips import SHORT_SIDE, bench_clips, units_for
from pipeline.data.cache.build import Unit, build_unit
from pipeline.data.cache.publish import build
from pipeline.data.frame_source import VideoFile
from pipeline.data.video import open_video
from pipeline.data.video.shrink import shrunk_size

#: At frame step 4, as UCF101 and K400 are trained: every 4th frame is what clips and maps need.
STEP, RESOLUTION = 4, 224
GOALS = {"share_of_decoding": 0.85, "two_processes": 1.8}
#: Frames that one and two processes preprocess: enough that starting a process (about a second) weighs little.
SCALING_FRAMES = 120_000


def command(clips: Path | None = None, rounds: int = 5) -> dict[str, Any]:
    """Measure preprocessing.

    Args:
        clips: a folder of videos; None generates 340x256 H.264 clips.
        rounds: turns of pure decoding and of each way to store.

    Returns:
        For each way to store: frames per second by the clock and per second of processor time, its shares of the
        decoding rates, bytes; and the speed-up by two processes.
    """
    with tempfile.TemporaryDirectory(prefix="everest-bench-") as folder:
        scratch = Path(folder)
        files = bench_clips(clips, scratch)
        frames = sum(file.frames for file in files)
        store = scratch / "store"
        runs: dict[str, Callable[[], None]] = {
            "decoding": lambda: _decode(files, "pyav"),
            "decoding by decord": lambda: _decode(files, "decord"),
        }
        for kind, keep in (("jpeg", STEP), ("raw", STEP), ("jpeg", 1), ("raw", 1)):
            name = f"{kind} every {keep}"
            runs[name] = _stage(units_for(files, kind, STEP, RESOLUTION, keep), store / name)
        wall, busy = _take_turns(runs, rounds, store)
        result: dict[str, Any] = {
            "decoding_frames_per_second": round(frames / statistics.median(wall["decoding"]), 1),
            "decord_frames_per_second": round(frames / statistics.median(wall["decoding by decord"]), 1),
        }
        result["ways"] = {
            name: {
                "frames_per_second": round(frames / statistics.median(wall[name]), 1),
                "frames_per_core_second": round(frames / statistics.median(busy[name]), 1),
                "share_of_decoding": _share(wall["decoding"], wall[name]),
                "share_of_decoding_cpu": _share(busy["decoding"], busy[name]),
                "share_of_decord": _share(wall["decoding by decord"], wall[name]),
                "bytes_per_video": _bytes(store / name) // len(files),
            }
            for name in list(runs)[2:]
        }
        result["jpeg_bytes_per_pixel"] = _bytes_per_pixel(files, store / f"jpeg every {STEP}")
        result["two_processes"] = _scaling(files, scratch)
        result["goals"] = GOALS
        pixels = sum(file.frames * file.height * file.width for file in files) / frames
        result["clips"] = {
            "videos": len(files),
            "frames": frames,
            "pixels_per_frame": round(pixels),
            "frame_step": STEP,
            "resolution": RESOLUTION,
        }
        result["cores"] = os.cpu_count()
        return result


def _take_turns(
    runs: dict[str, Callable[[], None]], rounds: int, store: Path
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of every run in every round, by the clock and of the processor; turn 0 is not counted."""
    wall: dict[str, list[float]] = {name: [] for name in runs}
    busy: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            shutil.rmtree(store / name, ignore_errors=True)
            began, used = time.perf_counter(), time.process_time()
            run()
            if turn:
                wall[name].append(time.perf_counter() - began)
                busy[name].append(time.process_time() - used)
    return wall, busy


def _decode(files: list[VideoFile], reader: Any) -> None:
    for file in files:
        with open_video(file.path, reader) as video:
            for _ in video.all_frames():
                pass


def _stage(units: list[Unit], store: Path) -> Callable[[], None]:
    def run() -> None:
        for unit in units:
            build_unit(unit, store)

    return run


def _share(decoding: list[float], stage: list[float]) -> float:
    return round(statistics.median(d / s for d, s in zip(decoding, stage, strict=True)), 3)


def _scaling(files: list[VideoFile], scratch: Path) -> dict[str, float]:
    """Seconds of one and of two processes for the same units, start of the processes included."""
    one_by_one = [unit for file in files for unit in units_for([file], "jpeg", STEP, RESOLUTION, STEP)]
    copies = -(-SCALING_FRAMES // sum(file.frames for file in files))
    # The same content under one name would be one unit: each copy gets its own.
    units = [
        Unit(u.videos, f"{u.frames_key}{copy}", f"{u.maps_key}{copy}", u.frame_rule, u.map_rule, u.bound)
        for copy in range(copies)
        for u in one_by_one
    ]
    seconds: dict[str, float] = {}
    for workers in (1, 2):
        store = scratch / f"scaling-{workers}"
        began = time.perf_counter()
        build(units, store, workers)
        seconds[str(workers)] = round(time.perf_counter() - began, 2)
        shutil.rmtree(store)
    return seconds | {"speed_up": round(seconds["1"] / seconds["2"], 2)}


def _bytes_per_pixel(files: list[VideoFile], store: Path) -> float:
    """Of the frames that were stored, at the size that they were stored in."""
    pixels = 0
    for file in files:
        height, width = shrunk_size(file.height, file.width, SHORT_SIDE)
        pixels += height * width * -(-file.frames // STEP)
    return round(_bytes(store, "frames-*.arrow") / pixels, 3)


def _bytes(folder: Path, pattern: str = "*.arrow") -> int:
    return sum(path.stat().st_size for path in folder.glob(pattern))
