"""`everest status` in a project in which nothing ever ran, and in one whose params.yaml is broken."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest
import small_benchmark

from pipeline.budget.ledger import Execution, named_ledger, write_execution
from pipeline.params.write import write_params
from pipeline.status import look
from pipeline.status.look import Looker
from pipeline.status.screen import MOST_FAULT, screen


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without anything, and nothing else of ours on this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(look, "ours", list)
    monkeypatch.setattr(look, "ask_prefect", lambda roots: None)


def shown() -> list[str]:
    return [text for text, _ in screen(Looker().look())]


def test_a_folder_that_is_no_project_is_told_where_to_start() -> None:
    assert shown()[1].startswith("Nothing runs, waits or was stopped here. `everest run` in a project")


def test_a_fresh_project_is_listed_and_told_what_starts(tmp_path: Path) -> None:
    params = small_benchmark.params()
    write_params(tmp_path / "params.yaml", params)
    assert shown()[2:4] == [
        f"{tmp_path}  (recipe {params.recipe})",
        "  nothing runs, waits or was stopped here; `everest run` starts",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: [1", "params.yaml is not valid YAML: "),
        ("benchmarks: {}\n", "params.yaml: "),
    ],
)
def test_broken_params_are_named_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    lines = shown()[2:]
    assert lines[0] == f"{tmp_path}  (params.yaml cannot be read)"
    assert lines[1].strip().startswith(reason)
    assert len(lines[1]) < MOST_FAULT + 10
    assert lines[2] == "  nothing runs, waits or was stopped here"
    assert Looker().look().checkouts[0].fault.startswith(reason)


def test_a_comparison_that_was_killed_says_when_it_was_heard_of_last_and_what_continues_it(tmp_path: Path) -> None:
    write_params(tmp_path / "params.yaml", small_benchmark.params())
    run, work = tmp_path / ".work" / "runs" / "one", tmp_path / ".work" / "compare" / "all" / "key"
    log = tmp_path / ".work" / "logs" / "flow" / "compare.log"
    now = time.time()
    gone = {"pid": 1, "start": 1, "boot": "of another day", "host": socket.gethostname()}
    for path, content in (
        (run / "run.json", {"kind": "stage", "status": "RUNNING", "owner": gone, "started": 1000 * (now - 9000)}),
        (run / "spool.jsonl", ""),
        (work / "tracking.json", {"run": "one"}),
        (log, "[1/2] tube, seed 0: pretrain started\n"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    os.utime(run / "spool.jsonl", (now - 9000, now - 9000))
    os.utime(log, (now - 130, now - 130))
    (stage,) = Looker().look().checkouts[0].stages
    assert stage.state == "killed"
    assert stage.sentence == "killed without a word 2 min ago; `everest compare` continues"


def test_a_killed_training_is_not_heard_of_by_the_log_of_another_flow_run(tmp_path: Path) -> None:
    write_params(tmp_path / "params.yaml", small_benchmark.params())
    run, work = tmp_path / ".work" / "runs" / "one", tmp_path / ".work" / "pretrain" / "all" / "key"
    history, now = work / "history.csv", time.time()
    gone = {"pid": 1, "start": 1, "boot": "of another day", "host": socket.gethostname()}
    for path, content in (
        (run / "run.json", {"kind": "stage", "status": "RUNNING", "owner": gone, "started": 1000 * (now - 9000)}),
        (run / "spool.jsonl", ""),
        (work / "tracking.json", {"run": "one"}),
        (history, "step,epoch,loss,lr,grad_norm,val_loss,val_top1,val_top5,seconds\n1,0,0.9,0.001,1.0,,,,0.5\n"),
        (tmp_path / ".work" / "logs" / "later" / "pretrain.log", "another training, now\n"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    os.utime(run / "spool.jsonl", (now - 9000, now - 9000))
    os.utime(history, (now - 7500, now - 7500))
    (stage,) = Looker().look().checkouts[0].stages
    assert stage.sentence.startswith("killed without a word 2 h ago at step 1")


def test_what_is_spent_of_a_budget_is_told(tmp_path: Path) -> None:
    params = small_benchmark.params(compute__budget={"hours": 2.0, "kwh": 1.0}, compute__device="cpu")
    write_params(tmp_path / "params.yaml", params)
    now = time.time()
    write_execution(
        named_ledger(params, work=tmp_path / ".work") / "1.json", Execution("pretrain", now - 1800, now, 0, None)
    )
    assert "  budget: 0.5 of 2 h, unknown of 1 kWh spent" in shown()
