"""`everest compare`: pre-training strategies side by side at equal cost, with several seeds.

What is compared stands in params.yaml, group `compare`. Each training runs in a folder of its own
(`pipeline.experiments.cells`); finished stages are kept, so a stopped comparison goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from pipeline import layout, preflight
from pipeline.budget.ledger import one_ledger
from pipeline.experiments.cells import cell, cells_root, run_cell, settled, stages_of
from pipeline.experiments.slices import early_verdict, shared
from pipeline.experiments.workspace import require_data
from pipeline.params import SCRATCH, Params, load_params
from pipeline.params.declared import work_key
from pipeline.params.frozen import check_unchanged, frozen
from pipeline.planning.equal import Trial, arms_of, plan, training_rate
from pipeline.preflight import services
from pipeline.system.files import atomic_folder, read_json, write_json
from pipeline.system.processes import save_with_parent
from pipeline.verdict.record import CAUTION
from pipeline.verdict.record import sentences as early_sentences
from pipeline.verdict.rule import FIRST_LOOK

if TYPE_CHECKING:
    from pipeline.report.comparison import StrategyCost, StrategyResult, Summary
    from pipeline.report.sentences import Difference

RESULTS = layout.output_dir("compare")
METRICS = layout.metrics_file("compare")
PLOTS = Path("metrics/compare")


#: A row for the terminal: heading -> value.
Shown = dict[str, str | int | float | None]


class Outcome(TypedDict):
    """What a comparison says, or, of a dry run, `trials`: what would be trained."""

    trials: NotRequired[list[Shown]]
    sentences: NotRequired[list[str]]
    results: NotRequired[list[Shown]]
    differences: NotRequired[list[Difference]]
    report: NotRequired[str]


def command(overrides: Mapping[str, object] | None = None, dry_run: bool = False) -> Outcome:
    """Run the comparison of params.yaml and write its report to outputs/compare, its plots to metrics/compare.

    Args:
        overrides: dotted keys of params.yaml, such as `compare.seeds`.
        dry_run: only plan.

    Raises:
        InputError: unknown names, or data that `dvc repro` has not made yet.
        Interrupted: stopped; the same command continues.
    """
    from pipeline.experiments.stage import only_one
    from pipeline.system.terminal import say

    if dry_run:
        params = load_params(overrides=overrides)
        if params.compare.stop == "futile":
            say(CAUTION)
        trials = plan(params, _rates(params))
        first = {shared(trial) for trial in trials if trial.arm == params.compare.strategies[0]}
        return {"trials": [_row(trial, params, first) for trial in trials]}
    # If DVC is killed, the comparison saves and ends too, instead of training on unseen.
    save_with_parent()
    with frozen("compare", None, overrides) as now, only_one("compare"):
        params = now.params
        require_data(params.compared_benchmarks(), params.pretrain.corpus)
        for warning in preflight.require(
            preflight.trial_scope(params, params.compared_benchmarks()),
            (*preflight.CHECKS, services.dvc, services.mlflow),
        ):
            say(f"warning: {warning}")
        now.check_sources()
        trials = settled(plan(params, _rates(params)))
        for trial in trials:
            preflight.require(preflight.trial_scope(trial.params, trial.benchmarks))
        summary = _run(params, trials)
        now.conclude()
    return {
        "sentences": summary["sentences"],
        "results": [_short(row, summary["costs"]) for row in summary["results"]],
        "differences": summary["differences"],
        "report": str(RESULTS / "report.html"),
    }


def _run(params: Params, trials: list[Trial]) -> Summary:
    from pipeline.report.comparison import summarise
    from pipeline.report.comparison_page import write_comparison, write_plots
    from pipeline.system.terminal import say
    from pipeline.tracking import stage_run

    stages = sum(len(stages_of(trial)) for trial in trials)
    say(f"{len(trials)} trainings, {stages} stages. Ctrl-C saves and stops; the same command continues.")
    values = {f"compare.{name}": value for name, value in params.compare.model_dump(mode="json").items()}
    work = layout.work_dir("compare", None, work_key("compare", None, params))
    with one_ledger(params, "compare"), stage_run("compare", None, values, work) as tracked:
        verdict = None
        if params.compare.stop == "futile":
            trials, verdict = early_verdict(params, trials)
        for number, trial in enumerate(trials, 1):
            run_cell(trial, note=f"[{number}/{len(trials)}] {trial.arm}, seed {trial.seed}", others=trials)
        summary = summarise(trials, {trial.name: cell(trial) for trial in trials})
        if verdict is not None:
            summary["verdict"] = verdict
            summary["sentences"] += early_sentences(verdict)
        with atomic_folder(RESULTS) as building:
            files = write_comparison(summary, building)
            check_unchanged()
        write_plots(summary, METRICS, PLOTS)
        for file in files:
            tracked.artifact(RESULTS / file.name, "report")
        tracked.metrics(numbers(summary))
        tracked.text("\n".join(summary["sentences"]) + "\n", "sentences.txt", "report")
    return summary


def numbers(summary: Summary) -> dict[str, float]:
    """The comparison's scores as tracked: `<strategy>/<benchmark>/top1` (`map`) and differences, as shares."""
    from pipeline.report.sentences import metric_key

    scored = {
        f"{row['strategy']}/{row['benchmark']}/{metric_key(row)}": row["top1"] / 100 for row in summary["results"]
    }
    return scored | {
        f"{row['a']}-minus-{row['b']}/{row['benchmark']}/{name}": points / 100
        for row in summary["differences"]
        for name, points in (("difference", row["difference"]), ("low", row["low"]), ("high", row["high"]))
    }


