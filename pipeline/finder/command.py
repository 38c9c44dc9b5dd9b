"""`everest lr`: sweep, suggest, draw; params.yaml, .work, the stages' outputs and tracking stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypedDict

from pipeline.errors import InputError
from pipeline.finder.rule import smoothed, suggest
from pipeline.params import Params, load_params
from pipeline.status.words import sparkline
from pipeline.system.files import make_folder, write_json, write_text

#: A sweep needs some steps to tell anything, and is no training.
FEWEST_STEPS, MOST_STEPS = 20, 200


class Found(TypedDict):
    """What `everest lr` says; rates are base learning rates, as `base_lr` in params.yaml."""

    stage: str
    key: str
    now: float
    suggested: float | None
    why: str
    lowest: float | None
    steepest: float | None
    steps: int
    curve: str
    picture: str
    points: list[list[float]]


def find(stage: str, benchmark: str | None, steps: int, low: float, high: float, out: Path) -> Found:
    """Sweep the base learning rate of a stage from `low` to `high`; writes lr.svg and lr.json to `out`.

    Raises:
        InputError: no such stage or benchmark, a range or number of steps without sense, or no cached data.
    """
    if stage not in ("pretrain", "finetune"):
        raise InputError(f"stage = {stage!r}, expected pretrain or finetune. Cure: everest lr finetune BENCHMARK.")
    if not FEWEST_STEPS <= steps <= MOST_STEPS:
        raise InputError(f"--steps {steps}, expected {FEWEST_STEPS} to {MOST_STEPS}. Cure: --steps 100.")
    if not 0 < low < high:
        raise InputError(f"--low {low:g} --high {high:g}, expected 0 < low < high. Cure: --low 1e-6 --high 1.")
    params = load_params()
    if stage == "finetune":
        if benchmark is None:
            raise InputError("everest lr finetune needs a benchmark. Cure: everest lr finetune NAME.")
        params.benchmark(benchmark)
    elif benchmark is not None:
        raise InputError(
            f"everest lr pretrain {benchmark}: pre-training reads the benchmarks of pretrain.corpus, not one "
            "benchmark. Cure: everest lr pretrain, or everest lr finetune NAME."
        )
    return _find("pretrain" if stage == "pretrain" else "finetune", benchmark, params, steps, low, high, out)


def _find(
    stage: Literal["pretrain", "finetune"],
    benchmark: str | None,
    params: Params,
    steps: int,
    low: float,
    high: float,
    out: Path,
) -> Found:
    from pipeline.experiments.workspace import require_data

    require_data([benchmark] if benchmark else [], params.pretrain.corpus if stage == "pretrain" else [])
    make_folder(out)
    from pipeline.finder.sweep import sweep
    from pipeline.report.plots import as_file, curves

    stage_params = params.finetune_of(benchmark) if benchmark else params.pretrain
    own = benchmark and params.benchmark(benchmark).finetune.base_lr is not None
    rates, losses = sweep(params, stage, benchmark, steps, low, high)
    suggestion = suggest(rates, losses, stage_params.base_lr)
    points = [[rate, loss] for rate, loss in zip(rates, losses, strict=True) if loss == loss]
    smooth = smoothed([loss for _, loss in points])
    series = {
        "loss": [(rate, loss) for rate, loss in points],
        "smoothed": [(rate, loss) for (rate, _), loss in zip(points, smooth, strict=True)],
    }
    if suggestion.rate is not None:
        series["suggested"] = [(suggestion.rate, min(smooth)), (suggestion.rate, max(smooth))]
    name = f"{stage} {benchmark}" if benchmark else stage
    drawn = curves(
        series, title=f"{name}: loss over a sweep", x="base learning rate (at batch 256)", y="loss", log=True
    )
    stem = name.replace(" ", "-")
    write_text(out / f"{stem}.svg", as_file(drawn))
    record: Found = {
        "stage": name,
        "key": f"benchmarks.{benchmark}.finetune.base_lr" if own else f"{stage}.base_lr",
        "now": stage_params.base_lr,
        "suggested": suggestion.rate,
        "why": suggestion.why,
        "lowest": suggestion.lowest,
        "steepest": suggestion.steepest,
        "steps": len(losses),
        "curve": f"{rates[0]:.1e} {sparkline(smooth, 48)} {points[-1][0] if points else rates[-1]:.1e}",
        "picture": str(out / f"{stem}.svg"),
        "points": points,
    }
    write_json(out / f"{stem}.json", record)
    return record
