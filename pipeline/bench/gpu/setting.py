"""What the parts measure with: sizes, clips in memory, and the engine over them as a training builds it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.data.clips.dataset import ClipDataset, ClipRule, Member
from pipeline.data.clips.loader import Batch
from pipeline.distributed.groups import Ranks
from pipeline.distributed.heartbeat import Pulse
from pipeline.distributed.stopping import StopRequest
from pipeline.params import Params, load_params
from pipeline.training.engine import Engine
from pipeline.training.journal import Journal, NoSink, Progress
from pipeline.training.tasks import FinetuneTask, PretrainTask, TrainingTask

RECIPE = Path(__file__).resolve().parents[3] / "recipes" / "k400.yaml"
BENCHMARK = "k400"
#: Learning rate of the steps, whatever their batch.
PEAK_LR = 2e-4


@dataclass(frozen=True)
class Setting:
    """How large everything is: as on paper on a GPU, as small as it gets for the rehearsal on a CPU.

    Attributes:
        sizes: of models, in the order of their worth.
        height, width: of frames as they are cached.
        count: timed steps.
        equal: clips of a step where several implementations are compared.
        until: the monotonic time at which the part ends.
    """

    device: torch.device
    out: Path
    until: float
    sizes: tuple[str, ...]
    frames: int
    resolution: int
    height: int
    width: int
    count: int
    equal: int

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def ranks(self) -> Ranks:
        return Ranks(0, 1, 0, self.device)

    @property
    def work(self) -> Path:
        """Where a part's own files lie; the run removes them at its end."""
        folder = self.out / "work"
        folder.mkdir(exist_ok=True)
        return folder

    def needs(self, seconds: float) -> float:
        """[s] without which a check is not begun; a rehearsal's are all short."""
        return seconds if self.cuda else 0.5

    def left(self) -> float:
        """[s] that this part still has."""
        return self.until - time.monotonic()


def setting_of(device: str, out: Path, until: float) -> Setting:
    """The setting of a device."""
    if device == "cuda":
        torch.cuda.set_device(0)
        sizes = ("base", "large", "small", "huge")
        return Setting(torch.device("cuda", 0), out, until, sizes, 16, 224, 256, 340, 10, 128)
    return Setting(torch.device("cpu"), out, until, ("tiny",), 8, 32, 40, 48, 2, 1)


def params_of(setting: Setting, size: str, batch: int, **changes: Any) -> Params:
    """The recipe for K400 with a size, a batch and further changes (`pretrain__precision="fp32"`)."""
    overrides: dict[str, Any] = {
        "clip.frames": setting.frames, "clip.resolution": setting.resolution, "preprocess.short_side": setting.height,
        "ingest.min_frames": setting.frames, "pretrain.size": size, "pretrain.batch": batch, "finetune.batch": batch,
        "finetune.init": "scratch", "compute.ranks": 1, "compute.device": setting.device.type,
        # A rate that moves parameters from the first step on.
        "pretrain.warmup_epochs": 0.0, "finetune.warmup_epochs": 0.0,
        "pretrain.base_lr": PEAK_LR * 256 / batch, "finetune.base_lr": PEAK_LR * 256 / batch,
        "pretrain.frame_selection.mode": "none", "pretrain.on_nonfinite": "skip", "pretrain.max_nonfinite": 1000,
    }  # fmt: skip
    if not setting.cuda:
        overrides |= {"pretrain.keep_ratio": 0.5, "pretrain.visible_ratio": 0.2, "pretrain.decoder_depth": 2}
    return load_params(RECIPE, overrides | {key.replace("__", "."): value for key, value in changes.items()})


@dataclass
class MemoryVideos:
    """A source whose videos are an array uint8 [V, T, H, W, 3] in memory, or mapped from a file."""

    frames: Any
    labels: Any
    short_side: int
    grid: int = 1
    ids: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids = [f"video-{row}" for row in range(len(self.frames))]

    def __len__(self) -> int:
        return len(self.frames)

    def num_frames(self, row: int) -> int:
        return int(self.frames.shape[1])

    def size(self, row: int) -> tuple[int, int]:
        return int(self.frames.shape[2]), int(self.frames.shape[3])

    def label(self, row: int) -> int:
        return int(self.labels[row])

    def rows(self, split: str | None = None) -> list[int]:
        return list(range(len(self.frames)))

    def fill(self, row: int, frame_indices: Any, target_THWC: Any) -> None:
        height, width = self.size(row)
        for place, frame in zip(frame_indices, target_THWC, strict=True):
            place_HWC = self.frames[row, int(place)]
            frame[:height, :width] = place_HWC

    def maps(self, row: int) -> None:
        return None


