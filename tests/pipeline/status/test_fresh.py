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


def lay_out_killed(root: Path, work: Path, files: dict[Path, str]) -> None:
    """A project with a stage that was killed without a word, begun two and a half hours ago, and more files."""
    write_params(root / "params.yaml", small_benchmark.params())
    run, began = root / ".work" / "runs" / "one", time.time() - 9000
    gone = {"pid": 1, "start": 1, "boot": "of another day", "host": socket.gethostname()}
    record = {"kind": "stage", "status": "RUNNING", "owner": gone, "started": 1000 * began}
    told = {run / "run.json": json.dumps(record), run / "spool.jsonl": "", work / "tracking.json": '{"run": "one"}'}
    for path, content in (told | files).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    os.utime(run / "spool.jsonl", (began, began))


def heard_of(path: Path, seconds: float) -> None:
    """Let a file be last written so long ago."""
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_a_comparison_that_was_killed_says_when_it_was_heard_of_last_and_what_continues_it(tmp_path: Path) -> None:
    log = tmp_path / ".work" / "logs" / "flow" / "compare.log"
    work = tmp_path / ".work" / "compare" / "all" / "key"
    lay_out_killed(tmp_path, work, {log: "[1/2] tube, seed 0: pretrain started\n"})
    heard_of(log, 130)
    (stage,) = Looker().look().checkouts[0].stages
    assert stage.state == "killed"
    assert stage.sentence == "killed without a word 2 min ago; `everest compare` continues"


def test_a_killed_training_is_not_heard_of_by_the_log_of_another_flow_run(tmp_path: Path) -> None:
    work, later = tmp_path / ".work" / "pretrain" / "all" / "key", tmp_path / ".work" / "logs" / "later"
    steps = "step,epoch,loss,lr,grad_norm,val_loss,val_top1,val_top5,seconds\n1,0,0.9,0.001,1.0,,,,0.5\n"
    files = {work / "history.csv": steps, later / "pretrain.log": "another training, now\n"}
    lay_out_killed(tmp_path, work, files)
    heard_of(work / "history.csv", 7500)
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
