"""How fast a model trains here, measured on made-up clips: forward, backward and update, without loading data."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import timm
import torch

import models  # noqa: F401 - registers the names with timm
from pipeline.training.engine import HALF
from pipeline.training.optim import adamw, parameter_groups


def clips_per_second(
    name: str,
    arguments: dict[str, Any],
    clip: tuple[int, int],
    clips: int,
    precision: str,
    device: torch.device,
    seconds: float = 2.0,
) -> float:
    """[clips/s] of the timm model `name` in steps of `clips`, over at least `seconds` and two steps after a warm-up.

    Args:
        clip: frames and resolution.
    """
    model: Any = timm.create_model(name, **arguments).to(device)
    optimizer = adamw(parameter_groups(model, 0.05), (0.9, 0.95), 1e-8)
    frames, resolution = clip
    clip_BCTHW = torch.randn(clips, 3, frames, resolution, resolution, device=device)
    half = HALF.get(precision)
    done, began = 0, 0.0
    while done < 2 * clips or time.perf_counter() - began < seconds:
        if began == 0.0:  # the first warms up
            _step(model, optimizer, clip_BCTHW, half)
            _wait(device)
            began = time.perf_counter()
        _step(model, optimizer, clip_BCTHW, half)
        _wait(device)
        done += clips
    return done / (time.perf_counter() - began)


def _step(model: Any, optimizer: torch.optim.Optimizer, clip_BCTHW: torch.Tensor, half: torch.dtype | None) -> None:
    with torch.autocast(clip_BCTHW.device.type, dtype=half) if half else contextlib.nullcontext():
        found = model(clip_BCTHW)
    (found if found.ndim == 0 else found.float().logsumexp(1).mean()).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
