"""The lines at a stage's start and end, and those that a comparison's log repeats."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flows.chain.lines import told_lines_of
from flows.chain.repro import Outcome, StageFailed, StageStopped
from flows.chain.telling import told
from pipeline.errors import EverestError
from pipeline.experiments.workspace import Workspace
from pipeline.layout import metrics_file


def place(folder: Path) -> Workspace:
    return Workspace("run", folder, folder, {})


@pytest.mark.parametrize(
    ("stage", "metrics", "words"),
    [
        ("pretrain", {"train/loss": 0.5321}, "loss 0.532"),
        ("finetune@a", {"train/loss": 0.1, "val/top1": 0.875}, "loss 0.100, validation top-1 87.5 %"),
        (
            "evaluate@a",
            {"eval/top1": 0.821, "eval/top1_ci_low": 0.8, "eval/top1_ci_high": 0.84, "eval/videos_ok": 9,
             "eval/videos_total": 10},
            "top-1 82.1 % (95 % interval 80.0 to 84.0), 9 of 10 videos",
        ),
        ("download@a", {"data/videos_ok": 15, "data/videos_total": 16}, "15 of 16 videos"),
    ],
)  # fmt: skip
def test_a_stage_has_a_line_at_its_start_and_one_with_time_and_result_at_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, metrics: dict[str, float], words: str
) -> None:
    name, _, benchmark = stage.partition("@")
    path = tmp_path / metrics_file(name, benchmark or None)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(metrics))
    assert told(stage, place(tmp_path), lambda _: Outcome.RAN) is Outcome.RAN
    first, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"\d\d:\d\d:\d\d {stage}: started", first)
    assert re.fullmatch(rf"\d\d:\d\d:\d\d {stage}: ran in 0:00, {re.escape(words)}", last)


def test_a_stage_without_numbers_says_what_dvc_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told("compare/dvc.yaml:compare", place(tmp_path), lambda _: Outcome.UNCHANGED)
    assert capsys.readouterr().err.endswith("compare: unchanged in 0:00\n")


@pytest.mark.parametrize(("error", "word"), [(StageFailed("x"), "failed"), (StageStopped("x"), "stopped")])
def test_a_stage_that_does_not_finish_has_its_line_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: EverestError, word: str
) -> None:
    def run(_: Workspace) -> Outcome:
        raise error

    with pytest.raises(type(error)):
        told("pretrain", place(tmp_path), run)
    assert f"pretrain: {word} after 0:00" in capsys.readouterr().err


def test_a_comparisons_trainings_are_told_as_its_log_grows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "compare.log"
    log.write_text("[mpeg4 @ 0x55] noise\n")
    with told_lines_of(log), log.open("a") as file:
        file.write("[1/2] everest, seed 0: pretrain sta")
        file.flush()
        file.write("rted\n> everest compare\n[2/2] scratch, seed 0: pretrain started\n")
        file.write("ranks: rank 1 (process 7) is gone at step 5.\n")
    output = capsys.readouterr().err.splitlines()
    assert [line[9:] for line in output] == [
        "[1/2] everest, seed 0: pretrain started", "[2/2] scratch, seed 0: pretrain started",
        "ranks: rank 1 (process 7) is gone at step 5.",
    ]  # fmt: skip
