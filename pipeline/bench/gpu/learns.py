"""Learns: the demo's drawn scenes, pre-trained by everest and by tube for the same time, against fresh weights."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from pipeline.bench.gpu.checks import Check
from pipeline.bench.gpu.setting import RECIPES, MemoryVideos, Setting, Training, dataset_of, dotted
from pipeline.bench.harness import Figures
from pipeline.data.arrays import U8
from pipeline.data.sources.draw import MOTIONS
from pipeline.data.sources.scene import draw_motion
from pipeline.params import Params, SceneParams, load_params
from pipeline.tracking.names import VAL_TOP1
from pipeline.training.tasks import FinetuneTask, PretrainTask, TrainingTask

#: [s] of each contestant at most, and shares of them: pre-training, probe of the frozen encoder, fine-tuning.
SECONDS = 90.0
PRETRAIN, PROBE = 0.6, 0.1
CONTESTANTS = ("everest", "tube", "scratch")
BENCHMARK = "motion"
#: Rates of single steps, whatever their batch: the recipe's of pre-training, and for fine-tuning half of its own, since
#: the model is twice as wide as the recipe's.
PRETRAIN_LR, FINETUNE_LR, PROBE_LR = 1e-3, 2e-3, 2e-2
#: Share of a training's steps in which its rate rises.
WARMUP = 0.1


class Scale(NamedTuple):
    """Sizes of the part: pixels, videos without labels, with one, for the test; the model; clips of a step."""

    side: int
    unlabelled: int
    labelled: int
    test: int
    size: str
    batch: int
    labelled_batch: int


def scale_of(setting: Setting) -> Scale:
    """As the demo's benchmark, wider and larger on a GPU; as small as it gets for the rehearsal."""
    return Scale(112, 2048, 128, 512, "small", 256, 32) if setting.cuda else Scale(32, 32, 16, 16, "tiny", 8, 4)


def checks(setting: Setting) -> Iterator[Check]:
    """The videos, then each contestant with an equal share of the time that is left."""
    yield Check("draw videos", 5, draw)
    for number, name in enumerate(CONTESTANTS):
        yield Check(name, 15, partial(contestant, name=name, turns=len(CONTESTANTS) - number))


def params_of(setting: Setting, **changes: object) -> Params:
    """The demo's recipe for this device, with changes (`pretrain__epochs=3`)."""
    side = scale_of(setting).side
    overrides: dict[str, object] = {
        "clip.resolution": side, "preprocess.short_side": side, "pretrain.size": scale_of(setting).size,
        "pretrain.on_nonfinite": "skip", "finetune.on_nonfinite": "skip", "pretrain.max_nonfinite": 1000,
        "compute.ranks": 1, "compute.device": setting.device.type, "compute.loader_workers": 4 if setting.cuda else 0,
    }  # fmt: skip
    if setting.cuda:
        overrides |= {"pretrain.precision": "bf16", "finetune.precision": "bf16"}
    else:  # 8 frames of 32 pixels have 16 tokens
        overrides |= {"pretrain.keep_ratio": 0.5, "pretrain.visible_ratio": 0.2}
    return load_params(RECIPES / "demo.yaml", overrides | dotted(changes))


def _one(number: int, seed: int, frames: int, side: int, scene: SceneParams) -> U8:
    return draw_motion(np.random.default_rng([seed, number]), number % len(MOTIONS), frames, side, scene)


