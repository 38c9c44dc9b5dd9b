"""Rivals through `everest compare`, from pre-training to the paper's tables, over the smallest demo's data.

Stages are real, each in a process of its own; only the imports are shared (tests/kit/warm_stages.py).
"""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.strategies import compared_strategies
from tests.e2e.conftest import Project

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

#: One of each kind: the own way, other weights tested alike, one tested otherwise, one fine-tuned otherwise.
KINDS = ("everest", "adamae", "everest-tested-rlt", "everest-then-tome")
#: Every arm, and the two that take a number.
ALL = (
    "everest",
    *(name for name in compared_strategies() if name != "everest"),
    "everest-keep-0.4",
    "everest-share-0.6",
)


@dataclass
class Compared:
    """A finished comparison in a copy of the chain's project."""

    project: Project
    summary: dict[str, Any]

    def row(self, strategy: str) -> dict[str, Any]:
        return next(row for row in self.summary["results"] if row["strategy"] == strategy)


def compare(finished: Project, folder: Path, strategies: tuple[str, ...], timeout: float) -> Compared:
    shutil.copytree(finished.root, folder, symlinks=True)
    moved = {name: value.replace(str(finished.root), str(folder)) for name, value in finished.environment.items()}
    project = Project(folder, moved)
    helper = Path(__file__).parents[1] / "kit" / "warm_stages.py"
    project.run("python", str(helper), ",".join(strategies), timeout=timeout)
    return Compared(project, json.loads((folder / "outputs/compare/summary.json").read_text()))


@pytest.fixture(scope="module")
def kinds(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    return compare(finished, tmp_path_factory.mktemp("rivals") / "kinds", KINDS, 1500)


def check(compared: Compared, strategies: tuple[str, ...]) -> None:
    """Each is scored on all test videos, has its cost, is on the page and in the tracking store."""
    summary = compared.summary
    assert [row["strategy"] for row in summary["results"]] == list(strategies)
    assert [row["b"] for row in summary["differences"]] == list(strategies[1:])
    for row in summary["results"]:
        assert (row["videos"], row["benchmark"]) == (16, "motion")
        assert 0 <= row["top1_ci_low"] <= row["top1"] <= row["top1_ci_high"] <= 100
        assert row["test_gmacs_per_clip"] > 0
        assert row["test_clips_per_second"] > 0
    for cost in summary["costs"]:
        assert (cost["epochs"] > 0) == (cost["gmacs_per_clip"] > 0) == (cost["strategy"] != "scratch")
    page = (compared.project.root / "outputs/compare/report.md").read_text()
    assert all(f"| {name} |" in page for name in strategies)


def test_one_of_each_kind_runs_to_its_report(kinds: Compared) -> None:
    check(kinds, KINDS)
    everest, tested, tuned = (kinds.row(name) for name in ("everest", "everest-tested-rlt", "everest-then-tome"))
    # Of 128 tokens everest tests on 76; ToMe enters with all, RLT with those that change.
    assert everest["test_gmacs_per_clip"] < tuned["test_gmacs_per_clip"]
    assert tested["test_gmacs_per_clip"] != everest["test_gmacs_per_clip"]


def test_what_is_tested_otherwise_has_the_weights_of_the_first(kinds: Compared) -> None:
    folders = {
        one["strategy"]: kinds.project.root / ".work/compare" / one["folder"] for one in kinds.summary["trainings"]
    }
    first, tested, tuned = (
        json.loads((folders[name] / "outputs/finetune/motion/model.json").read_text())["weights_sha256"]
        for name in ("everest", "everest-tested-rlt", "everest-then-tome")
    )
    assert first == tested
    assert first != tuned


def test_every_number_of_the_paper_has_its_runs(kinds: Compared) -> None:
    written = json.loads(kinds.project.run("everest", "paper", "--json").stdout)
    assert written["numbers"] == written["numbers_with_runs"] > 0
    others = [line for line in written["left_out"] if not line.startswith("tube-seed0-")]
    assert others == [], "tube is of the demo's own comparison, which this one has replaced"
    with (kinds.project.root / "outputs/paper/numbers.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == "comparison" and row["number"] == "top-1 %"]
    assert [row["value"] for row in rows] == [f"{row['top1']:.1f}" for row in kinds.summary["results"]]
    assert len({row["runs"] for row in rows}) == len(KINDS)


def test_all_arms_run_to_their_report(finished: Project, tmp_path: Path) -> None:
    check(compare(finished, tmp_path / "all", ALL, 3000), ALL)
