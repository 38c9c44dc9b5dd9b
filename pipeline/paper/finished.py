"""What a checkout holds of finished experiments: the summaries behind its reports, and what is not finished."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pipeline import layout
from pipeline.errors import EverestError, InputError
from pipeline.experiments.cells import cells_root
from pipeline.params import Params
from pipeline.params.records import finished
from pipeline.system.files import read_json
from pipeline.tracking import names

if TYPE_CHECKING:
    from pipeline.report.collect import Summary as Experiment
    from pipeline.report.comparison import Summary as Comparison
    from pipeline.report.repetition import Summary as Repetition

SUMMARY = "summary.json"


@dataclass
class Finished:
    """Each kind's summary, or None; `left_out` says what is there and not finished, and what no longer fits."""

    experiment: Experiment | None = None
    comparison: Comparison | None = None
    repetition: Repetition | None = None
    left_out: list[str] = field(default_factory=list)

    def require_any(self) -> None:
        """Refuse to write a folder of nothing.

        Raises:
            InputError: nothing is finished here.
        """
        if self.experiment is None and self.comparison is None and self.repetition is None:
            half = f" ({'; '.join(self.left_out)})" if self.left_out else ""
            raise InputError(
                f"no finished experiment in {Path.cwd()}: outputs/report, outputs/compare and outputs/repeat hold no "
                f"summary{half}. Cure: `everest run`, `everest compare` or `everest repeat` to its end, "
                "then again."
            )


def look(params: Params) -> Finished:
    """Read the summaries in outputs/, and compare them with what lies beside them.

    Raises:
        EverestError: a summary is damaged.
    """
    found = Finished()
    found.experiment = cast("Experiment | None", _summary("report", "results", "stages", "data"))
    found.comparison = cast("Comparison | None", _summary("compare", "results", "costs", "trainings"))
    found.repetition = cast("Repetition | None", _summary("repeat", "results", "scores"))
    if found.experiment is None:
        found.left_out += [
            f"{name}: tested, but there is no report yet; `dvc repro report` writes it"
            if _tested(Path(), name) is not None
            else f"{name}: fine-tuned, not tested"
            for name in params.benchmarks
            if layout.results_file("finetune", name).exists() or _tested(Path(), name) is not None
        ]
    else:
        found.left_out += _older_than_its_outputs(found.experiment)
    found.left_out += _unfinished_cells(found.comparison)
    if found.comparison is not None:
        found.left_out += _changed_trainings(found.comparison)
    return found


def cells_of(comparison: Comparison) -> dict[tuple[str, int], Path]:
    """(strategy, seed) -> the folder of that training."""
    return {(one["strategy"], one["seed"]): cells_root() / one["folder"] for one in comparison["trainings"]}


def _summary(stage: str, *keys: str) -> object:
    path = layout.output_dir(stage) / SUMMARY
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise EverestError(
            f"{path} is no JSON ({error}): it is damaged. Cure: `dvc checkout {path.parent}`, or run it again."
        ) from None
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise EverestError(f"{path} has no {', '.join(missing)}: it is no summary. Cure: run it again.")
    return content


def _tested(folder: Path, benchmark: str) -> float | None:
    """The score [%] of a test that lies in a folder."""
    path = folder / layout.results_file("evaluate", benchmark)
    score = names.score_of(read_json(path)) if path.is_file() else None
    return None if score is None else 100 * score.value


def _older_than_its_outputs(experiment: Experiment) -> list[str]:
    """Benchmarks whose test was made again after the report was written."""
    lines = []
    for row in experiment["results"]:
        now = _tested(Path(), row["benchmark"])
        if now is not None and not math.isclose(now, row["top1"], abs_tol=1e-9):
            lines.append(
                f"{row['benchmark']}: the report says {row['top1']:.1f} %, a later test {now:.1f} %; "
                "`dvc repro report` brings the report up to date"
            )
    return lines


def _changed_trainings(comparison: Comparison) -> list[str]:
    """Strategies whose trainings were tested again, or removed, after the comparison's report."""
    folders, lines = cells_of(comparison), []
    for row in comparison["results"]:
        name, benchmark = row["strategy"], row["benchmark"]
        cells = [folder for (strategy, _), folder in folders.items() if strategy == name]
        scores = [_tested(cell, benchmark) for cell in cells]
        if any(score is None for score in scores):
            lines.append(f"{name} on {benchmark}: {scores.count(None)} of its trainings are gone from {cells_root()}")
            continue
        mean = sum(score for score in scores if score is not None) / len(scores) if scores else row["top1"]
        if not math.isclose(mean, row["top1"], abs_tol=1e-6):
            lines.append(
                f"{name} on {benchmark}: the report says {row['top1']:.1f} %, its trainings now {mean:.1f} %; "
                "`everest compare` brings the report up to date"
            )
    return lines


def _unfinished_cells(comparison: Comparison | None) -> list[str]:
    """Trainings of comparisons that are in no report, with the stages that they have done."""
    reported = {one["folder"] for one in comparison["trainings"]} if comparison is not None else set()
    folders = [path.parent for path in sorted(cells_root().glob("*/params.yaml")) if path.parent.name not in reported]
    lines = []
    for folder in folders:
        records = sorted((folder / layout.record_file("x").parent).rglob("*.json"))
        done = [
            f"{path.parent.name} {path.stem}" if path.parent.name != "records" else path.stem
            for path in records
            if finished(*_step(path), folder)
        ]
        state = f"has done {', '.join(done)}" if done else "has finished no stage"
        lines.append(f"{folder.name}: in no report; it {state}")
    return lines


def _step(record: Path) -> tuple[str, str | None]:
    """Stage and benchmark of a record's file."""
    return (record.stem, None) if record.parent.name == "records" else (record.parent.name, record.stem)
