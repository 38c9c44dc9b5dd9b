"""`everest bench ingest`: what verifying videos costs, and how it grows with processes.

One and two processes take turns on the same files, and every turn tells the processor's seconds as well: where those
agree, the processes do not stand in each other's way, whatever else the machine does. The speed-up over one process
confined to one core is what a second core adds. Beside it: a second ingest of unchanged files, and reading a manifest
as long as Kinetics-400's.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from pipeline.bench.clips import bench_clips
from pipeline.bench.harness import Figures, Spent, expect_at_least, take_turns, timed
from pipeline.data import manifest
from pipeline.data.ingest.ingest import ingest
from pipeline.data.ingest.memory import NOTES
from pipeline.data.ingest.pool import measure_files
from pipeline.data.ingest.process import Limits
from pipeline.params import IngestParams

UNCHANGED, ROWS = 10_000, 240_000
GOALS = {"two_processes": 1.8, "unchanged_seconds": 5.0, "manifest_seconds": 1.0, "manifest_mib": 300}
LIMITS = IngestParams(
    deadline_seconds=60.0, memory_gib=2.0, failure_budget=0.0, min_frames=16, max_repeated_run=64, workers=2
)


def command(clips: Path | None = None, videos: int = 96, rounds: int = 5) -> Figures:
    """Measure ingest.

    Args:
        clips: a folder of videos; None generates 340x256 H.264 clips of 150 frames.
        videos: files in one turn; the clips are repeated.
        rounds: turns of each way.

    Returns:
        Seconds and processor seconds for each way (medians and the best turn), their ratios, and the goals.

    Raises:
        InputError: less than one video or round, or no such videos.
    """
    expect_at_least(1, videos=videos, rounds=rounds)
    with tempfile.TemporaryDirectory(prefix="everest-bench-") as folder:
        scratch = Path(folder)
        files = bench_clips(clips, scratch)
        paths = [files[number % len(files)].path for number in range(videos)]
        ways = {"one": (1, False), "two": (2, False), "one_on_one_core": (1, True)}
        turns = take_turns({name: partial(_turn, paths, *way) for name, way in ways.items()}, rounds, warm_up=0)
        best = {name: min(spent.wall for spent in some) for name, some in turns.items()}

        def medians(field: str) -> dict[str, float]:
            return {
                name: round(statistics.median(getattr(spent, field) for spent in some), 2)
                for name, some in turns.items()
            }

        return {
            "seconds": medians("wall"),
            "seconds_best": {name: round(value, 2) for name, value in best.items()},
            "processor_seconds": medians("cpu"),
            "two_processes": round(best["one"] / best["two"], 2),
            "two_processes_over_one_core": round(best["one_on_one_core"] / best["two"], 2),
            "cores_busy_with_two": round(statistics.median(cpu / wall for wall, cpu in turns["two"]), 2),
            "videos_per_second": round(videos / best["two"], 2),
            "unchanged_seconds": _unchanged(scratch, paths[0]),
            **_manifest(scratch),
            "goals": GOALS,
            "clips": {"videos": videos, "different": len(files), "frames": sum(file.frames for file in files)},
        }


def _turn(paths: list[Path], workers: int, confined: bool, _: int) -> Spent:
    """Seconds on the clock and of the processors, starting the processes included."""
    allowed = os.sched_getaffinity(0)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    try:
        if confined:
            os.sched_setaffinity(0, {min(allowed)})  # children inherit it
        count = sum(1 for _ in measure_files(paths, Limits(60.0, 2 << 30), workers))
    finally:
        os.sched_setaffinity(0, allowed)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert count == len(paths)
    return Spent(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _unchanged(scratch: Path, video: Path) -> float:
    """Seconds of a second ingest of many files of which none has changed."""
    root = scratch / "unchanged"
    root.mkdir()
    names = [f"{number:05d}{video.suffix}" for number in range(UNCHANGED)]
    for name in names:
        (root / name).symlink_to(video)
    first = ingest(root, names[:1], LIMITS)
    entry = json.loads((root / NOTES / "ingest.jsonl").read_text())
    assert not first[names[0]].reason
    with (root / NOTES / "ingest.jsonl").open("a", encoding="utf-8") as notes:
        notes.writelines(json.dumps(entry | {"path": name}) + "\n" for name in names[1:])
    return round(timed(lambda: ingest(root, names, LIMITS)).wall, 2)


def _manifest(scratch: Path) -> dict[str, float]:
    """Seconds and peak memory of a fresh process that reads a manifest whole; importing pyarrow comes before."""
    path = scratch / "manifest.parquet"
    manifest.save(manifest.from_rows([_row(number) for number in range(ROWS)]), path)
    code = (
        "import re, sys, time; from pathlib import Path; from pipeline.data import manifest\n"
        "import pyarrow.parquet, pyarrow.dataset\n"
        "began = time.perf_counter(); table = manifest.load(Path(sys.argv[1])); seconds = time.perf_counter() - began\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]\n"
        "print(table.num_rows, seconds, peak)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    count, seconds, peak_kib = done.stdout.split()
    assert int(count) == ROWS
    return {"manifest_seconds": round(float(seconds), 3), "manifest_mib": round(int(peak_kib) / 1024)}


def _row(number: int) -> manifest.Row:
    """A row as Kinetics-400 has it."""
    return {
        "video_id": f"{number:011d}_000001_000011",
        "path": f"videos/train_part_{number // 1000}/{number:011d}_000001_000011.mp4",
        "split": "train",
        "splits": "train",
        "label": number % 400,
        "label_name": f"class number {number % 400}",
        "source": "official:k400",
        "sha256": f"{number * 2654435761:064x}",
        "bytes": 1_500_000,
        "frames_declared": 300,
        "frames_decoded": 300,
        "fps": 29.97,
        "width": 340,
        "height": 256,
        "rotation": 0,
        "reader": "pyav",
        "jumps": "2 skip 0:0 250:128000",
        "repeated_run": 1,
        "status": "ok",
        "reason": "",
    }
