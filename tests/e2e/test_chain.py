"""The main job at its smallest size: Prefect, DVC and MLflow for real, on generated H.264 videos."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.params.write import write_overrides
from pipeline.tracking.headline import HEADLINE
from tests.e2e.conftest import Project

pytestmark = pytest.mark.e2e

STAGES = 15  # the chain's fourteen and the comparison
BENCHMARKS = ("motion", "state_change")


@pytest.fixture(scope="module")
def runs(finished: Project) -> list[Any]:
    """All MLflow runs of the chain."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{finished.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("everest-demo")
    return list(client.search_runs([experiment.experiment_id]))


def test_the_chain_ends_in_a_table_a_report_and_the_next_commands(finished: Project) -> None:
    output = finished.last.stdout
    for word in ("top-1", "motion", "state_change", "outputs/report/report.html", "make ui", "dvc repro"):
        assert word in output
    assert "prefect deployment run 'experiment/demo'" in output
    assert f"{STAGES} of {STAGES} stages ran" in output
    assert "Traceback" not in finished.last.stderr
    assert "Warning" not in finished.last.stderr


def test_without_a_terminal_each_stage_has_a_line_at_its_start_and_at_its_end(finished: Project) -> None:
    output = finished.last.stderr
    names = [
        f"{s}@{b}" for s in ("download", "preprocess", "baseline", "corpus", "finetune", "evaluate") for b in BENCHMARKS
    ]
    for name in (*names, "pretrain", "report", "compare"):
        assert re.search(rf"^\d\d:\d\d:\d\d {name}: started$", output, re.MULTILINE), name
        assert re.search(rf"^\d\d:\d\d:\d\d {name}: ran in \d+:\d\d", output, re.MULTILINE), name
    assert re.search(r"evaluate@motion: ran in \S+, top-1 .* % \(95 % interval .*\), 16 of 16 videos", output)
    assert re.search(r"download@motion: ran in \S+, 40 of 40 videos", output)
    assert re.search(r"\[2/2\] tube, seed 0: pretrain ran in \S+, loss \d", output)
    assert "\x1b" not in output
    assert "\r" not in output


def test_every_benchmark_is_scored_on_all_its_test_videos_with_its_cost(finished: Project) -> None:
    for benchmark in BENCHMARKS:
        record = json.loads((finished.root / "outputs" / "evaluate" / benchmark / "metrics.json").read_text())
        assert record["eval/videos_ok"] == record["eval/videos_total"] == 16
        assert 0 <= record["eval/top1_ci_low"] <= record["eval/top1"] <= record["eval/top1_ci_high"] <= 1
        assert record["efficiency/gmacs_per_clip"] > 0.01
        assert record["efficiency/peak_memory_gib"] > 0.1
        assert record["efficiency/clips_per_second"] > 0
        assert record["efficiency/tokens_per_clip"] == 76  # floor(0.6 * 8 slots * 16 places)


def test_a_prediction_from_the_files_gives_the_evaluations_probabilities(finished: Project) -> None:
    import pyarrow.parquet as pq

    tested = pq.read_table(finished.root / "outputs/evaluate/motion/predictions.parquet").to_pylist()
    names = [f"data/raw/motion/{row['path']}" for row in tested]
    model = "models:/everest-demo-motion@best"
    finished.run("everest", "predict", *names, "--model", model, "--no-temperature", "--out", "answers.parquet")
    rows = pq.read_table(finished.root / "answers.parquet").to_pylist()
    for row, evaluated in zip(rows, tested, strict=True):
        given = [value for name, value in row.items() if name not in ("video", "predicted", "reason")]
        assert given == pytest.approx(evaluated["probabilities"], abs=1e-5)


def test_the_report_opens_from_disk_and_holds_its_pictures(finished: Project) -> None:
    page = (finished.root / "outputs" / "report" / "report.html").read_text()
    assert "motion" in page
    assert "<svg" in page or "data:image" in page
    assert not re.search(r'(src|href)="https?://[^"]+\.(js|css|png)"', page)


def stages_below(runs: list[Any], parent: Any) -> set[str]:
    return {run.data.tags["dvc.stage"] for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}


def test_mlflow_has_a_parent_for_each_experiment_and_a_finished_child_for_each_of_its_stages(runs: list[Any]) -> None:
    assert {run.info.status for run in runs} == {"FINISHED"}
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    by_name = {parent.data.tags.get("everest.comparison", "chain"): parent for parent in parents}
    assert len(parents) == 2
    assert set(by_name) == {"chain", "tube-seed0"}
    each = ("download", "preprocess", "baseline", "corpus", "finetune", "evaluate")
    assert stages_below(runs, by_name["chain"]) == {
        "pretrain", "report", "compare", *(f"{stage}@{benchmark}" for stage in each for benchmark in BENCHMARKS),
    }  # fmt: skip
    assert stages_below(runs, by_name["tube-seed0"]) == {"pretrain", "finetune@motion", "evaluate@motion"}


