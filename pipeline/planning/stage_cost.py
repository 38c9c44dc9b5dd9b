"""What a step of a stage takes of a device: arithmetic, memory, loading. Every prediction is made of this."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.efficiency.clip_cost import (
    autoencoder_arguments,
    classifier_arguments,
    finetune_cost,
    finetune_passes,
    learning_of,
    pretrain_cost,
)
from pipeline.efficiency.meters import GIB, Device
from pipeline.efficiency.meters import mfu as utilisation
from pipeline.errors import InputError
from pipeline.params import Params, TrainingParams, load_params
from pipeline.params.consistency import SHAPES
from pipeline.planning.calibration import Share, measured_share
from pipeline.planning.counts import Counts
from pipeline.strategies import strategy_facts

if TYPE_CHECKING:
    from models.cost import Cost
    from models.info import ModelArguments
    from models.tuning.learning import Learning
    from pipeline.planning.memory import Footprint

#: Share of the peak that training reaches where none is given or measured. Assumed.
ASSUMED_MFU = 0.30
#: Share of device memory that may be used; the rest is the CUDA context, NCCL's buffers and fragmentation.
USABLE_MEMORY = 0.88
#: [core] that read clips, for each device.
CORES_PER_DEVICE = 12
#: [byte] for each parameter: its fp32 value; where it learns, gradient and AdamW's two moments as well.
VALUE_BYTES, STATE_BYTES = 4, 16
#: Clips of 16 frames that one core reads from a cache in a second, cropped and handed over as uint8: measured without a
#: GPU (docs/benchmarks.md, "Loading clips", one worker; AMD EPYC, pictures of 23 KB), and from JPEG beside an H100
#: (docs/gpu.md, "The sittings before", 8 threads; pictures of 33 KB). Raw frames kept that H100 busy: their rate there
#: is not known.
CLIPS_PER_SECOND = {"jpeg": 231.7, "raw": 3271.0}
BESIDE_GPU = CLIPS_PER_SECOND | {"jpeg": 753 / 8}
#: [s] for each block of a model, encoder's and decoder's, of launching what a GPU does in forward, backward and update:
#: a step of few clips takes no less, whatever the model's width. Measured for two clips of base, 16 blocks, eager as
#: compiled, 37 to 48 ms by the host's processor, and with `compute.compile: graphs` 21 ms on an H200 (docs/gpu.md).
LAUNCH_SECONDS, REPLAY_SECONDS = 45e-3 / 16, 21e-3 / 16
#: How much `--gpu cpu` tries out.
TRIED_CLIPS, TRIED_SECONDS = 32, 1.5


def planned_params(recipe: str | None) -> Params:
    """The parameters of a recipe; of params.yaml where None is named."""
    from pipeline.recipes import recipe_path

    return load_params(recipe_path(recipe) if recipe else Path("params.yaml"))


def check_share(mfu: float | None) -> None:
    """Refuse a share of the peak outside (0, 1].

    Raises:
        InputError: it is.
    """
    if mfu is not None and not 0 < mfu <= 1:
        raise InputError(f"mfu = {mfu:g}, expected above 0 and at most 1. Cure: --mfu 0.3, or leave it out.")


def check_store(store: str) -> None:
    """Refuse a cache whose rate nobody has measured.

    Raises:
        InputError: it is neither of both.
    """
    if store not in CLIPS_PER_SECOND:
        raise InputError(f"store = {store!r}, expected one of {', '.join(CLIPS_PER_SECOND)}. Cure: choose one of them.")


def launch_words(graphs: bool = False) -> str:
    """What a step's launches take, without `compute.compile: graphs` or with it, and where that is from."""
    seconds, how = (REPLAY_SECONDS, "with") if graphs else (LAUNCH_SECONDS, "without")
    return (
        f"a step of few clips takes {1e3 * seconds:.1f} ms for each block of its model to launch, as measured for two "
        f"clips of base {how} compute.compile: graphs (docs/gpu.md)"
    )


def peak(device: Device, precision: str) -> float:
    """[FLOP/s] of a device in a precision."""
    return device.single if precision == "fp32" else device.half


def loading_seconds(store: str, frames: int, gpu: bool = True) -> float:
    """[s] of one core for a clip of `frames` frames, beside a GPU or without one."""
    return frames / 16 / (BESIDE_GPU if gpu else CLIPS_PER_SECOND)[store]


def loading_words(store: str, frames: int, gpu: bool = True) -> str:
    """What a clip takes of a core, and where that is from."""
    clip = f"a clip of {frames} frames cached as {store} takes"
    amd = f"{1e3 * loading_seconds(store, frames, gpu=False):.2f} ms of a core of an AMD EPYC (docs/benchmarks.md)"
    if store != "jpeg" or not gpu:
        return f"{clip} {amd}"
    beside = f"{1e3 * loading_seconds(store, frames):.2f} ms of a core, as measured beside an H100 (docs/gpu.md)"
    return f"{clip} {beside} with pictures of 33 KB; with 23 KB it was {amd}"


