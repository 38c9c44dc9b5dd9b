"""What the published benchmarks would cost on one machine of GPUs, by strategy: hours of pre-training and fine-tuning.

Predictions alone: the step model of `pipeline/planning/scaling.py` at the shares of the peak that were measured on one
GPU, each recipe's epochs and batch, each strategy's published ratios. docs/scaling.md holds the tables, word for word.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypedDict

from pipeline.efficiency.meters import DEVICES
from pipeline.errors import InputError
from pipeline.params import Params, with_overrides
from pipeline.planning.calibration import measured_share
from pipeline.planning.counts import counts_of
from pipeline.planning.scaling import NETWORK, fabric_of
from pipeline.planning.stage_cost import (
    CORES_PER_DEVICE,
    StageCost,
    check_store,
    launch_words,
    loading_seconds,
    loading_words,
    planned_params,
)
from pipeline.planning.step_time import GRADIENT_BYTES, UPDATE_BYTES, Work, step_time
from pipeline.strategies import FINETUNING, PRETRAINING, Overrides, arm_overrides, strategy_facts

#: Recipes whose benchmarks are asked about.
RECIPES = ("ucf101", "k400", "ssv2", "oscc")
GPUS = 8


class CostRow(TypedDict):
    """A strategy on a benchmark; hours at the share of the peak measured without and with `compute.compile`."""

    stage: str
    strategy: str
    benchmark: str
    gmacs_per_clip: float
    upper_bound: bool
    videos: int
    epochs: int
    hours: float
    hours_compiled: float | None
    limit: str
    limit_compiled: str | None
    gpu_hours: float
    kwh_at_most: float | None


class ByStrategy(TypedDict):
    device: str
    gpus: int
    rows: list[CostRow]
    assumptions: list[str]


class _Trained(NamedTuple):
    """A strategy in one of a recipe's trainings."""

    strategy: str
    cost: StageCost


def by_strategy(
    gpu: str = "h100", gpus: int = GPUS, recipes: Sequence[str] = RECIPES, store: str = "jpeg"
) -> ByStrategy:
    """Predict both trainings of each recipe with each strategy.

    Args:
        gpu: a key of `pipeline.efficiency.meters.DEVICES`.
        gpus: of one machine, at most 8.
        store: `jpeg`, as in these recipes, or `raw`.

    Raises:
        InputError: an unknown GPU or store, more than a machine has, or a batch that does not divide among them.
    """
    if gpu not in NETWORK or not 1 <= gpus <= GPUS:
        raise InputError(f"{gpus} x {gpu!r}: expected 1 to {GPUS} of {', '.join(NETWORK)}. Cure: choose one of them.")
    check_store(store)
    rows: list[CostRow] = []
    shares: dict[str, None] = {}
    for recipe in recipes:
        params = with_overrides(planned_params(recipe), {"preprocess.store": store})
        for trained in (*_pretrainings(params), *_finetunings(params)):
            row, used = _row(trained, gpu, gpus)
            rows.append(row)
            shares.update(dict.fromkeys(used))
    return {
        "device": DEVICES[gpu].name,
        "gpus": gpus,
        "rows": rows,
        "assumptions": _assumptions(gpu, gpus, store, shares),
    }


def _pretrainings(params: Params) -> Iterator[_Trained]:
    for name in PRETRAINING:
        facts = strategy_facts()[name]
        keep, visible = facts.ratios or (1.0, 1.0)
        arm = arm_overrides(facts.label) or {}
        ratios: Overrides = {"pretrain.keep_ratio": keep, "pretrain.visible_ratio": visible}
        yield _Trained(name, StageCost(with_overrides(params, arm | ratios)))


def _finetunings(params: Params) -> Iterator[_Trained]:
    for name in FINETUNING:
        ratio = strategy_facts()[name].finetune_ratio or 1.0
        changed = with_overrides(params, {"finetune.strategy": name, "finetune.keep_ratio": ratio})
        yield _Trained(name, StageCost(changed, next(iter(params.benchmarks))))


