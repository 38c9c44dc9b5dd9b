"""How fast a model trains here, measured on made-up clips: forward, backward and update, without loading data."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import psutil
import timm
import torch
from torch import nn

import models  # noqa: F401 - registers the names with timm
from models.tuning.learning import Learning, arrange
from pipeline.efficiency.meters import GIB, Device, matmul_peak
from pipeline.training.optim import adamw, parameter_groups
from pipeline.training.settings import HALF

#: Of `timm.create_model`, as pipeline.efficiency.clip_cost makes them.
Arguments: TypeAlias = Mapping[str, Any]
#: What `--gpu cpu` is called.
THIS_CPU = "this CPU"


def this_cpu(processes: int) -> Device:
    """One of several processes that share this machine, as a device of the table; its peaks are measured."""
    with cores_of_one(processes):
        half, single = matmul_peak(precision="bf16"), matmul_peak()
    source = f"measured matrix products, the cores shared by {processes}"
    memory = psutil.virtual_memory().total / GIB / processes
    return Device(THIS_CPU, half, single, memory, 10e9, 2e9, source)


@contextlib.contextmanager
def cores_of_one(processes: int) -> Iterator[None]:
    """Compute with one process's share of the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clips_per_second(
    name: str,
    arguments: Arguments,
    clip: tuple[int, int],
    clips: int,
    precision: str,
    device: torch.device,
    seconds: float,
    learning: Learning | None = None,
) -> float:
    """[clips/s] of the timm model `name` in steps of `clips`, over at least `seconds` and two steps after a warm-up.

    Args:
        clip: frames and resolution.
        learning: what of a classifier learns; None: all.
    """
    model: Any = timm.create_model(name, **arguments)
    if learning is not None:
        arrange(model, learning)
    model.to(device)
    optimizer = optimizer_of(model)
    frames, resolution = clip
    clip_BCTHW = torch.randn(clips, 3, frames, resolution, resolution, device=device)
    half = HALF.get(precision)
    done, began = 0, 0.0
    while done < 2 * clips or time.perf_counter() - began < seconds:
        if began == 0.0:  # the first warms up
            train_step(model, optimizer, clip_BCTHW, half)
            _wait(device)
            began = time.perf_counter()
        train_step(model, optimizer, clip_BCTHW, half)
        _wait(device)
        done += clips
    return done / (time.perf_counter() - began)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """The trainings' optimizer; its settings change neither time nor memory."""
    return adamw(parameter_groups(model, 0.05), (0.9, 0.95), 1e-8)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, clip_BCTHW: torch.Tensor, half: torch.dtype | None
) -> None:
    """Forward, backward, update; a classifier's loss is made of its logits alone."""
    with torch.autocast(clip_BCTHW.device.type, dtype=half) if half else contextlib.nullcontext():
        result = model(clip_BCTHW)
    loss: torch.Tensor = result if result.ndim == 0 else result.float().logsumexp(1).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
