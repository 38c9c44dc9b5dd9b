"""The numbers of a comparison: strategies at equal cost, with intervals over videos and seeds, as one summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NotRequired, TypedDict

from pipeline import layout
from pipeline.budget.account import AccountRow, account
from pipeline.evaluation.files import Tests, read_tests
from pipeline.evaluation.metrics import mean_and_deviation
from pipeline.monitor.record import MonitorRecord, read_record
from pipeline.planning.equal import Trial
from pipeline.report.collect import (
    DataVersion,
    ModelCost,
    best_trivial,
    chance,
    data_versions,
    measured,
    model_costs,
    read_history,
    read_metrics,
    versions,
)
from pipeline.report.sentences import (
    Counted,
    Difference,
    JudgedScore,
    StrategyCost,
    TrivialScore,
    comparison_sentences,
    left_out_sentences,
    metric_entry,
)
from pipeline.tracking import names
from pipeline.verdict.record import Verdict

#: Clips drawn for each strategy.
PICTURES = 1


class StrategyResult(JudgedScore, Counted):
    """A strategy's tests on one benchmark over its seeds, in percent.

    `left_out`: test videos beside `videos` that some training of the comparison could not score.
    """

    strategy: str
    seeds: int
    top1_deviation: float | None
    finetune_seconds: float | None
    test_gmacs_per_clip: NotRequired[float | None]
    test_clips_per_second: NotRequired[float | None]


class TokenPicture(TypedDict):
    """A file that shows which tokens of a clip a strategy's pre-training uses."""

    strategy: str
    path: str


class Training(TypedDict):
    """One training of a comparison; `folder` is the name of its own."""

    strategy: str
    seed: int
    folder: str
    epochs: int


#: Strategy -> validation top-1 in percent over steps.
Curves = dict[str, list[tuple[float, float]]]


class Summary(TypedDict):
    """A comparison's summary.json."""

    recipe: str
    equal: str
    seeds: list[int]
    results: list[StrategyResult]
    differences: list[Difference]
    costs: list[StrategyCost]
    curves: dict[str, Curves]
    published: list[ModelCost]
    pictures: list[TokenPicture]
    trainings: list[Training]
    data: list[DataVersion]
    versions: dict[str, str]
    sentences: list[str]
    spent: NotRequired[list[AccountRow]]
    verdict: NotRequired[Verdict]
    health: NotRequired[dict[str, list[str]]]
    pretrainings: NotRequired[dict[str, list[dict[str, object]]]]


def summarise(trials: Sequence[Trial], cells: Mapping[str, Path]) -> Summary:
    """Results of every strategy and benchmark, differences to the first strategy, costs, curves, versions.

    Args:
        cells: `<arm>-seed<seed>` -> folder of that finished training.

    Raises:
        EverestError: the trainings were evaluated on different videos, or no video could be scored by all of them.
    """
    params = trials[0].params
    arms = list(dict.fromkeys(trial.arm for trial in trials))
    folders = {arm: [cells[t.name] for t in trials if t.arm == arm] for arm in arms}
    results: list[StrategyResult] = []
    differences: list[Difference] = []
    for benchmark in trials[0].benchmarks:
        scored = read_tests(folders, benchmark)
        draws = params.evaluate_of(benchmark).bootstrap
        several, trivial = scored[arms[0]].several, best_trivial(benchmark)
        by_chance = (
            chance(benchmark, folders[arms[0]][0]) if several else 100 / params.benchmark(benchmark).data.classes
        )
        results += [_result(arm, benchmark, scored[arm], draws, folders[arm], by_chance, trivial) for arm in arms]
        differences += [_difference(benchmark, arms[0], other, scored, draws) for other in arms[1:]]
    costs = [_cost([trial for trial in trials if trial.arm == arm], folders[arm]) for arm in arms]
    equal, seeds = params.compare.equal, list(params.compare.seeds)
    records = {arm: _records(trials, arm, cells) for arm in arms}
    health = {arm: list(dict.fromkeys(record.verdict for record in each)) for arm, each in records.items() if each}
    return {
        "recipe": params.recipe,
        "equal": equal,
        "seeds": seeds,
        "results": results,
        "differences": differences,
        "costs": costs,
        "curves": {benchmark: _curves(folders, benchmark) for benchmark in trials[0].benchmarks},
        "published": model_costs(params),
        "pictures": [picture for arm in arms for picture in _pictures(arm, folders[arm][0])],
        "trainings": [
            {"strategy": t.arm, "seed": t.seed, "folder": cells[t.name].name, "epochs": t.epochs} for t in trials
        ],
        "data": data_versions(sorted({*trials[0].benchmarks, *params.pretrain.corpus})),
        "versions": versions(),
        "sentences": [
            *_alarms(records),
            *comparison_sentences(differences, costs, equal, len(seeds)),
            *left_out_sentences(results),
        ],
        "health": health,
        "pretrainings": {arm: [asdict(record) for record in each] for arm, each in records.items() if each},
        "spent": account(params),
    }