def _row(trained: _Trained, gpu: str, gpus: int) -> tuple[CostRow, list[str]]:
    """The row, and the shares of the peak that it was reckoned with, in words."""
    cost, device = trained.cost, DEVICES[gpu]
    stage, params = cost.stage, cost.params
    if stage.batch % gpus:
        raise InputError(
            f"{params.recipe}: a batch of {stage.batch} does not divide among {gpus}. Cure: another --gpus."
        )
    videos = cost.videos({name: counts_of(params, name) for name in params.benchmarks})
    if videos is None:
        raise InputError(f"{params.recipe}: nobody publishes how many videos it has. Cure: another recipe.")
    steps = stage.epochs * (videos // stage.batch)
    eager = cost.share(device, None)
    by_clip = strategy_facts()[trained.strategy].planned_as is not None
    compiled = None if by_clip else measured_share(device, cost.name, params.pretrain.size, compiled=True)
    hours, limit = _hours(cost, gpu, gpus, eager.mfu, steps)
    hours_compiled, limit_compiled = _hours(cost, gpu, gpus, compiled.mfu, steps) if compiled else (None, None)
    power = device.watts
    row: CostRow = {
        "stage": cost.name,
        "strategy": trained.strategy,
        "benchmark": params.recipe,
        "gmacs_per_clip": round(cost.cost.multiply_adds / 1e9, 2),
        "upper_bound": by_clip,
        "videos": videos,
        "epochs": stage.epochs,
        "hours": round(hours, 2),
        "hours_compiled": hours_compiled and round(hours_compiled, 2),
        "limit": limit,
        "limit_compiled": limit_compiled,
        "gpu_hours": round(gpus * hours, 1),
        "kwh_at_most": round(gpus * hours * power / 1000, 1) if power else None,
    }
    named = f"{cost.name}, {params.pretrain.size}"
    used = [f"{named}: {eager.mfu:.4f} of the peak, {eager.origin}"]
    if compiled:
        used.append(f"{named}, compiled: {compiled.mfu:.4f} of the peak, {compiled.origin}")
    return row, used


def _hours(cost: StageCost, gpu: str, gpus: int, mfu: float, steps: int) -> tuple[float, str]:
    """Hours of all steps, and what bounds one."""
    name, arguments = cost.model
    device, parameters = DEVICES[gpu], _parameters(name, *sorted(arguments.items()))
    loading = loading_seconds(cost.params.preprocess.store, cost.params.clip.frames)
    work = Work(
        arithmetic=cost.arithmetic_seconds(device, mfu, gpus),
        update=UPDATE_BYTES * parameters / device.bandwidth,
        loader=cost.clips / gpus * loading / CORES_PER_DEVICE,
        gradients=GRADIENT_BYTES * parameters,
        accumulate=1,
        launches=cost.launch_seconds(1),
    )
    time = step_time(work, fabric_of(gpu), gpus)
    return steps * time.total / 3600, time.limit


@functools.cache
def _parameters(name: str, *arguments: tuple[str, Any]) -> int:
    """Of a stage's model, built without memory, once for all recipes that have the same."""
    import timm
    import torch

    import models  # noqa: F401 - registers the names with timm

    with torch.device("meta"):
        return sum(value.numel() for value in timm.create_model(name, **dict(arguments)).parameters())


def _assumptions(gpu: str, gpus: int, store: str, shares: Iterable[str]) -> list[str]:
    device = DEVICES[gpu]
    return [
        *shares,
        f"the share was measured on one GPU with EVEREST's shapes; that it holds on {gpus}, and for the other "
        "strategies' shapes, is assumed: no run on several GPUs was made",
        f"peak of {device.name}: {device.half / 1e12:.4g} TFLOP/s half ({device.source})",
        f"the loader keeps up or bounds the step: {CORES_PER_DEVICE} cores for each GPU, local disk; "
        f"{loading_words(store, 16)}",
        launch_words(),
        "each recipe's batch and epochs, the same for every strategy (so not at equal cost); ratios as published",
        "strategies that decide by clip how much they keep are counted at their upper bound, and cannot be compiled",
        "left out: preprocessing, validation, tests, checkpoints, stragglers, compilation",
        f"energy: {device.watts:g} W for each GPU all the time, its maker's most"
        if device.watts
        else "energy: unknown",
    ]


def markdown(found: ByStrategy) -> str:
    """Both tables as docs/scaling.md holds them; hours without and, where a share was measured so, with compilation."""
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in found["rows"]))
    lines: list[str] = []
    for stage, title in (("pretrain", "Pre-training"), ("finetune", "Fine-tuning")):
        rows = [row for row in found["rows"] if row["stage"] == stage]
        first = {row["benchmark"]: row for row in rows}
        about = "; ".join(f"{name} {row['videos']:,} videos, {row['epochs']:,} epochs" for name, row in first.items())
        head = ["strategy", "G mult-adds / clip", *(f"{name} h" for name in benchmarks), "limit"]
        lines += [f"{title} on {found['gpus']} {found['device']} ({about}):", ""]
        lines += ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 2) + "---|"]
        for strategy in dict.fromkeys(row["strategy"] for row in rows):
            own = {row["benchmark"]: row for row in rows if row["strategy"] == strategy}
            some = next(iter(own.values()))
            name = f"{strategy} (at most)" if some["upper_bound"] else strategy
            eager, compiled = (
                "/".join(dict.fromkeys(str(row[kind]) for row in own.values())) for kind in ("limit", "limit_compiled")
            )
            limits = eager if compiled in (eager, "None") else f"{eager} / {compiled}"
            cells = [name, f"{some['gmacs_per_clip']:.2f}", *(_shown(own[name]) for name in benchmarks), limits]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join([*lines, *(f"- {line}" for line in found["assumptions"])]) + "\n"


def _shown(row: CostRow) -> str:
    compiled = row["hours_compiled"]
    return f"{row['hours']:,.2f}" + (f" / {compiled:,.2f}" if compiled is not None else "")
