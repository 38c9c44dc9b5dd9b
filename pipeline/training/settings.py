"""From params.yaml to the engine's settings: a renaming, nothing decided here."""

from __future__ import annotations

from pipeline.params import ComputeParams, FinetuneParams, PretrainParams
from pipeline.training.engine import Settings


def settings_of(
    stage: PretrainParams | FinetuneParams,
    compute: ComputeParams,
    seed: int,
    select: str = "last",
    patience: int | None = None,
) -> Settings:
    """The engine's view of a stage's parameters."""
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
    )