def _records(trials: Sequence[Trial], arm: str, cells: Mapping[str, Path]) -> list[MonitorRecord]:
    """What the monitor saw of a strategy's pre-trainings, one for each seed; [] without pre-training or monitor."""
    folders = [cells[trial.name] for trial in trials if trial.arm == arm and trial.epochs]
    records = [read_record(folder / layout.output_dir("pretrain")) for folder in folders]
    return [record for record in records if record is not None]


def _alarms(records: Mapping[str, Sequence[MonitorRecord]]) -> list[str]:
    """One sentence for each strategy and rule that holds for it."""
    first: dict[tuple[str, str], str] = {}
    for arm, each in records.items():
        for record in each:
            for alarm in record.active:
                first.setdefault((arm, alarm.rule), f"{arm}: {alarm.sentence}")
    return list(first.values())


def _difference(benchmark: str, first: str, other: str, scored: Mapping[str, Tests], draws: int) -> Difference:
    """first - other in percentage points, on the same videos."""
    mean, (low, high) = scored[first].minus(scored[other], draws)
    return {
        "benchmark": benchmark,
        "a": first,
        "b": other,
        "difference": 100 * mean,
        "low": 100 * low,
        "high": 100 * high,
        "seeds": scored[other].trainings,
        **metric_entry(scored[other].several),
    }


def _result(
    arm: str,
    benchmark: str,
    scored: Tests,
    draws: int,
    folders: Sequence[Path],
    chance: float,
    trivial: TrivialScore | None,
) -> StrategyResult:
    tested = _means(folders, "evaluate", benchmark)
    mean, deviation = mean_and_deviation(scored.scores())
    low, high = scored.interval(draws)
    return {
        "benchmark": benchmark,
        "strategy": arm,
        "seeds": scored.trainings,
        "top1": 100 * mean,
        "top1_deviation": None if deviation is None else 100 * deviation,
        "top1_ci_low": 100 * low,
        "top1_ci_high": 100 * high,
        **metric_entry(scored.several),
        "videos": scored.videos,
        "left_out": scored.left_out,
        "finetune_seconds": _means(folders, "finetune", benchmark).get(names.WALL_SECONDS),
        "test_gmacs_per_clip": tested.get(names.GMACS_PER_CLIP),
        "test_clips_per_second": tested.get(names.CLIPS_PER_SECOND),
        "chance": chance,
        "trivial": trivial,
    }


def _means(folders: Sequence[Path], stage: str, benchmark: str | None) -> dict[str, float]:
    """Each metric of a stage, averaged over the trainings that have it."""
    values: dict[str, list[float]] = {}
    for folder in folders:
        for name, value in read_metrics(folder / layout.results_file(stage, benchmark)).items():
            values.setdefault(name, []).append(value)
    return {name: sum(each) / len(each) for name, each in values.items()}


def _cost(trials: Sequence[Trial], folders: Sequence[Path]) -> StrategyCost:
    """What a strategy's pre-training costs: means of what was measured.

    Multiply-adds are those of the tokens that clips kept: the plan's, but where a strategy decides by clip how many.
    """
    trial = trials[0]
    clips = sum(corpus_size(name) for name in trial.params.pretrain.corpus)
    # Without pre-training it has spent nothing.
    means = _means(folders, "pretrain", None) if trial.epochs else {names.WALL_SECONDS: 0.0}
    clip = means.get(names.GMACS_PER_CLIP, trial.gmacs_per_clip)
    whole = clip * trial.epochs * trial.params.pretrain.repeated_augmentation
    return {
        "strategy": trial.arm,
        "epochs": trial.epochs,
        "gmacs_per_clip": clip,
        "gmacs_per_corpus_clip": whole,
        "tmacs_total": whole * clips / 1000,
        **measured(means),
    }


def corpus_size(name: str) -> int:
    """Clips of a corpus."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(layout.corpus_file(name)).num_rows)


def _curves(folders: Mapping[str, Sequence[Path]], benchmark: str) -> Curves:
    """Validation top-1 (of several classes mAP) in percent over steps, mean over the seeds."""
    curves = {}
    for arm, cells in folders.items():
        by_step: dict[float, list[float]] = {}
        for folder in cells:
            history = read_history(folder / layout.output_dir("finetune", benchmark) / "history.csv")
            for step, value in history.get(names.VAL_TOP1) or history.get(names.VAL_MAP, []):
                by_step.setdefault(step, []).append(100 * value)
        curves[arm] = [(step, sum(values) / len(values)) for step, values in sorted(by_step.items())]
    return curves


def _pictures(arm: str, folder: Path) -> list[TokenPicture]:
    """What the first clips of a pre-training show, hide and reconstruct; the same clips for every strategy."""
    files = sorted((folder / layout.output_dir("pretrain") / "pictures").glob("*.png"))[:PICTURES]
    return [{"strategy": arm, "path": str(path)} for path in files]
