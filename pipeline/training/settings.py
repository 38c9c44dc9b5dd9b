"""The numbers that the engine obeys, and where they stand in params.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from pipeline.params import ComputeParams, FinetuneParams, PretrainParams

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """The numbers of params.yaml that the engine itself obeys."""

    seed: int
    epochs: int
    global_batch: int
    accumulate: int
    base_lr: float
    min_lr: float
    warmup_epochs: float
    betas: tuple[float, float]
    eps: float
    clip_grad: float | None
    precision: Literal["fp32", "bf16", "fp16"]
    ema_decay: float | None
    checkpoint_every_steps: int
    on_nonfinite: Literal["stop", "skip", "rollback"]
    max_nonfinite: int
    select: Literal["last", "best"] = "last"
    patience: int | None = None
    data_parallel: Literal["ddp", "fsdp"] = "ddp"
    graphs: bool = False


def settings_of(
    stage: PretrainParams | FinetuneParams,
    compute: ComputeParams,
    seed: int,
    select: str = "last",
    patience: int | None = None,
) -> Settings:
    """The engine's view of a stage's parameters: a renaming, nothing decided here."""
    return Settings(
        seed=seed,
        epochs=stage.epochs,
        global_batch=stage.batch,
        accumulate=stage.accumulate,
        base_lr=stage.base_lr,
        min_lr=stage.min_lr,
        warmup_epochs=stage.warmup_epochs,
        betas=(stage.betas[0], stage.betas[1]),
        eps=stage.eps,
        clip_grad=stage.clip_grad,
        precision=stage.precision,
        ema_decay=stage.ema_decay,
        checkpoint_every_steps=stage.checkpoint_every_steps,
        on_nonfinite=stage.on_nonfinite,
        max_nonfinite=stage.max_nonfinite,
        select="best" if select == "best" else "last",
        patience=patience,
        data_parallel=compute.data_parallel,
        graphs=compute.compile == "graphs",
    )
