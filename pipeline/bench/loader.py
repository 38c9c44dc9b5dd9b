"""`everest bench loader`: clips per second and core from videos, JPEG cache and raw cache, against the usual way.

The baseline is the way that public video pre-training code loads clips, written plainly: decord at full size,
Pillow's multi-scale crop and resize frame by frame, stack, normalise in float. All variants read the same
clips in the same run, taking turns, on one core; ratios are medians over the rounds of the time per clip. What
comparing frames with their checksums costs is measured in the same turns, against a cache that does not.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bench.clips import bench_clips, caches_of
from pipeline.data.cache.read import Cache
from pipeline.data.clips.videos import VideoSource
from pipeline.data.frame_source import VideoFile

FRAMES, STEP, RESOLUTION = 16, 4, 224
SCALES = (1.0, 0.875, 0.75, 0.66)
BATCH = 8
#: Epochs before memory is measured.
WARM_UP = 50
#: What the project promises, time of the usual way over ours.
GOALS = {
    "cpu_augment": {"video": 1.2, "jpeg": 6.0, "raw": 12.0},
    "device_augment": {"jpeg": 10.0, "raw": 100.0},
}


def command(
    clips: Path | None = None, rounds: int = 9, samples: int = 20_000, workers: Sequence[int] = (1, 2)
) -> dict[str, Any]:
    """Measure the loader.

    Args:
        clips: a folder of videos; None generates 340x256 H.264 clips, the same every time.
        rounds: turns that each variant gets, with one batch of 8 clips each.
        samples: clips read from the raw cache while memory is watched; 0 leaves that out.
        workers: numbers of workers to measure rates with.

    Returns:
        {"ratio": {"cpu_augment": {...}, "device_augment": {...}}, "goals": ..., "milliseconds_per_clip": ..., ...}
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="everest-bench-") as folder:
            return _measure(bench_clips(clips, Path(folder)), Path(folder), rounds, samples, workers)
    finally:
        torch.set_num_threads(threads)


def _measure(files: list[VideoFile], folder: Path, rounds: int, samples: int, workers: Sequence[int]) -> dict[str, Any]:
    from pipeline.data.clips.dataset import ClipDataset, ClipRule, Member

    raw, jpeg = caches_of(files, folder)
    sources: dict[str, Any] = {"video": VideoSource(files, 256), "jpeg": jpeg, "raw": raw}
    # Every video as often as it takes to fill a batch.
    rows = np.resize(np.arange(len(files), dtype=np.int64), max(BATCH, len(files)))
    sets = {name: ClipDataset([Member(source, rows, STEP)], ClipRule(FRAMES)) for name, source in sources.items()}
    variants: dict[str, Callable[[int], None]] = {"usual": lambda turn: _usual(sets["raw"], files, turn)}
    for name in sets:
        variants[f"cpu_augment.{name}"] = _ours(sets[name], augment=True)
    for name in ("jpeg", "raw"):
        variants[f"device_augment.{name}"] = _ours(sets[name], augment=False)
    for name in ("jpeg", "raw"):
        trusting = ClipDataset([Member(_Trusting.open(folder / name), rows, STEP)], ClipRule(FRAMES))
        variants[f"unchecked.{name}"] = _ours(trusting, augment=False)
    wall, cpu = _take_turns(variants, rounds)
    ratio: dict[str, dict[str, float]] = {"cpu_augment": {}, "device_augment": {}}
    cpu_ratio: dict[str, dict[str, float]] = {"cpu_augment": {}, "device_augment": {}}
    for name in variants:
        group, _, source = name.partition(".")
        if group in ratio:
            ratio[group][source] = _ratio(wall["usual"], wall[name])
            cpu_ratio[group][source] = _ratio(cpu["usual"], cpu[name])
    met = {g: {s: ratio[g][s] >= goal for s, goal in goals.items()} for g, goals in GOALS.items()}
    result: dict[str, Any] = {
        "ratio": ratio,
        "ratio_of_cpu_time": cpu_ratio,
        "goals": GOALS,
        "met": met,
        "time_with_checks_over_without": {
            name: _ratio(cpu[f"device_augment.{name}"], cpu[f"unchecked.{name}"]) for name in ("jpeg", "raw")
        },
        "milliseconds_per_clip": {name: round(statistics.median(wall[name]), 3) for name in variants},
        "milliseconds_per_batch_worst": {name: round(max(wall[name]) * BATCH, 2) for name in variants},
        "bytes_per_clip": _bytes(sets, files),
        "clips_per_second": {str(count): _rates(sets, files, count) for count in workers},
        "clips": {
            "videos": len(files),
            "width": files[0].width,
            "height": files[0].height,
            "frames": files[0].frames,
            "clip": f"{FRAMES} frames, step {STEP}, {RESOLUTION} px",
        },
        "cores": os.cpu_count(),
    }
    if samples:
        result["memory"] = _memory(sets["raw"], samples)
    return result


class _Trusting(Cache):
    """A cache that compares no frame with its checksum: what the checks cost is measured against it."""

    def _due(self, row: int, places: Sequence[int]) -> Collection[int]:
        return ()


