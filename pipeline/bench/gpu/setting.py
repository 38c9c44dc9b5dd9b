"""What the parts measure with: sizes, clips in memory, and the engine over them as a training builds it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.data.arrays import U8, Ints
from pipeline.data.batch import Batch
from pipeline.data.clips.dataset import ClipDataset, ClipRule, Member
from pipeline.data.frame_source import FrameSource
from pipeline.data.frame_step import Step
from pipeline.distributed.groups import Ranks
from pipeline.distributed.heartbeat import Pulse
from pipeline.efficiency.meters import Device, known_device
from pipeline.params import Params, load_params
from pipeline.system.processes import StopRequest
from pipeline.training.engine import Engine
from pipeline.training.journal import Journal, NoSink, Progress
from pipeline.training.tasks import FinetuneTask, PretrainTask, TrainingTask

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
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
    def known(self) -> Device | None:
        """The device's data sheet."""
        return known_device(torch.cuda.get_device_name(self.device)) if self.cuda else None

    @property
    def ranks(self) -> Ranks:
        return Ranks(0, 1, 0, self.device)

    @property
    def results(self) -> Path:
        return self.out / "results.jsonl"

    @property
    def work(self) -> Path:
        """Where a part's own files lie; the run removes them at its end."""
        folder = self.out / "work"
        folder.mkdir(exist_ok=True)
        return folder

    def needs(self, seconds: float) -> float:
        """[s] without which a check is not begun; a rehearsal's are all short."""
        return seconds if self.cuda else seconds / 100

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


def params_of(setting: Setting, size: str, batch: int, **changes: object) -> Params:
    """The recipe for K400 with a size, a batch and further changes (`pretrain__precision="fp32"`)."""
    overrides: dict[str, object] = {
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
    return load_params(RECIPES / "k400.yaml", overrides | dotted(changes))


def dotted(changes: Mapping[str, object]) -> dict[str, object]:
    """Overrides of parameters, from keywords (`pretrain__epochs`)."""
    return {key.replace("__", "."): value for key, value in changes.items()}


class MemoryVideos(FrameSource):
    """Videos that are an array [V, T, H, W, 3] in memory, or mapped from a file."""

    def __init__(self, array: U8, labels: Ints, short_side: int) -> None:
        self.array, self.labels, self.short_side = array, labels, short_side
        self.ids = [f"video-{row}" for row in range(len(array))]
        self.splits = ["train"] * len(array)
        self.lengths = [array.shape[1]] * len(array)

    def size(self, row: int) -> tuple[int, int]:
        return int(self.array.shape[2]), int(self.array.shape[3])

    def fill(self, row: int, frame_indices: npt.ArrayLike, target_THWC: U8) -> None:
        height, width = self.size(row)
        target_THWC[:, :height, :width] = self.array[row, np.asarray(frame_indices)]


def texture(seed: int, length: int, height: int, width: int) -> U8:
    """A smooth picture with grain that pans, [T, H, W, 3]: JPEGs of it are about as large as a film's."""
    rng = np.random.default_rng(seed)
    size = (height + 2 * length, width + 2 * length)
    coarse = torch.from_numpy(rng.random((1, 3, 20, 24), dtype=np.float32))
    wide = torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0].permute(1, 2, 0).mul(255).numpy()
    wide = wide + rng.normal(0, 6, (*size, 1)).astype(np.float32)
    wide = np.clip(wide, 0, 255).astype(np.uint8)
    return np.stack([wide[2 * t : 2 * t + height, t : t + width] for t in range(length)])


def textures(setting: Setting, count: int, seed: int = 0) -> MemoryVideos:
    """Videos as long as a clip: no timing is of constant data."""
    seeds = range(1000 * seed, 1000 * seed + count)
    frames = np.stack([texture(one, setting.frames, setting.height, setting.width) for one in seeds])
    return MemoryVideos(frames, np.arange(count) % 2, setting.height)


