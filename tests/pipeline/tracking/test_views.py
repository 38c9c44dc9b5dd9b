"""Every experiment in MLflow has a prepared view of its accuracies against their costs."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.tracking import stage_run
from pipeline.tracking.store import Store
from pipeline.tracking.views import TAG, VIEW, accuracy_against_cost, address


def test_the_view_has_a_chart_of_top1_against_cost_for_each_benchmark() -> None:
    state = json.loads(accuracy_against_cost(["motion", "oscc"])[TAG])
    axes = {(chart["xaxis"]["key"], chart["yaxis"]["key"]) for chart in state["compareRunCharts"]}
    assert ("pretrain/efficiency/gmacs_per_clip", "motion/eval/top1") in axes
    assert ("pretrain/efficiency/wall_seconds", "oscc/eval/top1") in axes
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} == {state["compareRunSections"][0]["uuid"]}
    assert (
        address("http://host/", "7")
        == f"http://host/#/experiments/7/runs?viewStateShareKey={VIEW}&compareRunsMode=CHART"
    )


def test_a_tracked_experiment_carries_its_view(project: Path) -> None:
    (project / "params.yaml").write_text(
        "recipe: demo\nseed: 3\nbenchmarks: {motion: {finetune: {}, evaluate: {}, data: {split: 1}}}\n"
        "pretrain: {strategy: tube}\n"
    )
    with stage_run("pretrain", None, {}, Path(".work/pretrain/all/x")) as run:
        run.summary({"pretrain/efficiency/gmacs_per_clip": 0.04})
    store = Store()
    tags = store.client.get_experiment_by_name("everest-demo").tags
    assert "motion/eval/top1" in tags[TAG]
    parent = next(run for run in store.search() if "mlflow.parentRunId" not in run["tags"])
    assert parent["name"].startswith("demo tube seed 3 ")
    assert parent["metrics"]["pretrain/efficiency/gmacs_per_clip"] == 0.04