def dataset_of(source: Any, frames: int, random: bool = True, times: int = 1, step: int = 1) -> ClipDataset:
    """All videos of a source, each so often in an epoch."""
    rows = np.tile(np.arange(len(source), dtype=np.int64), times)
    return ClipDataset([Member(source, rows, step)], ClipRule(frames, random=random))


def noise_videos(setting: Setting, count: int, seed: int) -> MemoryVideos:
    """Random frames with something that moves: no timing is of constant data."""
    rng = np.random.default_rng(seed)
    shape = (count, setting.frames, setting.height, setting.width, 3)
    frames = np.repeat(rng.integers(0, 256, (count, 1, *shape[2:]), dtype=np.uint8), setting.frames, axis=1)
    side = setting.height // 3
    for row in range(count):
        for time_ in range(setting.frames):
            place = (time_ * 3) % (setting.height - side)
            frames[row, time_, place : place + side, place : place + side] = rng.integers(0, 256, dtype=np.uint8)
    return MemoryVideos(frames, rng.integers(0, 2, count), setting.height)


class Resident:
    """A loader whose batches lie on the device, of fresh random frames: a step then waits for no data."""

    steps_per_epoch = 10**6

    def __init__(self, setting: Setting, clips: int, seed: int = 0) -> None:
        self._batches = [self._batch(setting, clips, seed + number) for number in range(2)]

    @staticmethod
    def _batch(setting: Setting, clips: int, seed: int) -> Batch:
        generator = torch.Generator(setting.device).manual_seed(seed)
        shape = (clips, setting.frames, setting.height, setting.width, 3)
        frames = torch.randint(0, 256, shape, generator=generator, device=setting.device, dtype=torch.uint8)
        index = torch.arange(clips)
        sizes = torch.tensor([[setting.height, setting.width]] * clips)
        labels = torch.arange(clips) % 2
        numbers = torch.arange(setting.frames).expand(clips, -1)
        return Batch(frames, sizes, labels, index, index + seed * clips, numbers, 0, 0)

    def epoch(self, epoch: int, start_micro_step: int = 0) -> Iterator[Batch]:
        while True:
            yield from self._batches


def task_of(setting: Setting, stage: str, params: Params, source: Any = None, times: int = 1) -> TrainingTask:
    """The task of a stage as a training builds it, over clips in memory."""
    source = source or noise_videos(setting, max(2, min(8, params.pretrain.batch)), 0)
    batch = params.pretrain.batch if stage == "pretrain" else params.finetune.batch
    times = max(times, -(-batch // len(source)))
    clips = dataset_of(source, setting.frames, times=times)
    if stage == "pretrain":
        return PretrainTask(params, setting.ranks, clips)
    return FinetuneTask(params, BENCHMARK, setting.ranks, clips, dataset_of(source, setting.frames, random=False))


def engine_of(setting: Setting, task: TrainingTask, work: Path | None = None) -> Engine:
    """The engine over a task, as a rank builds it, without anyone to tell."""
    work = work or Path(tempfile.mkdtemp(dir=setting.work))
    work.mkdir(parents=True, exist_ok=True)
    return Engine(
        task, task.settings, setting.ranks, work, journal=Journal(None, NoSink()), pulse=Pulse(None),
        stop=StopRequest(), progress=Progress("", False),
    )  # fmt: skip


def resident_engine(
    setting: Setting, stage: str, params: Params, compiled: bool = False
) -> tuple[Engine, Iterator[Batch]]:
    """An engine whose batches lie on the device, and those batches."""
    task = task_of(setting, stage, params)
    batch = params.pretrain.batch if stage == "pretrain" else params.finetune.batch
    loader = Resident(setting, batch)
    task.loader = loader  # type: ignore[assignment]
    if compiled:
        # The rehearsal traces as a GPU's run does, and leaves out a C++ compiler's minutes.
        backend = {} if setting.cuda else {"backend": "eager"}
        task.model.compile_parts(fullgraph=True, dynamic=False, **backend)  # type: ignore[operator]
    engine = engine_of(setting, task)
    engine.model.train()
    return engine, loader.epoch(0)


def losses_of(engine: Engine, batches: Iterator[Batch], steps: int) -> list[float]:
    """The losses of the next steps."""
    found = []
    for _ in range(steps):
        engine.advance(batches, 0, at_once=True)
        found.append(engine.last_loss)
    return found
