"""What a flow run leaves in Prefect's page: tables of results, what DVC did, and the way to MLflow."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows.chain.orders import on_page
from flows.isolated import Place
from pipeline.system.text import markdown, storable

#: Where `everest ui` serves MLflow, for a store that is a file.
LOCAL_PAGE = "http://127.0.0.1:5000"
#: Columns of the table of results, in its order; those that a result does not have are left out.
COLUMNS = (
    "benchmark", "strategy", "seeds", "metric", "top1", "top1_ci_low", "top1_ci_high", "chance", "videos_ok",
    "videos_total", "gmacs_per_clip", "peak_memory_gib", "clips_per_second", "wall_seconds",
)  # fmt: skip


def publish_results(results: Sequence[Mapping[str, object]], report: Path) -> None:
    """Accuracy beside its cost, one row a benchmark (and strategy)."""
    rows = [rounded({name: row[name] for name in COLUMNS if name in row}) for row in results]
    text = f"Top-1 (mAP where `metric` says so) in %. Report: {markdown(report)}"
    with on_page("the table of results"):
        create_table_artifact(key="results", table=rows, description=text)


def publish_differences(differences: Sequence[Mapping[str, object]], report: Path) -> None:
    """Differences of a comparison, in percentage points."""
    rows = [rounded(dict(row)) for row in differences]
    with on_page("the table of differences"):
        create_table_artifact(key="differences", table=rows, description=f"a - b in points. Report: {markdown(report)}")


def publish_sentences(sentences: Sequence[str], report: Path) -> None:
    """What the data support, in words."""
    text = "\n".join(f"- {markdown(sentence)}" for sentence in sentences)
    with on_page("the verdict"):
        create_markdown_artifact(key="verdict", markdown=text, description=f"Report: {markdown(report)}")


def publish_stages(outcomes: Mapping[str, str], place: Place) -> None:
    """What DVC did with each stage, and the tracked run."""
    lines = ["| stage | DVC |", "|---|---|", *(f"| {markdown(n)} | {what} |" for n, what in outcomes.items())]
    with on_page("what DVC did"):
        create_markdown_artifact(key="stages", markdown="\n".join(lines), description=markdown(place.params.recipe))
    run = tracked_run(Path(place.where.environment["EVEREST_RUNS"]), place.where.name)
    if run:
        address = mlflow_page(place.where.environment["MLFLOW_TRACKING_URI"])
        with on_page("the way to MLflow"):
            create_link_artifact(key="mlflow", link=f"{address}/#/runs/{run}", link_text="This experiment in MLflow")


def publish_sweep(rows: Sequence[Mapping[str, object]]) -> None:
    """Every experiment of a sweep with its results."""
    table = [rounded(dict(row)) for row in rows]
    with on_page("the table of the sweep"):
        create_table_artifact(key="sweep", table=table, description="One row a benchmark")


def mlflow_page(tracking_uri: str) -> str:
    """The address of MLflow's page: the server's own, or where `everest ui` serves a store that is a file; no login."""
    served = tracking_uri.startswith(("http://", "https://"))
    page = urlsplit(tracking_uri if served else os.environ.get("EVEREST_MLFLOW_PAGE", LOCAL_PAGE))
    return page._replace(netloc=page.netloc.rpartition("@")[2]).geturl().rstrip("/")


def tracked_run(runs: Path, flow_run: str) -> str | None:
    """The server's id of the experiment that a flow run tracked; None where it has none (yet)."""
    for path in runs.glob("*/run.json"):
        about = json.loads(path.read_text())
        remote = path.with_name("remote.json")
        if about.get("parent") is None and about.get("tags", {}).get("prefect.flow_run_id") == flow_run:
            return json.loads(remote.read_text()).get("run_id") if remote.exists() else None
    return None


def rounded(row: dict[str, object]) -> dict[str, object]:
    """Numbers as people read them."""
    return {name: round(value, 3) if isinstance(value, float) else storable(value) for name, value in row.items()}