@dataclass(frozen=True)
class StageCost:
    """Pre-training, or the fine-tuning on one benchmark."""

    params: Params
    benchmark: str | None = None

    @property
    def name(self) -> str:
        return "finetune" if self.benchmark else "pretrain"

    @functools.cached_property
    def stage(self) -> TrainingParams:
        return self.params.finetune_of(self.benchmark) if self.benchmark else self.params.pretrain

    @functools.cached_property
    def cost(self) -> Cost:
        """Of one forward of one clip."""
        return finetune_cost(self.params, self.benchmark) if self.benchmark else pretrain_cost(self.params)

    @property
    def passes(self) -> float:
        """Forwards that a step's arithmetic amounts to: backward takes two where all learns, else less."""
        return finetune_passes(self.params, self.benchmark) if self.benchmark else 3.0

    @property
    def learning(self) -> Learning | None:
        """What of a classifier learns; None: all of an autoencoder."""
        return learning_of(self.params.finetune_of(self.benchmark)) if self.benchmark else None

    @property
    def clips(self) -> int:
        """Clips of a global step."""
        return self.stage.batch * self.stage.repeated_augmentation

    @property
    def shape(self) -> tuple[int, int]:
        """(frames, pixels) of a clip."""
        return self.params.clip.frames, self.params.clip.resolution

    @property
    def model(self) -> tuple[str, ModelArguments]:
        """The timm name and arguments of the stage's model, with one budget for all clips: no clip is known yet."""
        from models.registry import architecture

        name = architecture(self.params.pretrain.size, pretrain=self.benchmark is None)
        if self.benchmark is None:
            arguments = autoencoder_arguments(self.params.pretrain, self.params.clip)
        else:
            classes = self.params.benchmark(self.benchmark).data.classes
            arguments = classifier_arguments(self.params.finetune_of(self.benchmark), self.params.clip, classes)
        strategy = arguments["strategy"]
        return name, {
            **arguments,
            "strategy": strategy_facts()[strategy].planned_as or strategy,
            "score_share": None,
        }

    def videos(self, counts: Mapping[str, Counts]) -> int | None:
        """Training videos that an epoch draws from; None where a count is unknown."""
        if self.benchmark is not None:
            return counts[self.benchmark].labelled(self.params.finetune_of(self.benchmark).label_fraction)
        parts = [counts[name].pretraining() for name in self.params.pretrain.corpus]
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None

    def share(self, device: Device, mfu: float | None, calibration: Path | None = None) -> Share:
        """The share of the peak to plan with: as given, as measured on such a device, or assumed."""
        if mfu is not None:
            return Share(mfu, "given")
        measured = None
        if self.passes == 3.0 and self.stage.precision != "fp32":
            size, compiled = self.params.pretrain.size, bool(self.params.compute.compile)
            measured = measured_share(device, self.name, size, compiled, calibration)
        return measured or Share(ASSUMED_MFU, "assumed")

    def share_here(self, micro: int, device: Device, processes: int) -> Share:
        """The share of this CPU's peak that a few real steps reach, with one process's share of the cores."""
        import torch

        from pipeline.planning.rate import clips_per_second, cores_of_one

        clips, precision = min(micro * self.stage.repeated_augmentation, TRIED_CLIPS), self.stage.precision
        with cores_of_one(processes):
            cpu = torch.device("cpu")
            rate = clips_per_second(*self.model, self.shape, clips, precision, cpu, TRIED_SECONDS, self.learning)
        share = utilisation(self.cost.multiply_adds / 1e9, rate, peak(device, precision), self.passes)
        return Share(share, f"measured, a few steps of one process on {TRIED_CLIPS} made-up clips at most")

    def arithmetic_seconds(self, device: Device, mfu: float, devices: int) -> float:
        """[s] of forward and backward of a global step, shared by `devices`."""
        flops = self.passes * 2 * self.cost.multiply_adds * self.clips
        return flops / (peak(device, self.stage.precision) * mfu * devices)

    def launch_seconds(self, accumulate: int) -> float:
        """[s] that a host takes to launch a step's kernels on its GPU: a part of the forwards, as with arithmetic."""
        blocks = SHAPES[self.params.pretrain.size][1] + (0 if self.benchmark else self.params.pretrain.decoder_depth)
        each = REPLAY_SECONDS if self.params.compute.compile == "graphs" else LAUNCH_SECONDS
        return each * blocks * self.passes / 3 * accumulate

    def memory(self, devices: int, gpu: bool = True) -> Footprint:
        """Of one device: replicated under DDP, states shared out under FSDP."""
        from pipeline.planning.memory import footprint

        recompute = self.params.compute.activation_checkpointing
        result = footprint(*self.model, self.shape, self.stage.precision, recompute, True, gpu, self.learning)
        states = STATE_BYTES * result.parameters - (STATE_BYTES - VALUE_BYTES) * result.frozen
        shared = devices if self.params.compute.data_parallel == "fsdp" else 1
        few_fixed = max(result.few_fixed, states)
        return dataclasses.replace(result, fixed=result.fixed / shared, few_fixed=few_fixed / shared)

    @property
    def fewest(self) -> int:
        """Videos that go through a device together: those that mixup and cutmix mix, else one."""
        return 2 if self.benchmark and self.params.finetune_of(self.benchmark).mixes else 1

    def micro_batch(self, devices: int, memory: Footprint, device: Device) -> tuple[int, int]:
        """(micro-batch, accumulation) with the largest micro-batch that fits; (0, 0) where none does.

        Their product is the device's share of the global batch, so that the learning rate's rule holds. A micro-batch
        is a multiple of `fewest`.
        """
        each = self.stage.batch // devices
        room = device.memory_gib * GIB * USABLE_MEMORY
        for accumulate in range(1, each // self.fewest + 1):
            micro = each // accumulate
            if each % (accumulate * self.fewest) == 0 and memory.at(micro * self.stage.repeated_augmentation) <= room:
                return micro, accumulate
        return 0, 0
