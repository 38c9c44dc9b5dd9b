"""`everest bench preprocess`: the rate of the preprocess stage against pure decoding of the same videos.

The stage decodes each video once and does everything else (skip, resize, distance maps, JPEG or raw, hashing,
writing) on top; what that costs shows in the share of the pure decoding rate. Both take turns in the same
run, on one process, then the stage runs on one and two processes.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.bench.clips import bench_clips, units_for
from pipeline.data.cache_build import Unit, build_unit
from pipeline.data.cache_publish import build
from pipeline.data.dataset_video import VideoFile
from pipeline.data.video import open_video

#: At frame step 4, as UCF101 and K400 are trained: every 4th frame is what clips and maps need.
STEP, RESOLUTION = 4, 224
GOALS = {"share_of_decoding": 0.85, "two_processes": 1.8}


def command(clips: Path | None = None, rounds: int = 5) -> dict[str, Any]:
    """Measure preprocessing.

    Args:
        clips: a folder of videos; None generates 340x256 H.264 clips.
        rounds: turns of pure decoding and of each way to store.

    Returns:
        Frames and videos per second, share of pure decoding, bytes per frame for each way to store, and the
        speed-up by two processes.
    """
    with tempfile.TemporaryDirectory(prefix="everest-bench-") as folder:
        scratch = Path(folder)
        files = bench_clips(clips, scratch)
        ways = {
            f"{store} every {keep}": units_for(files, store, STEP, RESOLUTION, keep)
            for store, keep in (("jpeg", STEP), ("raw", STEP), ("jpeg", 1), ("raw", 1))
        }
        decoding, seconds, busy = _take_turns(files, ways, scratch, rounds)
        frames = sum(file.frames for file in files)
        result: dict[str, Any] = {"decoding_frames_per_second": round(frames / statistics.median(decoding), 1)}
        result["ways"] = {
            name: {
                "frames_per_second": round(frames / statistics.median(seconds[name]), 1),
                "frames_per_core_second": round(frames / statistics.median(busy[name]), 1),
                "videos_per_second": round(len(files) / statistics.median(seconds[name]), 3),
                "share_of_decoding": round(
                    statistics.median(d / s for d, s in zip(decoding, seconds[name], strict=True)), 3
                ),
                "bytes_per_video": _bytes(scratch / "store" / name.replace(" ", "-")) // len(files),
            }
            for name in ways
        }
        result["two_processes"] = _scaling(files, scratch)
        result["goals"] = GOALS
        result["clips"] = {
            "videos": len(files),
            "frames": frames,
            "frame_step": STEP,
            "resolution": RESOLUTION,
        }
        return result


def _take_turns(
    files: list[VideoFile], ways: dict[str, list[Unit]], scratch: Path, rounds: int
) -> tuple[list[float], dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of decoding; of each way to store; and of the processor for each way."""
    decoding: list[float] = []
    busy: dict[str, list[float]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        began = time.perf_counter()
        for file in files:
            with open_video(file.path, "decord") as reader:
                for _ in reader.all_frames():
                    pass
        if turn:
            decoding.append(time.perf_counter() - began)
        for name, units in ways.items():
            store = scratch / "store" / name.replace(" ", "-")
            shutil.rmtree(store, ignore_errors=True)
            began, used = time.perf_counter(), time.process_time()
            for unit in units:
                build_unit(unit, store, Path("/"))
            if turn:
                seconds[name].append(time.perf_counter() - began)
                busy[name].append(time.process_time() - used)
    return decoding, seconds, busy


def _scaling(files: list[VideoFile], scratch: Path) -> dict[str, float]:
    """Seconds of one and of two processes for the same units, start of the processes included."""
    many = [
        VideoFile(f"{file.video_id}-{copy}", file.path, file.frames, file.height, file.width, reader=file.reader)
        for copy in range(4)
        for file in files
    ]
    units = [unit for file in many for unit in units_for([file], "jpeg", STEP, RESOLUTION, STEP)]
    # The same content under one name would be one unit: each copy gets its own.
    units = [
        Unit(u.videos, f"{u.frames_key}{n}", f"{u.maps_key}{n}", u.frame_rule, u.map_rule, u.bound)
        for n, u in enumerate(units)
    ]
    seconds = {}
    for workers in (1, 2):
        began = time.perf_counter()
        build(units, scratch / f"scaling-{workers}", Path("/"), workers)
        seconds[str(workers)] = round(time.perf_counter() - began, 2)
    return seconds | {"speed_up": round(seconds["1"] / seconds["2"], 2)}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.arrow"))