def _take_turns(
    variants: dict[str, Callable[[int], None]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Milliseconds per clip of every round, by the clock and of the processor; turn 0 is not counted."""
    wall: dict[str, list[float]] = {name: [] for name in variants}
    cpu: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds + 1):
        for name, run in variants.items():
            # What takes microseconds is repeated, so that the clock's grain does not matter.
            repeat = 5 if name in ("device_augment.raw", "unchecked.raw") else 1
            began, busy = time.perf_counter(), time.process_time()
            for again in range(repeat):
                run(turn * 5 + again)
            if turn:
                wall[name].append(1e3 * (time.perf_counter() - began) / BATCH / repeat)
                cpu[name].append(1e3 * (time.process_time() - busy) / BATCH / repeat)
    return wall, cpu


def _ratio(usual: list[float], ours: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(usual, ours, strict=True)), 2)


def _loader(dataset: Any, workers: int = 0) -> Any:
    from pipeline.data.clips.loader import ClipLoader

    return ClipLoader(dataset, seed=0, global_batch=BATCH, workers=workers)


def _places(dataset: Any, turn: int) -> list[tuple[int, np.ndarray]]:
    """(file, frame numbers) of a turn's batch: what the loader reads, so all variants read the same clips."""
    rows = _loader(dataset).rows(turn, 0)
    numbers = dataset.frame_indices(rows, 0, turn, rows)
    return [(dataset.locate(int(row))[1], clip) for row, clip in zip(rows, numbers, strict=True)]


def _ours(dataset: Any, augment: bool) -> Callable[[int], None]:
    from pipeline.data.pixels.transforms import PretrainTransform

    transform = PretrainTransform(RESOLUTION, SCALES)
    loader = _loader(dataset)

    def run(turn: int) -> None:
        batch = next(loader.epoch(turn))
        if augment:
            transform(batch, "cpu")

    return run


def _usual(dataset: Any, files: Sequence[VideoFile], turn: int) -> None:
    for row, numbers in _places(dataset, turn):
        usual_clip(files[row].path, numbers, np.random.default_rng(turn))


def usual_clip(path: Path, numbers: np.ndarray, rng: np.random.Generator) -> Any:
    """One clip the usual way: float32 [3, T, 224, 224]."""
    import torch
    from PIL import Image

    from models.tokens import IMAGENET_MEAN, IMAGENET_STD
    from pipeline.data.video import plain_frames

    pictures = [Image.fromarray(frame) for frame in plain_frames(path, numbers.tolist())]
    width, height = pictures[0].size
    side_y, side_x = (int(min(width, height) * SCALES[k]) for k in rng.integers(0, len(SCALES), 2))
    top, left = int(rng.integers(0, height - side_y + 1)), int(rng.integers(0, width - side_x + 1))
    box = (left, top, left + side_x, top + side_y)
    resized = [p.crop(box).resize((RESOLUTION, RESOLUTION), Image.Resampling.BILINEAR) for p in pictures]
    clip = torch.from_numpy(np.stack([np.asarray(p) for p in resized])).permute(3, 0, 1, 2).contiguous()
    mean, deviation = torch.tensor(IMAGENET_MEAN).view(3, 1, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1, 1)
    return (clip.float() / 255 - mean) / deviation


def _bytes(sets: dict[str, Any], files: Sequence[VideoFile]) -> dict[str, int]:
    result = {"video": int(np.mean([file.path.stat().st_size for file in files]))}
    for name in ("jpeg", "raw"):
        source = sets[name].members[0].source
        taken = [source.bytes_of(row, numbers) for row, numbers in _places(sets[name], 0)]
        result[name] = int(np.mean(taken))
    return result


def _rates(sets: dict[str, Any], files: Sequence[VideoFile], workers: int) -> dict[str, float]:
    """Clips per second with this many workers: the usual way in processes, ours in threads, frames handed over."""
    result = {"usual": _usual_rate(sets["raw"], files, workers)}
    for name, dataset in sets.items():
        loader = _loader(dataset, workers)
        batches = loader.steps_per_epoch
        epochs = max(1, {"video": 24, "jpeg": 160, "raw": 1200}[name] // (batches * loader.global_batch))
        for _ in loader.epoch(0):
            pass
        began, count = time.perf_counter(), 0
        for epoch in range(1, epochs + 1):
            for batch in loader.epoch(epoch):
                count += len(batch.index_B)
        result[name] = round(count / (time.perf_counter() - began), 1)
        loader.close()
    return result


def _usual_rate(dataset: Any, files: Sequence[VideoFile], workers: int) -> float:
    from torch.utils.data import DataLoader

    jobs = [(files[row].path, numbers) for turn in range(4) for row, numbers in _places(dataset, turn)]
    loader: DataLoader[Any] = DataLoader(
        _UsualDataset(jobs),  # type: ignore[arg-type]
        batch_size=4,
        num_workers=workers,
        multiprocessing_context="spawn",
    )
    found = iter(loader)
    next(found)  # the workers have started
    began = time.perf_counter()
    count = sum(len(batch) for batch in found)
    return round(count / (time.perf_counter() - began), 1)


class _UsualDataset:
    def __init__(self, jobs: list[tuple[Path, np.ndarray]]) -> None:
        self.jobs = jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, number: int) -> Any:
        import torch

        torch.set_num_threads(1)
        path, numbers = self.jobs[number]
        return usual_clip(path, numbers, np.random.default_rng(number))


def _memory(dataset: Any, samples: int) -> dict[str, float]:
    """Memory of this process that is not file pages, before and after reading many clips."""
    loader = _loader(dataset)
    # Until then the loader has all the buffers that it goes on with.
    for epoch in range(WARM_UP):
        for _ in loader.epoch(epoch):
            pass
    before, count, epoch, peak = anonymous_mib(), 0, WARM_UP, 0.0
    while count < samples:
        for batch in loader.epoch(epoch):
            count += len(batch.index_B)
        peak = max(peak, anonymous_mib())
        epoch += 1
    after = anonymous_mib()
    return {
        "samples": count,
        "before_mib": before,
        "after_mib": after,
        "peak_mib": peak,
        "growth_mib": round(after - before, 2),
    }


def anonymous_mib() -> float:
    """This process's resident memory without mapped files, in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return round(int(line.split()[1]) / 1024, 2)
    return 0.0
