"""What a training on audited videos takes: multiply-adds against tube masking, hours and memory of a device, disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.audit.record import Audited
from pipeline.data.cache.maps import num_places
from pipeline.data.video.shrink import shrunk_size
from pipeline.efficiency.meters import GIB

if TYPE_CHECKING:
    from pipeline.planning.plan import Planner

#: The paper's: tokens kept and shown, tube masking's shown; pixels and frames of a clip.
KEEP, VISIBLE, RESOLUTION, FRAMES, SHORT_SIDE = 0.3, 0.1, 224, 16, 256
#: The recipes whose batch, precision and decoder are planned with.
RECIPES = {"everest": "ucf101", "tube": "videomae_ucf101"}
EPOCHS = 100


@dataclass(frozen=True)
class Training:
    """One pre-training as `everest plan` predicts it.

    Attributes:
        keep_ratio, visible_ratio: shares of all tokens.
        gmacs_per_clip: [G] multiply-adds of one forward.
        batch: global; `micro_batch` of it go through a device at a time, with `memory_gib` of memory.
        hours: of EPOCHS passes over the videos.
        assumed: where the share of the device's peak is from.
    """

    strategy: str
    keep_ratio: float
    visible_ratio: float
    gmacs_per_clip: float
    batch: int
    micro_batch: int
    memory_gib: float | None
    hours: float
    assumed: str


@dataclass(frozen=True)
class Disk:
    """[GiB] of the cache: frames as JPEG (from one frame of each video) or raw, and distance maps; of the videos."""

    videos: float
    jpeg: float
    raw: float
    maps: float


def visible_share(keep: float) -> float:
    """The share that is shown where `keep` is kept: the paper's 0.1, a third of what is kept where that is less."""
    return min(VISIBLE, round(keep / 3, 4))


def pretrain_gmacs(size: str, strategy: str, keep: float) -> float:
    """[G] multiply-adds of one forward of a clip of 16 x 224 x 224."""
    from models.cost import multiply_adds

    visible = VISIBLE if strategy == "tube" else visible_share(keep)
    cost = multiply_adds(
        size,
        "pretrain",
        strategy=strategy,
        keep_ratio=keep,
        visible_ratio=visible,
        frames=FRAMES,
        resolution=RESOLUTION,
    )
    return cost.multiply_adds / 1e9


def trainings(size: str, planner: Planner, videos: int, keeps: Sequence[float]) -> list[Training]:
    """EVEREST at each keep ratio, then tube masking, on the same videos and devices."""
    return [_training(size, planner, videos, "everest", keep) for keep in keeps] + [
        _training(size, planner, videos, "tube", 1.0)
    ]


def _training(size: str, planner: Planner, videos: int, strategy: str, keep: float) -> Training:
    from pipeline.params import load_params
    from pipeline.planning.counts import Counts
    from pipeline.planning.stage_cost import StageCost
    from pipeline.recipes import recipe_path

    visible = VISIBLE if strategy == "tube" else visible_share(keep)
    batch = max(planner.devices, min(192, videos) // planner.devices * planner.devices)
    overrides = {
        "pretrain.size": size,
        "pretrain.keep_ratio": keep,
        "pretrain.visible_ratio": visible,
        "pretrain.batch": batch,
        "pretrain.accumulate": 1,
        "pretrain.epochs": EPOCHS,
    }
    params = load_params(Path(recipe_path(RECIPES[strategy])), overrides)
    counts = {name: Counts(max(videos, batch), videos, None, "audited") for name in params.benchmarks}
    row = planner.row(StageCost(params, None), counts)
    return Training(
        strategy=strategy,
        keep_ratio=keep,
        visible_ratio=visible,
        gmacs_per_clip=row["gmacs_per_clip"],
        batch=batch,
        micro_batch=row["batch_per_device"],
        memory_gib=row["memory_gib"],
        hours=row["step_seconds"] * EPOCHS * videos / batch / 3600,
        assumed=f"{row['mfu']:.2f} of the peak, {row['mfu_from']}",
    )


def disk(records: Sequence[Audited]) -> Disk:
    """What a cache of these videos takes at the paper's size: every frame, short side 256."""
    raw = jpeg = maps = 0.0
    for record in records:
        measured, change = record.measurement, record.change
        height, width = shrunk_size(measured.height, measured.width, SHORT_SIDE)
        raw += measured.frames_decoded * height * width * 3
        if change is not None:
            jpeg += measured.frames_decoded * change.jpeg_bytes
            maps += measured.frames_decoded / change.frame_step * num_places(RESOLUTION) * 2
    videos = sum(record.measurement.bytes for record in records)
    return Disk(videos / GIB, jpeg / GIB, raw / GIB, maps / GIB)
