"""Where a number is from: the tracked runs behind it, their code and data, and the command that makes it again."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import layout
from pipeline.errors import EverestError
from pipeline.system.files import sha256_of
from pipeline.tracking.context import uncommitted

if TYPE_CHECKING:
    from pipeline.experiments.lineage import RunFacts
    from pipeline.report.collect import DataVersion
    from pipeline.tracking.store import Store

#: Digits of a commit or a content hash that are shown.
DIGITS = 12
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Origin:
    """What stands behind a number.

    Attributes:
        runs: ids of the tracked runs of its test, fine-tuning and pre-training, as far as the store knows them.
        commit: of the code that ran, with what was not committed; several, where several ran.
        data: content hashes of manifest and cache, for each benchmark.
        command: makes it again.
    """

    runs: tuple[str, ...] = ()
    commit: str = UNKNOWN
    data: str = UNKNOWN
    command: str = ""


@dataclass(frozen=True)
class TrainingOrigin:
    """One training's test on one benchmark, as a row of the table of origins; "" where a stage has no tracked run."""

    benchmark: str
    strategy: str
    seed: int
    evaluate: str
    finetune: str
    pretrain: str
    commit: str
    data: str
    command: str

    @property
    def runs(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.evaluate, self.finetune, self.pretrain)))


@dataclass
class Tracked:
    """The tracking store, asked once for each training; `trouble` says why it, or a run in it, is unknown."""

    trouble: list[str] = field(default_factory=list)

    def test_of(self, folder: Path, benchmark: str, series: str) -> tuple[RunFacts, ...]:
        """The runs of a training's test, fine-tuning and pre-training, as far as they are known.

        Args:
            folder: of the training.
            series: its name in a comparison; "" for the chain's own. Trainings with equal predictions differ by it.
        """
        path = folder / layout.output_dir("evaluate", benchmark) / "predictions.parquet"
        store = self._store
        if store is None:
            return ()
        if not path.is_file():
            self.trouble.append(f"{path} is gone, so its run is not known")
            return ()
        try:
            runs = store.search(query=f"tags.`everest.predictions_sha256` = '{sha256_of(path)}'", limit=20)
            named = [run for run in runs if run["tags"].get("everest.comparison", "") == series] or runs
            if not named:
                self.trouble.append(f"no tracked run made {path}")
                return ()
            return self._chain(named[0]["id"])
        except EverestError as error:
            self.trouble.append(str(error))
            return ()

    def _chain(self, run: str) -> tuple[RunFacts, ...]:
        """A run, that of the weights it starts from, and so on."""
        from pipeline.experiments.lineage import run_facts

        facts = [run_facts(run)]
        while before := facts[-1]["weights_from"]:
            facts.append(run_facts(before[0]["id"]))
        return tuple(facts)

    @functools.cached_property
    def _store(self) -> Store | None:
        from pipeline.tracking.store import Store

        try:
            return Store.existing()
        except EverestError as error:
            self.trouble.append(str(error))
            return None


def origin_of_training(
    benchmark: str, strategy: str, seed: int, runs: Sequence[RunFacts], data: str, otherwise: Origin
) -> TrainingOrigin:
    """A training's row: from its runs, and from `otherwise` (the report) where they are not known."""
    by_stage = {str(run["stage"]).partition("@")[0]: run for run in runs}
    commits = list(dict.fromkeys(commit_of(run["code"]) for run in runs if run["code"]))
    test = by_stage.get("evaluate")
    evaluate, finetune, pretrain = (
        by_stage[stage]["id"] if stage in by_stage else "" for stage in ("evaluate", "finetune", "pretrain")
    )
    return TrainingOrigin(
        benchmark=benchmark,
        strategy=strategy,
        seed=seed,
        evaluate=evaluate,
        finetune=finetune,
        pretrain=pretrain,
        commit=", ".join(commits) or otherwise.commit,
        data=data,
        command=f"everest reproduce {test['id']}" if test else otherwise.command,
    )


def commit_of(code: Mapping[str, str]) -> str:
    """The commit among tags, and whether there were changes beside it."""
    return code.get("git.commit", UNKNOWN)[:DIGITS] + uncommitted(code)


def data_of(rows: Sequence[DataVersion], benchmark: str) -> str:
    """A benchmark's content hashes, as the report has them."""
    for row in rows:
        if row["benchmark"] == benchmark:
            manifest, cache = (one[:DIGITS] or UNKNOWN for one in (row["manifest_hash"], row["cache_hash"]))
            return f"{manifest}, {cache}"
    return UNKNOWN


def compare_command(strategies: Sequence[str], seeds: Sequence[int], equal: str, benchmarks: Sequence[str]) -> str:
    """The call of `everest compare` that makes a comparison again, in a checkout with its params.yaml."""
    words = ["--strategies", ",".join(strategies), "--seeds", ",".join(map(str, seeds))]
    return shlex.join(["everest", "compare", *words, "--equal", equal, "--benchmarks", ",".join(benchmarks)])


def joined(rows: Sequence[TrainingOrigin], command: str) -> Origin:
    """The origin of a number that several trainings make: a mean, or a difference."""
    return Origin(
        tuple(dict.fromkeys(run for row in rows for run in row.runs)),
        ", ".join(dict.fromkeys(row.commit for row in rows)) or UNKNOWN,
        "; ".join(dict.fromkeys(f"{row.benchmark}: manifest, cache {row.data}" for row in rows)) or UNKNOWN,
        command,
    )