def dataset_of(source: FrameSource, frames: int, random: bool = True, times: int = 1) -> ClipDataset:
    """All videos of a source, each so often in an epoch."""
    rows = np.tile(np.arange(len(source), dtype=np.int64), times)
    return ClipDataset([Member(source, rows, Step(1))], ClipRule(frames, random=random))


class Resident:
    """A loader whose batches lie on the device, of random frames: a step then waits for no data."""

    steps_per_epoch = 10**6

    def __init__(self, setting: Setting, clips: int) -> None:
        self._batches = [self._batch(setting, clips, seed) for seed in range(2)]

    @staticmethod
    def _batch(setting: Setting, clips: int, seed: int) -> Batch:
        generator = torch.Generator(setting.device).manual_seed(seed)
        shape = (clips, setting.frames, setting.height, setting.width, 3)
        frames = torch.randint(0, 256, shape, generator=generator, device=setting.device, dtype=torch.uint8)
        index = torch.arange(clips)
        sizes = torch.tensor([[setting.height, setting.width]] * clips)
        numbers = torch.arange(setting.frames).expand(clips, -1)
        return Batch(frames, sizes, torch.arange(clips) % 2, index, index + seed * clips, numbers, 0, 0)

    def epoch(self, epoch: int, start_micro_step: int = 0) -> Iterator[Batch]:
        while True:
            yield from self._batches


def task_of(setting: Setting, stage: str, params: Params, source: FrameSource, times: int = 1) -> TrainingTask:
    """The task of a stage as a training builds it, over the videos of a source, each at least so often in an epoch."""
    batch = params.pretrain.batch if stage == "pretrain" else params.finetune.batch
    clips = dataset_of(source, setting.frames, times=max(times, -(-batch // len(source))))
    if stage == "pretrain":
        return PretrainTask(params, setting.ranks, clips)
    return FinetuneTask(params, BENCHMARK, setting.ranks, clips, dataset_of(source, setting.frames, random=False))


class Training:
    """The engine over a task, as a rank builds it, without anyone to tell; and its steps."""

    def __init__(self, setting: Setting, task: TrainingTask, work: Path | None = None) -> None:
        self.task, self.work = task, work or Path(tempfile.mkdtemp(dir=setting.work))
        self.engine = Engine(
            task, task.settings, setting.ranks, self.work, journal=Journal(None, NoSink()), pulse=Pulse(None),
            stop=StopRequest(), progress=Progress("", False),
        )  # fmt: skip
        self.begin(0)

    def begin(self, epoch: int, micro_step: int = 0) -> None:
        """Take the next batches from this place on."""
        self.engine.model.train()
        self.batches = iter(self.task.loader.epoch(epoch, micro_step))

    def losses(self, steps: int) -> list[float]:
        """The losses of the next steps."""
        losses = []
        for _ in range(steps):
            self.engine.advance(self.batches, 0, at_once=True)
            losses.append(self.engine.last_loss)
        return losses

    def step(self) -> None:
        """One step whose loss nobody reads: what is timed."""
        self.engine.train_step(self.batches, 0, self.engine.step)
        self.engine.step += 1


def resident(
    setting: Setting, stage: str, params: Params, compiled: bool = False, row_mode: str | None = None
) -> Training:
    """A training whose batches lie on the device; `row_mode` is that of `compile_parts`."""
    task = task_of(setting, stage, params, textures(setting, 2))
    numbers = params.pretrain if stage == "pretrain" else params.finetune
    task.loader = Resident(setting, numbers.batch // numbers.accumulate)  # type: ignore[assignment]
    if compiled:
        compile_parts(setting, task, row_mode)
    return Training(setting, task)


def compile_parts(setting: Setting, task: TrainingTask, row_mode: str | None = None) -> None:
    """Compile a task's model as a training does; the rehearsal traces, and leaves out a C++ compiler's minutes."""
    backend = {} if setting.cuda else {"backend": "eager"}
    task.settings = replace(task.settings, graphs=row_mode is not None)
    task.model.compile_parts(row_mode, fullgraph=True, dynamic=False, **backend)  # type: ignore[operator]
