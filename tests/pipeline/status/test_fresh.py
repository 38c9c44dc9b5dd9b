"""`everest status` in a project in which nothing ever ran, and in one whose params.yaml is broken."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_benchmark

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
    write_params(tmp_path / "params.yaml", small_benchmark.params())
    assert shown()[2:4] == [
        f"{tmp_path}  (recipe demo)",
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
