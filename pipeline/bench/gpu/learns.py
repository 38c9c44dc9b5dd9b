"""Learns: the drawn benchmark, pre-trained by everest and by tube for the same time, against fresh weights."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bench.gpu.checks import Check
from pipeline.bench.gpu.setting import (
    BENCHMARK,
    MemoryVideos,
    Setting,
    dataset_of,
    engine_of,
    losses_of,
    params_of,
)
from pipeline.data.sources.draw import MOTIONS, draw_motion

#: [s] of each contestant at most, and shares of them: pre-training, probe of the frozen encoder, fine-tuning.
SECONDS = 90.0
PRETRAIN, PROBE = 0.6, 0.2
CONTESTANTS = ("everest", "tube", "scratch")


def checks(setting: Setting) -> Iterator[Check]:
    """The videos, then each contestant with an equal share of the time that is left."""
    yield Check("draw videos", lambda: draw(setting), setting.needs(5))
    for number, name in enumerate(CONTESTANTS):
        yield Check(
            name,
            lambda name=name, number=number: contestant(  # type: ignore[misc]
                setting, name, min(SECONDS if setting.cuda else 4.0, 0.9 * setting.left() / (len(CONTESTANTS) - number))
            ),
            setting.needs(15),
        )  # fmt: skip


def _sides(setting: Setting) -> tuple[int, int, int, int]:
    """Frames, pixels, training videos, test videos."""
    return (16, 112, 4096, 1024) if setting.cuda else (setting.frames, setting.resolution, 32, 16)


def _one(wish: tuple[int, int, int]) -> np.ndarray:
    seed, frames, side = wish
    return draw_motion(np.random.default_rng(seed), seed % len(MOTIONS), frames, side)


def draw(setting: Setting) -> dict[str, Any]:
    """Videos of the generated benchmark `motion`, in an array on the disk."""
    began = time.perf_counter()
    frames, side, training, test = _sides(setting)
    wishes = [(seed, frames, side) for seed in range(training + test)]
    if setting.cuda:
        with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
            clips = list(pool.map(_one, wishes, chunksize=64))
    else:
        clips = [_one(wish) for wish in wishes]
    np.save(setting.work / "motion.npy", np.stack(clips))
    return {"videos": len(clips), "pixels": side, "seconds": round(time.perf_counter() - began, 1)}


def contestant(setting: Setting, name: str, seconds: float) -> dict[str, Any]:
    """Losses, top-1 of a probe and of fine-tuning, and the clips that each saw."""
    frames, side, training, _ = _sides(setting)
    videos = np.load(setting.work / "motion.npy", mmap_mode="r")
    labels = np.arange(len(videos)) % len(MOTIONS)
    learn = MemoryVideos(np.array(videos[:training]), labels[:training], side)
    test = MemoryVideos(np.array(videos[training:]), labels[training:], side)
    size, batch = ("small", 256) if setting.cuda else ("tiny", 8)
    small = {"clip__frames": frames, "clip__resolution": side, "preprocess__short_side": side}
    found: dict[str, Any] = {"contestant": name, "seconds": round(seconds, 1), "chance": round(1 / len(MOTIONS), 3)}
    folder, spent = "scratch", 0.0
    if name != "scratch":
        spent = PRETRAIN * seconds
        ratios = {"visible_ratio": 0.1} if name == "tube" else {"keep_ratio": 0.5, "visible_ratio": 0.2}
        changes: dict[str, Any] = {f"pretrain__{key}": value for key, value in ratios.items()} | small
        changes |= {"pretrain__strategy": name, "pretrain__base_lr": 6e-4, "pretrain__weight_decay": 0.05}
        folder = str(setting.work / name)
        found |= _pretrained(setting, learn, size, batch, spent, Path(folder), changes)
    share = PROBE * seconds
    found |= _classified(setting, learn, test, size, batch // 4, share, "probe", finetune__init=folder,
                         finetune__frozen=True, finetune__base_lr=0.02, **small)  # fmt: skip
    rest = seconds - spent - share
    found |= _classified(setting, learn, test, size, batch // 4, rest, "finetune", finetune__init=folder,
                         finetune__base_lr=2e-3, **small)  # fmt: skip
    return found


def _trained(setting: Setting, build: Any, seconds: float, clips: int) -> tuple[Any, list[float], float]:
    """An engine that trained for so long, with a schedule that ends then: its steps are counted on some beforehand.

    `build` makes a task for a number of epochs.
    """
    until = time.monotonic() + seconds
    trial = build(10**5)
    engine = engine_of(setting, trial)
    engine.model.train()
    batches = iter(trial.loader.epoch(0))
    losses_of(engine, batches, 1)
    began = time.monotonic()
    losses_of(engine, batches, 2)
    each = (time.monotonic() - began) / 2
    per_epoch = trial.loader.steps_per_epoch
    epochs = max(1, int((until - time.monotonic()) * 0.9 / (each * per_epoch)))
    task = build(epochs)
    engine = engine_of(setting, task)
    losses: list[float] = []
    began = time.monotonic()
    for epoch in range(epochs):
        engine.model.train()
        batches = iter(task.loader.epoch(epoch))
        losses += losses_of(engine, batches, per_epoch)
        if time.monotonic() > until:
            break
    return engine, losses, clips * len(losses) / (time.monotonic() - began)


def _pretrained(
    setting: Setting, learn: MemoryVideos, size: str, batch: int, seconds: float, folder: Path, changes: dict[str, Any]
) -> dict[str, Any]:
    from models.weights import save_model
    from pipeline.training.tasks import PretrainTask

    def build(epochs: int) -> Any:
        params = params_of(setting, size, batch, **changes, pretrain__epochs=epochs)
        return PretrainTask(params, setting.ranks, dataset_of(learn, params.clip.frames))

    engine, losses, rate = _trained(setting, build, seconds, batch)
    save_model(engine.model, folder, engine.task.info.as_dict())
    return {"pretrain_first_loss": losses[0], "pretrain_last_loss": losses[-1],
            "pretrain_clips": len(losses) * batch, "pretrain_clips_per_second": round(rate, 1)}  # fmt: skip


def _classified(
    setting: Setting, learn: MemoryVideos, test: MemoryVideos, size: str, batch: int, seconds: float, name: str,
    **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    import torch

    from pipeline.training.tasks import FinetuneTask

    plain = {"finetune__mixup": 0.0, "finetune__cutmix": 0.0, "finetune__rand_augment": None, "finetune__flip": 0.0,
             "finetune__random_erasing": 0.0, "finetune__crop_scale": [0.7, 1.0], "finetune__layer_decay": 1.0,
             "finetune__strategy": "none", "finetune__drop_path": 0.0}  # fmt: skip

    def build(epochs: int) -> Any:
        params = params_of(setting, size, batch, **plain, **changes, finetune__epochs=epochs)
        training = dataset_of(learn, params.clip.frames)
        return FinetuneTask(params, BENCHMARK, setting.ranks, training, dataset_of(test, params.clip.frames, False))

    engine, losses, _ = _trained(setting, build, seconds, batch)
    engine.model.eval()
    with torch.no_grad():
        scores = engine.task.validate(0, True, lambda: None)
    return {f"{name}_first_loss": losses[0], f"{name}_last_loss": losses[-1], f"{name}_clips": len(losses) * batch,
            f"{name}_top1": round(scores["val_top1"], 4)}  # fmt: skip
