"""`everest repeat`: the experiment of params.yaml on every official split and with several seeds; mean and deviation.

    .work/repeat/split<n>-<key>/          the split's data: manifests, caches, corpora (videos are the project's)
    .work/repeat/split<n>-seed<k>-<key>/  one experiment: params.yaml, data -> the split's, outputs, metrics

Every split pre-trains on its own training videos only: with another split's, its test videos would have been seen. A
finished stage is not run again, so a stopped repetition goes on where it was.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from pipeline import layout, preflight
from pipeline.budget.ledger import one_ledger
from pipeline.errors import InputError
from pipeline.experiments.cells import data_hashes, locked_hashes
from pipeline.experiments.workspace import (
    Report,
    Run,
    Step,
    Workspace,
    environment,
    require_data,
    result_values,
    training_steps,
)
from pipeline.params import SCRATCH, Params, with_overrides
from pipeline.params.benchmarks import PUBLISHED
from pipeline.params.declared import data_versions, deciding, declared, parse
from pipeline.params.file import read_text
from pipeline.params.frozen import PARAMS, check_made
from pipeline.params.load import params_from_text
from pipeline.system.processes import run_child

if TYPE_CHECKING:
    from pipeline.report.repetition import Repeated, RepetitionScore

#: Data sets with several official splits.
SPLIT = tuple(name for name, published in PUBLISHED.items() if published.splits > 1)
FOLDER = layout.WORK / "repeat"
RESULTS = layout.output_dir("repeat")


@dataclass(frozen=True)
class Repetition:
    """One experiment; `split` 0 where the data set has no official splits."""

    split: int
    seed: int
    params: Params

    @property
    def name(self) -> str:
        return f"split{self.split}-seed{self.seed}" if self.split else f"seed{self.seed}"

    @functools.cached_property  # settled, whatever DVC makes in the project while it runs
    def folder(self) -> Path:
        return (FOLDER / f"{self.name}-{_key(self.params, self.split)}").absolute()

    @property
    def data(self) -> Path:
        """Where its manifests and caches are: the project's own without splits."""
        if not self.split:
            return Path("data").absolute()
        groups = {"benchmarks", "clip", "ingest", "preprocess"}  # one set of data for all seeds
        values = {
            key: value
            for key, value in deciding(self.params, self.params.benchmarks).items()
            if key.partition(".")[0] in groups and not re.match(r"benchmarks\.[^.]+\.(finetune|evaluate)", key)
        }
        return (FOLDER / f"split{self.split}-{layout.fingerprint([values, data_versions()])}").absolute() / "data"


class Planned(TypedDict):
    """One experiment of a repetition and its folder."""

    split: int | None
    seed: int
    folder: str


class Outcome(TypedDict):
    """The experiments and, after a run, what they say."""

    report: NotRequired[str]
    results: NotRequired[list[Repeated]]
    scores: NotRequired[list[RepetitionScore]]
    sentences: NotRequired[list[str]]
    repetitions: list[Planned]


def command(
    splits: Sequence[int] | None = None, seeds: Sequence[int] = (0,), dry_run: bool = False, run: Run = run_child
) -> Outcome:
    """Repeat the experiment and write outputs/repeat: report.html, report.md, summary.json.

    Args:
        splits: official splits; all three by default where the data set has them.
        seeds: one experiment of each split for each.
        dry_run: only say what would run.

    Raises:
        InputError: splits of a data set that has none, lists with repeated or unknown entries, or data of the project
            that other values made than params.yaml has.
        Interrupted: stopped; the same command continues.
        EverestError: a stage failed.
    """
    text = read_text(PARAMS)
    params = params_from_text(text, PARAMS)
    repetitions = plan(params, splits, seeds)
    rows: list[Planned] = [
        {"split": r.split or None, "seed": r.seed, "folder": os.path.relpath(r.folder)} for r in repetitions
    ]
    if dry_run:
        return {"repetitions": rows}
    for repetition in repetitions:
        preflight.require(preflight.chain_scope(repetition.params))
    if not repetitions[0].split:
        made = [(stage, name) for name in params.benchmarks for stage in ("download", "preprocess")]
        made += [("corpus", name) for name in _corpora(params)]
        check_made("everest repeat", [declared(*step) for step in made], parse(text))
    from pipeline.experiments.stage import only_one
    from pipeline.report.repetition import summarise, write_report
    from pipeline.report.sentences import metric_key
    from pipeline.tracking import stage_run

    values = {"splits": [r.split for r in repetitions], "seeds": list(seeds)}
    work = layout.work_dir("repeat", None, layout.fingerprint([values, _key(params, repetitions[0].split)]))
    with only_one("repeat"), one_ledger(params, "repeat"), stage_run("repeat", None, values, work) as tracked:
        for number, repetition in enumerate(repetitions, 1):
            run_repetition(repetition, f"[{number}/{len(repetitions)}] {repetition.name}", run)
        summary = summarise(params, [(r.split, r.seed, r.folder) for r in repetitions])
        for file in write_report(summary, RESULTS):
            tracked.artifact(file, "report")
        tracked.metrics(
            {
                f"{row['benchmark']}/{metric_key(row)}_{name}": value / 100
                for row in summary["results"]
                for name, value in (
                    ("mean", row["mean"]),
                    ("between_splits", row["between_splits"]),
                    ("between_seeds", row["between_seeds"]),
                )
                if value is not None
            }
        )
    return {
        "report": str(RESULTS / "report.html"),
        "results": summary["results"],
        "scores": summary["scores"],
        "sentences": summary["sentences"],
        "repetitions": rows,
    }


