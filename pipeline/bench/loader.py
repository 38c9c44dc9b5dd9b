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
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.bench.clips import bench_clips, caches_of
from pipeline.bench.harness import (
    Figures,
    Spent,
    expect_at_least,
    median_ratio,
    process_bytes,
    take_turns,
    timed,
    torch_threads,
)
from pipeline.data.arrays import Ints
from pipeline.data.cache.read import Cache
from pipeline.data.clips.videos import VideoSource
from pipeline.data.frame_source import FrameSource, VideoFile
from pipeline.data.frame_step import Step

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.data.batch import Batch
    from pipeline.data.clips.dataset import ClipDataset
    from pipeline.data.clips.loader import ClipLoader

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
) -> Figures:
    """Measure the loader.

    Args:
        clips: a folder of videos; None generates 340x256 H.264 clips, the same every time.
        rounds: turns that each variant gets, with one batch of 8 clips each.
        samples: clips read from the raw cache while memory is watched; 0 leaves that out.
        workers: numbers of workers to measure rates with.

    Returns:
        {"ratio": {"cpu_augment": {...}, "device_augment": {...}}, "goals": ..., "milliseconds_per_clip": ..., ...}

    Raises:
        InputError: less than one round or no sample, or no such videos.
    """
    expect_at_least(1, rounds=rounds)
    expect_at_least(0, samples=samples)
    with torch_threads(1), tempfile.TemporaryDirectory(prefix="everest-bench-") as folder:
        return _measure(bench_clips(clips, Path(folder)), Path(folder), rounds, samples, workers)


