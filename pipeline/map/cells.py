"""Running one cell: its videos are drawn, cached and looked at, its comparisons run, and what they say is kept.

    .work/map/<key>/             params.yaml, data, .work/compare, outputs: a folder as `everest compare` has it
    .work/map/<key>-result.json   what the cell gave; with it the cell is done, and its folder is removed

A stopped map goes on in the cell where it was.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline import layout
from pipeline.audit.on_map import CellResult, Gain
from pipeline.errors import EverestError
from pipeline.experiments.workspace import Report, Run, Step, Workspace, environment, result_values
from pipeline.map.plan import Cell
from pipeline.params import SCRATCH, Params
from pipeline.params.declared import versions
from pipeline.system.files import read_json, write_text
from pipeline.system.processes import run_child

FOLDER = layout.WORK / "map"
#: Videos of a cell that are looked at for its redundancy.
LOOKED_AT = 32


def key(cell: Cell) -> str:
    """Names a cell by everything that decides what it gives."""
    values = [
        [
            equal,
            params.compare.model_dump(),
            result_values(params, {*params.compared_benchmarks(), *params.pretrain.corpus}),
        ]
        for equal, params in cell.params.items()
    ]
    return layout.fingerprint([values, dict(versions())])


def folder(cell: Cell) -> Path:
    return (FOLDER / key(cell)).absolute()


def result_of(cell: Cell) -> CellResult | None:
    """What a finished cell gave; None where it is not done."""
    path = _file(cell)
    result: CellResult | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return result


def run_cell(cell: Cell, benchmark: str, note: str, run: Run = run_child) -> CellResult:
    """Bring a cell to its end.

    Raises:
        EverestError: a stage failed; the folder stays, to look at.
        Interrupted: stopped; the same command continues.
    """
    from pipeline.system.terminal import say

    if (known := result_of(cell)) is not None:
        shutil.rmtree(folder(cell), ignore_errors=True)  # what a stop between the two left
        say(f"{note}: done before")
        return known
    began, here, root = time.monotonic(), folder(cell), Path.cwd()
    where = Workspace(
        f"map-{here.name}",
        here,
        root,
        # The cell's own videos and trainings: nothing of the checkout's has its values.
        environment(root, root, here / layout.WORK)
        | {"EVEREST_DATA": str(here / "data"), "EVEREST_CELLS": str(here / layout.WORK / "compare")},
    )
    report = Report(
        note=note,
        stopped="map stopped; the same command continues it.",
        cure="mend what its message above names; the same command continues.",
        where=f" in {here}",
    )
    where.prepare(cell.any_params, {})
    where.run(_data_steps(cell.any_params), cell.any_params, report, run=run)
    still, needed = redundancy(here, cell.any_params, benchmark)
    gains: list[Gain] = []
    alarms: list[str] = []
    trivial: float | None = None
    for equal, params in cell.params.items():
        say(f"{note}: comparison at equal {equal}")
        where.prepare(params, {})
        where.run_stage("compare", None, report, run=run)
        summary = read_json(here / layout.output_dir("compare") / "summary.json")
        scores = {row["strategy"]: row for row in summary["results"]}
        trivial = next((row["trivial"]["top1"] for row in summary["results"] if row.get("trivial")), None)
        gains += [
            {
                "equal": equal,
                "against": row["b"],
                "difference": row["difference"],
                "low": row["low"],
                "high": row["high"],
                "first": scores[row["a"]]["top1"],
                "other": scores[row["b"]]["top1"],
            }
            for row in summary["differences"]
        ]
        alarms += [
            f"{arm} at equal {equal}: {verdict}"
            for arm, verdicts in summary.get("health", {}).items()
            for verdict in verdicts
        ]
    result: CellResult = {
        "place": dict(cell.place),
        "tokens_needed": needed,
        "still": still,
        "seeds": len(cell.any_params.compare.seeds),
        "gains": gains,
        "trivial": trivial,
        "alarms": list(dict.fromkeys(alarms)),
        "seconds": round(time.monotonic() - began),
    }
    write_text(_file(cell), json.dumps(result, indent=1) + "\n")
    shutil.rmtree(here, ignore_errors=True)  # hundreds of MiB of frames; another run would draw the same
    return result


def redundancy(folder: Path, params: Params, benchmark: str) -> tuple[float, float]:
    """Measure a cell's test videos as an audit does: shares of still tokens and of those that hold 80 % of change.

    Raises:
        EverestError: none of them could be looked at.
    """
    from pipeline.audit.measuring import audited
    from pipeline.audit.record import SHARES
    from pipeline.audit.summary import TOLD
    from pipeline.data.video.listing import video_files

    videos = folder / "data" / "raw" / (params.benchmark(benchmark).data.raw or benchmark)
    paths, _others = video_files(videos)
    spread = paths[:: max(1, len(paths) // LOOKED_AT)][:LOOKED_AT]
    changes = [one.change for one in audited(videos, spread, params.ingest).values() if one.change is not None]
    if not changes:
        raise EverestError(f"none of the videos in {videos} could be looked at. Cure: `everest audit {videos}`.")
    place = SHARES.index(TOLD)
    return (
        statistics.fmean(change.still for change in changes),
        statistics.fmean(change.tokens_needed[place] for change in changes),
    )


def _data_steps(params: Params) -> Sequence[Step]:
    """The stages ahead of a comparison."""
    pretrains = params.finetune.init != SCRATCH
    names = dict.fromkeys([*params.compared_benchmarks(), *(params.pretrain.corpus if pretrains else ())])
    steps: list[Step] = [(stage, name) for name in names for stage in ("download", "preprocess")]
    steps += [("baseline", name) for name in params.compared_benchmarks()]
    return steps + [("corpus", name) for name in (params.pretrain.corpus if pretrains else ())]


def _file(cell: Cell) -> Path:
    return folder(cell).with_name(f"{key(cell)}-result.json")