def plan(params: Params, splits: Sequence[int] | None, seeds: Sequence[int]) -> list[Repetition]:
    """Every split with every seed.

    Raises:
        InputError: see :func:`command`.
    """
    with_splits = [name for name, entry in params.benchmarks.items() if entry.data.dataset in SPLIT]
    if splits and not with_splits:
        raise InputError(
            f"--splits: none of {', '.join(params.benchmarks)} has official splits ({', '.join(SPLIT)} have). "
            "Cure: leave --splits out, and give --seeds."
        )
    chosen = list(splits or ((1, 2, 3) if with_splits else (0,)))
    for name, values, good in (("splits", chosen, (0, 1, 2, 3)), ("seeds", seeds, None)):
        if not values or len(set(values)) != len(values) or (good and set(values) - set(good)) or min(values) < 0:
            raise InputError(f"--{name} {list(values)}: expected each once, splits of 1, 2, 3. Cure: mend the list.")
    if params.finetune.init not in (SCRATCH, str(layout.output_dir("pretrain"))):
        # Given weights lie in the project, wherever the experiment runs.
        params = with_overrides(params, {"finetune.init": str(Path(params.finetune.init).absolute())})
    # Every split's videos lie in one folder.
    shared = {f"benchmarks.{name}.data.raw": params.benchmark(name).data.raw or name for name in with_splits}
    repetitions = []
    for split in chosen:
        splits_of = {f"benchmarks.{name}.data.split": split for name in with_splits if split}
        repetitions += [Repetition(split, s, with_overrides(params, {"seed": s, **shared, **splits_of})) for s in seeds]
    return repetitions


def run_repetition(repetition: Repetition, note: str, run: Run = run_child) -> None:
    """The data stages of its split and the stages of its training that are not done yet.

    Raises:
        EverestError, Interrupted: see :func:`command`.
    """
    root, params, data = Path.cwd(), repetition.params, repetition.data
    corpora = _corpora(params)
    remade: set[str] = set()

    def bring_up(folder: Path, training: str, steps: Sequence[Step], links: Mapping[str, Path]) -> None:
        variables = environment(root, root, folder / layout.WORK, EVEREST_REPEAT=training)
        place = Workspace(repetition.name, folder, root, variables)
        place.prepare(params, links)
        report = Report(
            note=note,
            stopped="stopped; what is done is kept. The same command continues.",
            cure="mend what its message above names; the same command continues.",
            where=f" in {folder}",
        )
        place.run(steps, params, report, remade=remade, run=run)

    if repetition.split:
        steps: list[Step] = [(stage, name) for name in params.benchmarks for stage in ("download", "preprocess")]
        # Of a split's data nothing is registered, so no training is named.
        bring_up(data.parent, "", [*steps, *(("corpus", name) for name in corpora)], {})
    else:
        require_data(params.benchmarks, corpora)
    steps = training_steps(params.benchmarks, bool(corpora))
    bring_up(repetition.folder, repetition.name, steps, {"data": data})


def _key(params: Params, split: int) -> str:
    """What makes an experiment's result: an official split's data follow from the parameters, other data may change."""
    weights = [] if params.finetune.init == SCRATCH or _corpora(params) else [_weights(params.finetune.init)]
    data = {} if split else data_hashes(locked_hashes(), params.benchmarks, _corpora(params))
    return layout.fingerprint([result_values(params, params.benchmarks), data_versions(), data, *weights])


def _corpora(params: Params) -> list[str]:
    """That it pre-trains on; none from scratch or given weights."""
    return params.pretrain.corpus if params.finetune.init == str(layout.output_dir("pretrain")) else []


@functools.cache
def _weights(folder: str) -> str:
    from pipeline.model_folder import sha256

    return sha256(Path(folder))