def draw(setting: Setting) -> Figures:
    """Videos as those of the demo's benchmark, in an array on the disk."""
    began = time.perf_counter()
    scale, source = scale_of(setting), params_of(setting).benchmarks[BENCHMARK].data.source
    assert source.kind == "generated", "the demo's videos are drawn"
    assert source.scene is not None, "the demo draws scenes"
    # A seed of its own: the recipe was chosen on others.
    one = partial(_one, seed=31, frames=source.frames, side=scale.side, scene=source.scene)
    numbers = range(scale.unlabelled + scale.test)
    if setting.cuda:
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
            clips = list(pool.map(one, numbers, chunksize=64))
    else:
        clips = list(map(one, numbers))
    np.save(setting.work / "motion.npy", np.stack(clips))
    return {
        "videos": len(clips), "pixels": scale.side, "labelled": scale.labelled, "test": scale.test,
        "scene": str(source.scene.model_dump()), "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def contestant(setting: Setting, name: str, turns: int) -> Figures:
    """Losses, top-1 of a probe and of fine-tuning, and the clips that each saw; `turns` contestants share the time."""
    seconds = min(SECONDS if setting.cuda else 2.5, 0.95 * setting.left() / turns)
    scale, videos = scale_of(setting), np.load(setting.work / "motion.npy", mmap_mode="r")
    labels = np.arange(len(videos)) % len(MOTIONS)

    def some(rows: slice) -> MemoryVideos:
        return MemoryVideos(np.array(videos[rows]), labels[rows], scale.side)

    labelled, test = some(slice(scale.labelled)), some(slice(scale.unlabelled, None))
    figures: Figures = {"size": scale.size, "seconds": round(seconds, 1), "chance": round(1 / len(MOTIONS), 3)}
    folder, rest = "scratch", seconds
    if name != "scratch":
        figures |= _pretrained(setting, some(slice(scale.unlabelled)), name, PRETRAIN * seconds)
        folder, rest = str(setting.work / name), seconds - PRETRAIN * seconds
    for kind, share, rate, frozen in (
        ("probe", PROBE * seconds, PROBE_LR, True),
        ("finetune", rest - PROBE * seconds, FINETUNE_LR, False),
    ):
        changes: dict[str, object] = {"finetune__init": folder, "finetune__frozen": frozen}
        figures |= _classified(setting, labelled, test, kind, share, rate, **changes)
    return figures


def _trained(
    setting: Setting, build: Callable[[int], TrainingTask], seconds: float
) -> tuple[Training, list[float], float]:
    """A training that lasted so long, its losses, and steps a second.

    Its schedule ends then: steps are timed on some beforehand. `build` makes a task for a number of epochs.
    """
    until = time.monotonic() + seconds
    trial = Training(setting, build(10**4))
    _losses(trial, 3)
    began, timed = time.monotonic(), 8 if setting.cuda else 2
    _losses(trial, timed)
    each = (time.monotonic() - began) / timed
    per_epoch = trial.task.loader.steps_per_epoch
    epochs = max(1, int((until - time.monotonic()) * 0.9 / (each * per_epoch)))
    training = Training(setting, build(epochs))
    began = time.monotonic()
    losses = _losses(training, epochs * per_epoch, until + 0.1 * seconds)
    return training, losses, len(losses) / (time.monotonic() - began)


def _losses(training: Training, steps: int, until: float = math.inf) -> list[float]:
    """The losses of so many steps, epoch by epoch; but for the first none is begun after `until`."""
    per_epoch, losses = training.task.loader.steps_per_epoch, list[float]()
    while not losses or (len(losses) < steps and time.monotonic() <= until):
        training.begin(len(losses) // per_epoch)
        losses += training.losses(min(per_epoch, steps - len(losses)))
    return losses


def _pretrained(setting: Setting, videos: MemoryVideos, name: str, seconds: float) -> Figures:
    from models.weights import save_model

    batch = scale_of(setting).batch

    def build(epochs: int) -> PretrainTask:
        params = params_of(
            setting, pretrain__strategy=name, pretrain__batch=batch, pretrain__base_lr=PRETRAIN_LR * 256 / batch,
            pretrain__epochs=epochs, pretrain__warmup_epochs=WARMUP * epochs,
        )  # fmt: skip
        return PretrainTask(params, setting.ranks, dataset_of(videos, params.clip.frames))

    training, losses, rate = _trained(setting, build, seconds)
    save_model(training.engine.model, setting.work / name, training.task.info.as_dict())
    return {
        "pretrain_first_loss": losses[0], "pretrain_last_loss": _last(losses), "pretrain_clips": len(losses) * batch,
        "pretrain_clips_per_second": round(rate * batch, 1),
    }  # fmt: skip


def _classified(
    setting: Setting,
    labelled: MemoryVideos,
    test: MemoryVideos,
    name: str,
    seconds: float,
    rate: float,
    **changes: object,
) -> Figures:
    import torch

    batch = scale_of(setting).labelled_batch

    def build(epochs: int) -> FinetuneTask:
        params = params_of(
            setting, finetune__batch=batch, finetune__base_lr=rate * 256 / batch, finetune__epochs=epochs,
            finetune__warmup_epochs=WARMUP * epochs, finetune__label_fraction=1.0, **changes,
        )  # fmt: skip
        clips = dataset_of(labelled, params.clip.frames)
        return FinetuneTask(params, BENCHMARK, setting.ranks, clips, dataset_of(test, params.clip.frames, False))

    training, losses, _ = _trained(setting, build, seconds)
    training.engine.model.eval()
    with torch.no_grad():
        scores = training.task.validate(0, True, lambda: None)
    return {
        f"{name}_first_loss": losses[0], f"{name}_last_loss": _last(losses), f"{name}_clips": len(losses) * batch,
        f"{name}_top1": round(scores[VAL_TOP1], 4),
    }  # fmt: skip


def _last(losses: list[float]) -> float:
    """The mean of the last losses: a single step's is of its own clips."""
    return float(np.mean(losses[-10:]))