def _measure(files: list[VideoFile], folder: Path, rounds: int, samples: int, workers: Sequence[int]) -> Figures:
    raw, jpeg = caches_of(files, folder)
    sources: dict[str, FrameSource] = {"video": VideoSource(files, 256), "jpeg": jpeg, "raw": raw}
    sets = {name: _clips_of(source) for name, source in sources.items()}
    turns = take_turns(_variants(sets, files, folder), rounds)
    wall = {name: [spent.wall for spent in some] for name, some in turns.items()}
    cpu = {name: [spent.cpu for spent in some] for name, some in turns.items()}

    def ratios(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
        return {
            group: {name: round(median_ratio(times["usual"], times[f"{group}.{name}"]), 2) for name in goals}
            for group, goals in GOALS.items()
        }

    ratio = ratios(wall)
    result: Figures = {
        "ratio": ratio,
        "ratio_of_cpu_time": ratios(cpu),
        "goals": GOALS,
        "met": {
            group: {name: ratio[group][name] >= goal for name, goal in goals.items()} for group, goals in GOALS.items()
        },
        "time_with_checks_over_without": {
            name: round(median_ratio(cpu[f"device_augment.{name}"], cpu[f"unchecked.{name}"]), 2)
            for name in ("jpeg", "raw")
        },
        "milliseconds_per_clip": {name: round(1e3 * statistics.median(times), 3) for name, times in wall.items()},
        "milliseconds_per_batch_worst": {name: round(1e3 * max(times) * BATCH, 2) for name, times in wall.items()},
        "bytes_per_clip": _bytes(sets, {"jpeg": jpeg, "raw": raw}, files),
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


def _clips_of(source: FrameSource) -> ClipDataset:
    """Every video as often as it takes to fill a batch."""
    from pipeline.data.clips.dataset import ClipDataset, ClipRule, Member

    rows = np.resize(np.arange(len(source), dtype=np.int64), max(BATCH, len(source)))
    return ClipDataset([Member(source, rows, Step(STEP))], ClipRule(FRAMES))


def _variants(sets: dict[str, ClipDataset], files: list[VideoFile], folder: Path) -> dict[str, Callable[[int], Spent]]:
    """Ways to load the batch of a turn; each tells the seconds of one clip."""
    runs: dict[str, Callable[[int], object]] = {"usual": partial(_usual, sets["raw"], files)}
    for name, clips in sets.items():
        runs[f"cpu_augment.{name}"] = _ours(clips, augment=True)
    for name in ("jpeg", "raw"):
        runs[f"device_augment.{name}"] = _ours(sets[name], augment=False)
        runs[f"unchecked.{name}"] = _ours(_clips_of(_Trusting.open(folder / name)), augment=False)

    def turn(name: str, number: int) -> Spent:
        # What takes microseconds is repeated, so that the clock's grain does not matter.
        repeat = 5 if name in ("device_augment.raw", "unchecked.raw") else 1
        spent = timed(lambda: [runs[name](number * 5 + again) for again in range(repeat)])
        return Spent(*(seconds / BATCH / repeat for seconds in spent))

    return {name: partial(turn, name) for name in runs}


class _Trusting(Cache):
    """A cache that compares no frame with its checksum: what the checks cost is measured against it."""

    def _due(self, row: int, places: Sequence[int]) -> Collection[int]:
        return ()


def _loader(dataset: ClipDataset, workers: int = 0) -> ClipLoader:
    from pipeline.data.clips.loader import ClipLoader

    return ClipLoader(dataset, seed=0, global_batch=BATCH, workers=workers)


def _places(dataset: ClipDataset, turn: int) -> list[tuple[int, Ints]]:
    """(file, frame numbers) of a turn's batch: what the loader reads, so all variants read the same clips."""
    rows = _loader(dataset).rows(turn, 0)
    numbers = dataset.frame_indices(rows, 0, turn, rows)
    return [(dataset.locate(int(row))[1], clip) for row, clip in zip(rows, numbers, strict=True)]


def _ours(dataset: ClipDataset, augment: bool) -> Callable[[int], None]:
    from pipeline.data.pixels.transforms import PretrainTransform

    transform = PretrainTransform(RESOLUTION, SCALES)
    loader = _loader(dataset)

    def run(turn: int) -> None:
        batch = next(loader.epoch(turn))
        if augment:
            transform(batch, "cpu")

    return run


def _usual(dataset: ClipDataset, files: Sequence[VideoFile], turn: int) -> None:
    for row, numbers in _places(dataset, turn):
        usual_clip(files[row].path, numbers, np.random.default_rng(turn))


def usual_clip(path: Path, numbers: Ints, rng: np.random.Generator) -> Tensor:
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


def _bytes(sets: dict[str, ClipDataset], caches: dict[str, Cache], files: Sequence[VideoFile]) -> dict[str, int]:
    result = {"video": int(np.mean([file.path.stat().st_size for file in files]))}
    for name, cache in caches.items():
        result[name] = int(np.mean([cache.bytes_of(row, numbers) for row, numbers in _places(sets[name], 0)]))
    return result


def _rates(sets: dict[str, ClipDataset], files: Sequence[VideoFile], workers: int) -> dict[str, float]:
    """Clips per second with this many workers: the usual way in processes, ours in threads, frames handed over."""
    result = {"usual": _usual_rate(sets["raw"], files, workers)}
    for name, dataset in sets.items():
        loader = _loader(dataset, workers)
        per_epoch = loader.steps_per_epoch
        epochs = max(1, {"video": 24, "jpeg": 160, "raw": 1200}[name] // (per_epoch * loader.global_batch))
        batches = _endless(loader)
        for _ in islice(batches, per_epoch):
            pass
        began = time.perf_counter()
        count = sum(len(batch.index_B) for batch in islice(batches, epochs * per_epoch))
        result[name] = round(count / (time.perf_counter() - began), 1)
        loader.close()
    return result


def _endless(loader: ClipLoader) -> Iterator[Batch]:
    """The batches of one epoch after the other."""
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def _usual_rate(dataset: ClipDataset, files: Sequence[VideoFile], workers: int) -> float:
    from torch.utils.data import DataLoader

    jobs = [(files[row].path, numbers) for turn in range(4) for row, numbers in _places(dataset, turn)]
    loader: DataLoader[Tensor] = DataLoader(
        _UsualDataset(jobs),  # type: ignore[arg-type]
        batch_size=4,
        num_workers=workers,
        multiprocessing_context="spawn",
    )
    batches = iter(loader)
    next(batches)  # the workers have started
    began = time.perf_counter()
    count = sum(len(batch) for batch in batches)
    return round(count / (time.perf_counter() - began), 1)


class _UsualDataset:
    def __init__(self, jobs: list[tuple[Path, Ints]]) -> None:
        self.jobs = jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, number: int) -> Tensor:
        import torch

        torch.set_num_threads(1)
        path, numbers = self.jobs[number]
        return usual_clip(path, numbers, np.random.default_rng(number))


def _memory(dataset: ClipDataset, samples: int) -> dict[str, float]:
    """Memory of this process that is not file pages, before and after reading many clips."""
    loader = _loader(dataset)
    batches, per_epoch = _endless(loader), loader.steps_per_epoch
    # Until then the loader has all the buffers that it goes on with.
    for _ in islice(batches, WARM_UP * per_epoch):
        pass
    before, count, peak = _anonymous_mib(), 0, 0.0
    while count < samples:
        count += sum(len(batch.index_B) for batch in islice(batches, per_epoch))
        peak = max(peak, _anonymous_mib())
    after = _anonymous_mib()
    return {
        "samples": count,
        "before_mib": before,
        "after_mib": after,
        "peak_mib": peak,
        "growth_mib": round(after - before, 2),
    }


def _anonymous_mib() -> float:
    """This process's resident memory without mapped files."""
    return round((process_bytes("RssAnon") or 0) / 2**20, 2)
