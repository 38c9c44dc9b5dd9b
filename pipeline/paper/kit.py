"""`everest paper`: tables, figures and origins of the finished experiments of a checkout, in one folder.

DIR/README.md      what is here, the commands that make it again, what was left out
    tables/        each table as .tex (booktabs) and .md
    figures/       each figure as .pdf
    numbers.csv    every number of the tables, with its runs, commit, data and command
    paper.tex      a document that shows all of it
    files.json     what was written, so that your edits are not overwritten
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

from pipeline import layout
from pipeline.errors import InputError
from pipeline.paper import latex
from pipeline.paper.figures import PaperFigure, draw_comparison, draw_experiment
from pipeline.paper.finished import Finished, cells_of, look
from pipeline.paper.origins import (
    Origin,
    Tracked,
    TrainingOrigin,
    commit_of,
    compare_command,
    data_of,
    joined,
    origin_of_training,
)
from pipeline.paper.readme import readme
from pipeline.paper.tables import (
    PaperTable,
    comparison_tables,
    deviations_table,
    experiment_tables,
    origins_table,
    repetition_paper_tables,
)
from pipeline.params import Params, load_params
from pipeline.recipes import diff_recipe
from pipeline.report.page import markdown_table
from pipeline.system.csv_files import Writer
from pipeline.system.files import atomic_folder, sha256_of, write_text

OUT = layout.output_dir("paper")
FILES = "files.json"


class Written(TypedDict):
    """What was written, how many numbers with a tracked run behind them, and what was left out."""

    folder: str
    tables: list[str]
    figures: list[str]
    numbers: int
    numbers_with_runs: int
    left_out: list[str]


def command(out: Path = OUT) -> Written:
    """Write the folder; one that this command made before is replaced.

    Raises:
        InputError: nothing is finished here, or the folder holds what is not this command's, or cannot be written.
        EverestError: a summary is damaged.
    """
    params = load_params()
    found = look(params)
    found.require_any()
    _check_place(out)
    tracked = Tracked()
    tables, trainings = _tables(params, found, tracked)
    left_out = [*found.left_out, *dict.fromkeys(tracked.trouble)]
    try:
        with atomic_folder(out) as building:
            figures = _draw(found, building / "figures")
            numbers = _write_numbers(tables, building / "numbers.csv")
            for one in tables:
                _write_table(one, building / "tables")
            captions = [(figure.name, figure.caption) for figure in figures]
            write_text(building / "paper.tex", latex.document([one.name for one in tables], captions))
            write_text(building / "README.md", readme(out, tables, figures, trainings, found, left_out))
            write_text(building / FILES, json.dumps(_hashes(building), indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise InputError(
            f"{out} cannot be written: {error.strerror or error}. Cure: --out a folder with space and rights to write."
        ) from None
    return {
        "folder": str(out),
        "tables": [one.name for one in tables],
        "figures": [figure.name for figure in figures],
        "numbers": len(numbers),
        "numbers_with_runs": sum(bool(origin.runs) for origin in numbers),
        "left_out": left_out,
    }


def _tables(params: Params, found: Finished, tracked: Tracked) -> tuple[list[PaperTable], list[TrainingOrigin]]:
    tables: list[PaperTable] = []
    trainings: list[TrainingOrigin] = []
    if (experiment := found.experiment) is not None:
        own = []
        for row in experiment["results"]:
            benchmark = row["benchmark"]
            known = Origin(commit=commit_of(experiment["versions"]), command=f"dvc repro evaluate@{benchmark}")
            runs = tracked.test_of(Path(), benchmark, "")
            data = data_of(experiment["data"], benchmark)
            own.append(origin_of_training(benchmark, row["strategy"], experiment["seed"], runs, data, known))
        by_benchmark = {one.benchmark: one for one in own}
        results = [joined([one], one.command) for one in own]
        stages = [_of_stage(row["stage"], by_benchmark) for row in experiment["stages"]]
        tables += experiment_tables(experiment, results, stages)
        trainings += own
    if (comparison := found.comparison) is not None:
        strategies = list(dict.fromkeys(row["strategy"] for row in comparison["results"]))
        benchmarks = list(dict.fromkeys(row["benchmark"] for row in comparison["results"]))
        again = compare_command(strategies, comparison["seeds"], comparison["equal"], benchmarks)
        known = Origin(commit=commit_of(comparison["versions"]), command=again)
        each: dict[tuple[str, str], list[TrainingOrigin]] = {}
        for (strategy, seed), folder in cells_of(comparison).items():
            for benchmark in benchmarks:
                runs = tracked.test_of(folder, benchmark, f"{strategy}-seed{seed}")
                data = data_of(comparison["data"], benchmark)
                each.setdefault((strategy, benchmark), []).append(
                    origin_of_training(benchmark, strategy, seed, runs, data, known)
                )
        tables += comparison_tables(
            comparison,
            [joined(each.get((row["strategy"], row["benchmark"]), []), again) for row in comparison["results"]],
            [
                joined([one for name in (row["a"], row["b"]) for one in each.get((name, row["benchmark"]), [])], again)
                for row in comparison["differences"]
            ],
            [
                joined([one for benchmark in benchmarks for one in each.get((row["strategy"], benchmark), [])], again)
                for row in comparison["costs"]
            ],
        )
        trainings += [one for rows in each.values() for one in rows]
    if (repetition := found.repetition) is not None:
        seeds = ",".join(dict.fromkeys(str(row["seed"]) for row in repetition["scores"]))
        splits = ",".join(dict.fromkeys(str(row["split"]) for row in repetition["scores"] if row["split"]))
        again = f"everest repeat --seeds {seeds}{f' --splits {splits}' if splits else ''}"
        origin = Origin(commit=commit_of(repetition["versions"]), command=again)
        tables += repetition_paper_tables(repetition, origin)
    tables.append(deviations_table(diff_recipe(), params.recipe))
    if trainings:
        tables.append(origins_table(trainings))
    return tables, trainings


def _of_stage(stage: str, trainings: dict[str, TrainingOrigin]) -> Origin:
    """The origin of a stage's cost: the one run of that stage."""
    name, _, benchmark = stage.partition(" ")
    rows = [trainings[benchmark]] if benchmark in trainings else list(trainings.values())
    runs = {"pretrain": [row.pretrain for row in rows], "finetune": [row.finetune for row in rows],
            "evaluate": [row.evaluate for row in rows]}.get(name, [])  # fmt: skip
    known = tuple(dict.fromkeys(filter(None, runs)))
    whole = joined(rows, f"everest reproduce {known[0]}" if known else f"dvc repro {stage.replace(' ', '@')}")
    return Origin(known, whole.commit, whole.data, whole.command)