def _rates(params: Params) -> dict[str, float] | None:
    """[clips/s] of each strategy, measured once a device: a second start must plan the same trainings."""
    if params.compare.equal != "wall-time":
        return None
    from pipeline.distributed.groups import choose_device
    from pipeline.efficiency.meters import device_name

    device = device_name(choose_device(params.compute.device))
    rates: dict[str, float] = {}
    for arm, trained in arms_of(params).items():
        if trained.finetune.init == SCRATCH:
            continue
        values = [trained.pretrain.model_dump(mode="json", exclude={"epochs", "monitor"}), trained.clip.model_dump()]
        path = cells_root() / "rates" / f"{layout.fingerprint([*values, device])}.json"
        if "clips_per_second" not in read_json(path):
            write_json(path, {"clips_per_second": training_rate(trained), "measured": time.time(), "device": device})
        rates[arm] = read_json(path)["clips_per_second"]
    return rates


def _row(trial: Trial, params: Params, first: Collection[str]) -> Shown:
    """A planned training for the terminal; `first` are the pre-trainings of the strategy that is never stopped."""
    compare = params.compare
    looks: Shown = {}
    if compare.stop == "futile":
        late = [f"{trial.epochs * look / compare.slices:.3g}" for look in range(FIRST_LOOK, compare.slices)]
        kept = not trial.epochs or shared(trial) in first
        looks = {"may be stopped after epochs": "never" if kept else ", ".join(late) or "never"}
    return {
        "strategy": trial.arm,
        "seed": trial.seed,
        "pre-training epochs": trial.epochs,
        "G multiply-adds/clip": round(trial.gmacs_per_clip, 4),
        "G multiply-adds/clip, all epochs": round(trial.pretrain_gmacs, 3),
        **looks,
    }


def _short(row: StrategyResult, costs: Sequence[StrategyCost]) -> Shown:
    """A result for the terminal."""
    from pipeline.report.sentences import metric_of

    cost = next(cost for cost in costs if cost["strategy"] == row["strategy"])
    return {
        "benchmark": row["benchmark"],
        "strategy": row["strategy"],
        "seeds": row["seeds"],
        f"{metric_of(row)} % (95 % interval)": (
            f"{row['top1']:.1f} ({row['top1_ci_low']:.1f}-{row['top1_ci_high']:.1f})"
        ),
        "pre-training epochs": cost["epochs"],
        "G multiply-adds/clip": round(cost["gmacs_per_clip"], 4),
        "pre-training s": cost["wall_seconds"],
        "peak memory GiB": cost["peak_memory_gib"],
    }
