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
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.bench.clips import SHORT_SIDE, bench_clips, units_for
from pipeline.bench.harness import Figures, Spent, expect_at_least, median_ratio, take_turns, timed
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


def command(clips: Path | None = None, rounds: int = 5) -> Figures:
    """Measure preprocessing.

    Args:
        clips: a folder of videos; None generates 340x256 H.264 clips.
        rounds: turns of pure decoding and of each way to store.

    Returns:
        For each way to store: frames per second by the clock and per second of processor time, its shares of the
        decoding rates, bytes; and the speed-up by two processes.

    Raises:
        InputError: less than one round, or no such videos.
    """
    expect_at_least(1, rounds=rounds)
    with tempfile.TemporaryDirectory(prefix="everest-bench-") as folder:
        scratch = Path(folder)
        files = bench_clips(clips, scratch)
        store = scratch / "store"
        runs: dict[str, Callable[[], None]] = {
            "decoding": partial(_decode, files, "pyav"),
            "decoding by decord": partial(_decode, files, "decord"),
        }
        units = {
            f"{kind} every {keep}": units_for(files, kind, STEP, RESOLUTION, keep)
            for keep in (STEP, 1)
            for kind in ("jpeg", "raw")
        }
        runs |= {name: partial(_build_all, some, store / name) for name, some in units.items()}

        def turn(name: str, _: int) -> Spent:
            shutil.rmtree(store / name, ignore_errors=True)
            return timed(runs[name])

        turns = take_turns({name: partial(turn, name) for name in runs}, rounds)
        wall = {name: [spent.wall for spent in some] for name, some in turns.items()}
        cpu = {name: [spent.cpu for spent in some] for name, some in turns.items()}
        frames = sum(file.frames for file in files)

        def rate(seconds: list[float]) -> float:
            return round(frames / statistics.median(seconds), 1)

        return {
            "decoding_frames_per_second": rate(wall["decoding"]),
            "decord_frames_per_second": rate(wall["decoding by decord"]),
            "ways": {
                name: {
                    "frames_per_second": rate(wall[name]),
                    "frames_per_core_second": rate(cpu[name]),
                    "share_of_decoding": round(median_ratio(wall["decoding"], wall[name]), 3),
                    "share_of_decoding_cpu": round(median_ratio(cpu["decoding"], cpu[name]), 3),
                    "share_of_decord": round(median_ratio(wall["decoding by decord"], wall[name]), 3),
                    "bytes_per_video": _bytes(store / name) // len(files),
                }
                for name in units
            },
            "jpeg_bytes_per_pixel": _bytes_per_pixel(files, store / f"jpeg every {STEP}"),
            "two_processes": _scaling(files, scratch),
            "goals": GOALS,
            "clips": {
                "videos": len(files),
                "frames": frames,
                "pixels_per_frame": round(sum(file.frames * file.height * file.width for file in files) / frames),
                "frame_step": STEP,
                "resolution": RESOLUTION,
            },
            "cores": os.cpu_count(),
        }


def _decode(files: list[VideoFile], reader: str) -> None:
    for file in files:
        with open_video(file.path, reader) as video:
            for _ in video.all_frames():
                pass


def _build_all(units: list[Unit], store: Path) -> None:
    for unit in units:
        build_unit(unit, store)


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
        seconds[str(workers)] = round(timed(partial(build, units, store, workers)).wall, 2)
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
