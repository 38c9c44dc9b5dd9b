"""Learns: the drawn benchmark, pre-trained by everest and by tube for the same time, against fresh weights."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np

from pipeline.bench.gpu.checks import Check
from pipeline.bench.gpu.setting import BENCHMARK, MemoryVideos, Setting, Training, dataset_of, params_of
from pipeline.bench.harness import Figures
from pipeline.data.arrays import U8
from pipeline.data.sources.draw import MOTIONS, draw_motion
from pipeline.tracking.names import VAL_TOP1
from pipeline.training.tasks import FinetuneTask, PretrainTask, TrainingTask

#: [s] of each contestant at most, and shares of them: pre-training, probe of the frozen encoder, fine-tuning.
SECONDS = 90.0
PRETRAIN, PROBE = 0.6, 0.2
CONTESTANTS = ("everest", "tube", "scratch")
#: Fine-tuning without what only pays in long trainings.
PLAIN: dict[str, object] = {
    "finetune__mixup": 0.0, "finetune__cutmix": 0.0, "finetune__rand_augment": None, "finetune__flip": 0.0,
    "finetune__random_erasing": 0.0, "finetune__crop_scale": [0.7, 1.0], "finetune__layer_decay": 1.0,
    "finetune__strategy": "none", "finetune__drop_path": 0.0,
}  # fmt: skip


def checks(setting: Setting) -> Iterator[Check]:
    """The videos, then each contestant with an equal share of the time that is left."""
    yield Check("draw videos", 5, draw)
    for number, name in enumerate(CONTESTANTS):
        yield Check(name, 15, partial(contestant, name=name, turns=len(CONTESTANTS) - number))


def _sides(setting: Setting) -> tuple[int, int, int, int]:
    """Frames, pixels, training videos, test videos."""
    return (16, 112, 2048, 512) if setting.cuda else (setting.frames, setting.resolution, 32, 16)


def _one(seed: int, frames: int, side: int) -> U8:
    return draw_motion(np.random.default_rng(seed), seed % len(MOTIONS), frames, side)


def draw(setting: Setting) -> Figures:
    """Videos of the generated benchmark `motion`, in an array on the disk."""
    began = time.perf_counter()
    frames, side, training, test = _sides(setting)
    one, seeds = partial(_one, frames=frames, side=side), range(training + test)
    if setting.cuda:
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
            clips = list(pool.map(one, seeds, chunksize=64))
    else:
        clips = list(map(one, seeds))
    np.save(setting.work / "motion.npy", np.stack(clips))
    return {"videos": len(clips), "pixels": side, "seconds": round(time.perf_counter() - began, 1)}


def contestant(setting: Setting, name: str, turns: int) -> Figures:
    """Losses, top-1 of a probe and of fine-tuning, and the clips that each saw; `turns` contestants share the time."""
    seconds = min(SECONDS if setting.cuda else 4.0, 0.9 * setting.left() / turns)
    frames, side, training, _ = _sides(setting)
    videos = np.load(setting.work / "motion.npy", mmap_mode="r")
    labels = np.arange(len(videos)) % len(MOTIONS)
    learn = MemoryVideos(np.array(videos[:training]), labels[:training], side)
    test = MemoryVideos(np.array(videos[training:]), labels[training:], side)
    small = {"clip__frames": frames, "clip__resolution": side, "preprocess__short_side": side}
    figures: Figures = {"contestant": name, "seconds": round(seconds, 1), "chance": round(1 / len(MOTIONS), 3)}
    folder, rest = "scratch", seconds
    if name != "scratch":
        ratios = {"pretrain__visible_ratio": 0.1}
        if name == "everest":
            ratios = {"pretrain__keep_ratio": 0.5, "pretrain__visible_ratio": 0.2}
        changes: dict[str, object] = {"pretrain__base_lr": 6e-4, "pretrain__weight_decay": 0.05, **ratios, **small}
        figures |= _pretrained(setting, learn, name, PRETRAIN * seconds, changes)
        folder, rest = str(setting.work / name), seconds - PRETRAIN * seconds
    probe: dict[str, object] = {"finetune__frozen": True, "finetune__base_lr": 0.02}
    for kind, share, more in (
        ("probe", PROBE * seconds, probe),
        ("finetune", rest - PROBE * seconds, {"finetune__base_lr": 2e-3}),
    ):
        changes = {**PLAIN, "finetune__init": folder, **more, **small}
        figures |= _classified(setting, learn, test, kind, share, changes)
    return figures


def _size(setting: Setting) -> tuple[str, int]:
    """The model, and clips of a step of its pre-training."""
    return ("small", 256) if setting.cuda else ("tiny", 8)


def _trained(
    setting: Setting, build: Callable[[int], TrainingTask], seconds: float
) -> tuple[Training, list[float], float]:
    """A training that lasted so long, its losses, and steps a second.

    Its schedule ends then: steps are timed on some beforehand. `build` makes a task for a number of epochs.
    """
    until = time.monotonic() + seconds
    trial = Training(setting, build(10**5))
    trial.losses(1)
    began = time.monotonic()
    trial.losses(2)
    each = (time.monotonic() - began) / 2
    per_epoch = trial.task.loader.steps_per_epoch
    epochs = max(1, int((until - time.monotonic()) * 0.9 / (each * per_epoch)))
    training = Training(setting, build(epochs))
    losses: list[float] = []
    began = time.monotonic()
    for epoch in range(epochs):
        training.begin(epoch)
        losses += training.losses(per_epoch)
        if time.monotonic() > until:
            break
    return training, losses, len(losses) / (time.monotonic() - began)


def _pretrained(
    setting: Setting, learn: MemoryVideos, name: str, seconds: float, changes: dict[str, object]
) -> Figures:
    from models.weights import save_model

    size, batch = _size(setting)

    def build(epochs: int) -> PretrainTask:
        params = params_of(setting, size, batch, pretrain__strategy=name, pretrain__epochs=epochs, **changes)
        return PretrainTask(params, setting.ranks, dataset_of(learn, params.clip.frames))

    training, losses, rate = _trained(setting, build, seconds)
    save_model(training.engine.model, setting.work / name, training.task.info.as_dict())
    return {
        "pretrain_first_loss": losses[0], "pretrain_last_loss": losses[-1], "pretrain_clips": len(losses) * batch,
        "pretrain_clips_per_second": round(rate * batch, 1),
    }  # fmt: skip


def _classified(
    setting: Setting, learn: MemoryVideos, test: MemoryVideos, name: str, seconds: float, changes: dict[str, object]
) -> Figures:
    import torch

    size, batch = _size(setting)[0], _size(setting)[1] // 4

    def build(epochs: int) -> FinetuneTask:
        params = params_of(setting, size, batch, finetune__epochs=epochs, **changes)
        clips = dataset_of(learn, params.clip.frames)
        return FinetuneTask(params, BENCHMARK, setting.ranks, clips, dataset_of(test, params.clip.frames, False))

    training, losses, _ = _trained(setting, build, seconds)
    training.engine.model.eval()
    with torch.no_grad():
        scores = training.task.validate(0, True, lambda: None)
    return {
        f"{name}_first_loss": losses[0], f"{name}_last_loss": losses[-1], f"{name}_clips": len(losses) * batch,
        f"{name}_top1": round(scores[VAL_TOP1], 4),
    }  # fmt: skip
