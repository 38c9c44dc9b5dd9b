"""What the tracking page says of a run in words: what it is, with links to its data, its experiment and the report.

Written when the run is made on the server: only then are the ids known that links are made of.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pipeline.system.text import code, markdown

if TYPE_CHECKING:
    from pipeline.tracking.folder import RunRecord
    from pipeline.tracking.store import Store

#: The tag that MLflow's page shows as the description, in Markdown.
NOTE = "mlflow.note.content"
#: Digits of a hash that are shown.
DIGITS = 12


def description(about: RunRecord, experiment: str, run: str, parent: str | None, store: Store) -> str:
    """The Markdown text of one run.

    Args:
        about: the run's `run.json`.
        experiment, run, parent: ids on the server.
    """
    tags = about.get("tags", {})
    report = _link("report", f"{_page(experiment, parent or run)}/artifacts/report/report.html")
    if parent is None:
        lines = [
            f"One experiment with the recipe {code(about['experiment'].removeprefix('everest-'))}; "
            "a child run for each stage and benchmark.",
            f"The {report} compares its benchmarks; the numbers of all stages are among this run's metrics.",
        ]
    else:
        stage, benchmark = tags.get("everest.stage", "?"), tags.get("everest.benchmark")
        link = _link("experiment", _page(experiment, parent))
        what = f"Stage {code(stage)} on {code(benchmark)}" if benchmark else f"Stage {code(stage)}"
        lines = [f"{what}, part of this {link}. Its result is in the {report}."]
    lines += [f"- read {code(path)} {code(digest[:DIGITS])}" for path, digest in about.get("inputs", {}).items()]
    makers = _makers(about, experiment, store)
    if makers:
        lines.append(f"- data made by {', '.join(makers)}")
    flow = tags.get("prefect.flow_run_id")
    if flow:
        server = os.environ.get("PREFECT_UI_URL", "http://127.0.0.1:4200").rstrip("/")
        lines.append(f"- Prefect flow run: {_link(flow, f'{server}/runs/flow-run/{flow}')}")
    if parent is not None:
        lines.append(f"- where it comes from: `everest lineage {run}`")
    if tags.get("everest.stage") in ("pretrain", "finetune", "evaluate"):
        lines.append(f"- once more, compared to the bit: `everest reproduce {run}`")
    return "\n".join(lines)


def _makers(about: RunRecord, experiment: str, store: Store) -> list[str]:
    """Links to the runs that made the cached data that this one reads."""
    caches = [path for path in about.get("inputs", {}) if path.startswith("data/cache/")]
    links = []
    for path in caches:
        stage = f"preprocess@{path.removeprefix('data/cache/')}"
        runs = store.search(f"tags.`dvc.stage` = '{stage}' and attributes.status = 'FINISHED'", experiment, limit=1)
        links += [_link(stage, _page(experiment, run["id"])) for run in runs]
    return links


def _page(experiment: str, run: str) -> str:
    return f"#/experiments/{experiment}/runs/{run}"


def _link(text: str, address: str) -> str:
    return f"[{markdown(text)}]({address})"