def _draw(found: Finished, folder: Path) -> list[PaperFigure]:
    drawn = draw_experiment(found.experiment, folder) if found.experiment is not None else []
    return drawn + (draw_comparison(found.comparison, folder) if found.comparison is not None else [])


def _write_table(one: PaperTable, folder: Path) -> None:
    table = one.table
    note = f"made by `everest paper` from {one.source}; numbers.csv says where each number is from"
    text = latex.table(table.head, table.rows, table.text, table.caption, one.name.replace("_", "-"), note)
    write_text(folder / f"{one.name}.tex", text)
    write_text(
        folder / f"{one.name}.md", "\n".join([table.caption, "", *markdown_table(table.head, table.rows, table.text)])
    )


def _write_numbers(tables: Sequence[PaperTable], path: Path) -> list[Origin]:
    """A row for each cell with a number; the origins of all."""
    origins: list[Origin] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = Writer(file)
        writer.row(("table", "row", "number", "value", "runs", "commit", "data", "command"))
        for one in tables:
            for cells, origin in zip(one.table.rows, one.origins, strict=False):
                left = [cells[place] for place in sorted(one.table.text) if place < len(cells)]
                for place, value in enumerate(cells):
                    if place in one.table.text or value == "–":
                        continue
                    row = (one.name, " ".join(left), one.table.head[place], value)
                    writer.row((*row, " ".join(origin.runs), origin.commit, origin.data, origin.command))
                    origins.append(origin)
    return origins


def _check_place(out: Path) -> None:
    """Refuse a folder that holds what this command did not write.

    Raises:
        InputError: names the first such file.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file. Cure: --out a folder.")
    present = _hashes(out)
    if not present:
        return
    try:
        made = json.loads((out / FILES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(
            f"{out} holds files that `everest paper` did not write ({next(iter(present))}). Cure: --out another folder."
        ) from None
    others = [name for name, digest in present.items() if name != FILES and made.get(name) != digest]
    if others:
        raise InputError(
            f"{out} holds what was changed or added since: {', '.join(others[:3])}"
            f"{' ...' if len(others) > 3 else ''}. Cure: move it away, or --out another folder."
        )


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by its path."""
    files: Iterable[Path] = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
