"""Ranks, devices and batches: what `compute` asks of this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from pipeline.distributed.devices import listed
from pipeline.distributed.nodes import this_node
from pipeline.errors import parted
from pipeline.params import PATCH, TUBELET, PretrainParams, TrainingParams
from pipeline.preflight.problem import Problem, Scope
from pipeline.strategies import strategy_facts

#: [GiB] that a training process takes before it holds a model: the interpreter with torch.
RANK_GIB = 0.25


def ranks(scope: Scope) -> Iterator[Problem]:
    """Batches that the ranks cannot share out, and pairs that mixing would not find."""
    params = scope.params
    machines = params.compute.nodes * this_node().count
    world = params.compute.ranks_of("pretrain") * machines
    if scope.has("pretrain"):
        yield from _shares("pretrain", params.pretrain, world)
    world = params.compute.ranks_of("finetune") * machines
    for key in scope.of("finetune"):
        stage, overrides = params.finetune_of(key), params.benchmarks[key].finetune.model_dump(exclude_none=True)
        where = f"benchmarks.{key}.finetune" if "batch" in overrides else "finetune"
        undivided = list(_shares(where, stage, world))
        yield from undivided
        micro = stage.batch // (world * stage.accumulate)
        mixed = [name for name in ("mixup", "cutmix") if getattr(stage, name) > 0]
        if mixed and micro % 2 and not undivided:
            value = getattr(stage, mixed[0])
            named = f"benchmarks.{key}.finetune.{mixed[0]}" if mixed[0] in overrides else f"finetune.{mixed[0]}"
            even = 2 * world * stage.accumulate
            yield Problem(
                named,
                f"= {value:g} mixes pairs of clips of two videos, and {where}.batch = {stage.batch} over {world} ranks "
                f"x {stage.accumulate} accumulation steps is {micro} at a time, an odd number",
                f"a batch that is a multiple of {even} ({max(even, stage.batch // even * even)}), or {named}: 0.0.",
            )
    alone = [s for s in ("pretrain", "finetune") if scope.has(s) and params.compute.ranks_of(s) * machines == 1]
    if params.compute.data_parallel == "fsdp" and alone:
        yield Problem("compute.data_parallel", "= 'fsdp' needs several ranks", "raise compute.ranks, or use ddp.")


def _shares(where: str, stage: TrainingParams, world: int) -> Iterator[Problem]:
    if stage.batch % (world * stage.accumulate):
        step = world * stage.accumulate
        yield Problem(
            f"{where}.batch",
            f"= {stage.batch} does not divide into {world} ranks x {stage.accumulate} accumulation steps",
            f"a multiple of {step}, such as {max(step, stage.batch // step * step)}, or another compute.ranks.",
        )


def tokens(scope: Scope) -> Iterator[Problem]:
    """Ratios that leave no token to show, to reconstruct or to keep.

    Each strategy counts by its own rule, which needs torch: asked only where so few are left that rounding matters.
    """
    params, clip = scope.params, scope.params.clip
    slots, places = clip.frames // TUBELET, (clip.resolution // PATCH) ** 2
    stage = params.pretrain
    if scope.has("pretrain"):
        share = stage.keep_ratio if strategy_facts()[stage.strategy].uses_keep_ratio else 1.0
        if min(stage.visible_ratio, share - stage.visible_ratio) * slots * places < 2 * slots:
            yield from _budget(stage, slots, places)
    for key in scope.of("finetune"):
        finetune = params.finetune_of(key)
        if strategy_facts()[finetune.strategy].uses_keep_ratio and finetune.keep_ratio * slots * places < 1:
            named = "finetune" if params.benchmarks[key].finetune.keep_ratio is None else f"benchmarks.{key}.finetune"
            yield Problem(
                f"{named}.keep_ratio", f"= {finetune.keep_ratio:g} keeps none of {slots * places} tokens",
                f"{1 / (slots * places):.3g} or more (paper: 0.6).",
            )  # fmt: skip


def _budget(stage: PretrainParams, slots: int, places: int) -> Iterator[Problem]:
    from models.selection import Grid
    from models.strategies import token_budget

    side = round(places**0.5)
    try:
        token_budget(stage.strategy, Grid(slots, side, side), stage.keep_ratio, stage.visible_ratio)
    except ValueError as error:
        text, cure = parted(error)
        yield Problem("pretrain.visible_ratio", f": {text}", cure)


def devices(scope: Scope) -> Iterator[Problem]:
    """More ranks than this machine has devices or memory for."""
    if not scope.has("pretrain", "finetune", "evaluate"):
        return
    compute = scope.params.compute
    if compute.launcher == "slurm":  # the nodes have the devices
        yield from _slurm()
        return
    gpus = visible_gpus()
    ranks = max(compute.ranks_of(stage) for stage in ("pretrain", "finetune", "evaluate") if scope.has(stage))
    named = "compute.ranks" if compute.gpus is None else "compute.gpus"
    if (compute.device == "cuda" or compute.gpus is not None) and gpus == 0:
        yield Problem(
            "compute.device" if compute.gpus is None else "compute.gpus",
            f"= {compute.device if compute.gpus is None else compute.gpus!r}, and no GPU is visible here",
            "set compute.device to auto or cpu and compute.gpus to null, or mend the driver (nvidia-smi) or "
            "CUDA_VISIBLE_DEVICES.",
        )
    elif compute.device != "cpu" and gpus:
        if ranks > gpus:
            yield Problem(
                named, f"= {ranks}, and {gpus} GPU(s) are visible here: each rank takes one",
                f"set {named} to {gpus} or fewer, or compute.device to cpu.",
            )  # fmt: skip
    else:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        if ranks > 1 and ranks * RANK_GIB > total:
            yield Problem(
                "compute.ranks",
                f"= {ranks} processes take {ranks * RANK_GIB:.0f} GiB and more, this machine has "
                f"{total:.0f} GiB of memory and no GPU",
                f"set compute.ranks to {os.cpu_count()} or fewer.",
            )


def _slurm() -> Iterator[Problem]:
    if shutil.which("sbatch") is None:
        yield Problem(
            "compute.launcher", "= 'slurm', and SLURM's commands are not installed here",
            "start the run on a login node, or set compute.launcher to local.",
        )  # fmt: skip


def visible_gpus() -> int:
    """GPUs that a process started now would see, asked from the driver; 0 where there is none."""
    return len(listed())