def test_runs_carry_the_names_that_people_compare_by(runs: list[Any]) -> None:
    by_stage = {run.data.tags.get("dvc.stage"): run for run in runs}
    scored = by_stage["evaluate@motion"].data
    assert {"eval/top1", "efficiency/gmacs_per_clip", "efficiency/peak_memory_gib"} <= set(scored.metrics)
    trained = by_stage["pretrain"].data
    assert {"train/loss", "train/lr", "efficiency/clips_per_second"} <= set(trained.metrics)
    assert trained.params["pretrain.keep_ratio"] == "0.5"
    for tag in ("git.commit", "git.dirty", "dvc.stage", "prefect.flow_run_id", "world_size", "device"):
        assert tag in trained.tags, tag


def test_a_second_run_computes_nothing(finished: Project) -> None:
    done = finished.run("dvc", "repro")
    assert "Data and pipelines are up to date" in done.stdout
    assert "Running stage" not in done.stdout


def test_dvc_shows_metrics_plots_and_parameter_changes(finished: Project) -> None:
    metrics = finished.run("dvc", "metrics", "show").stdout
    assert "metrics/evaluate/motion.json" in metrics
    columns = set(metrics.splitlines()[0].split()) - {"Path"}
    own = {name for name in columns if name.startswith("motion.")}  # of the comparison: one of each strategy
    assert columns - own <= set(HEADLINE)
    plots = finished.run("dvc", "plots", "show").stdout
    page = Path(plots.strip().removeprefix("file://"))
    assert "vega" in page.read_text().lower()
    assert "finetune" in finished.run("dvc", "params", "diff", "HEAD~1").stdout


def test_the_demo_ends_with_a_comparison_over_the_chains_data(finished: Project) -> None:
    assert "One seed for each strategy" in finished.last.stdout
    log = next((finished.root / ".work" / "logs").glob("*/compare.log")).read_text()
    assert log.count("taken from this project's own run") == 3, "the chain trained everest with seed 0 already"
    folder = finished.root / "outputs" / "compare"
    summary = json.loads((folder / "summary.json").read_text())
    assert [row["strategy"] for row in summary["results"]] == ["everest", "tube"]
    assert all(row["videos"] == 16 for row in summary["results"])
    everest, tube = summary["costs"]
    assert everest["gmacs_per_clip"] < tube["gmacs_per_clip"]
    assert everest["peak_memory_gib"] > 0
    assert len(summary["pictures"]) == 2
    page = (folder / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert page.count("data:image/png") == 2


def test_a_second_comparison_computes_nothing_and_dvc_plots_it(finished: Project) -> None:
    again = finished.run("everest", "compare")
    assert "seed 0: " not in again.stderr
    assert "told apart" not in again.stdout
    assert "tube" in again.stdout
    plots = finished.run("dvc", "plots", "show", "metrics/compare/accuracy.csv", "metrics/compare/curves.csv")
    assert "pretrain_seconds" in Path(plots.stdout.strip().removeprefix("file://")).read_text()
    assert finished.run("dvc", "repro", "compare/dvc.yaml:compare").stdout.count("Running stage") == 0


def test_one_benchmarks_parameter_reruns_only_its_own_stages(finished: Project) -> None:
    write_overrides(
        finished.root / "params.yaml",
        {"benchmarks.motion.finetune.epochs": 1, "benchmarks.motion.finetune.warmup_epochs": 1.0},
    )
    done = finished.run("dvc", "repro")
    ran = set(re.findall(r"^Running stage '([^']+)'", done.stdout, re.MULTILINE))
    # Trivial models get the labels of fine-tuning; DVC cannot watch a key that may be absent, so it watches the group.
    assert ran == {"baseline@motion", "finetune@motion", "evaluate@motion", "report"}
    assert "finetune.epochs" in finished.run("dvc", "params", "diff").stdout


def test_a_bad_parameter_stops_everything_before_anything_is_written(finished: Project) -> None:
    path = finished.root / "params.yaml"
    good = path.read_text()
    try:
        path.write_text(good.replace("strategy: everest", "strategy: evrest", 1))
        for command in (("everest", "run"), ("everest", "finetune", "motion")):
            done = finished.run(*command, check=False)
            assert done.returncode == 2
            assert "pretrain.strategy = 'evrest'" in done.stderr
            assert "Traceback" not in done.stderr
    finally:
        path.write_text(good)
