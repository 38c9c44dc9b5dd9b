"""The stage that says what trivial models reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_training import ready

from pipeline import layout
from pipeline.errors import InputError
from pipeline.stages import baseline


def test_trivial_models_are_scored_on_the_split_that_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = ready()
    rows = baseline.run(params, "small")
    assert len(rows) == 7
    assert rows == json.loads((layout.output_dir("baseline", "small") / "baselines.json").read_text())
    again = baseline.run(params, "small")
    assert again == rows, "a second run gives the same numbers"


def test_a_benchmark_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="everest baseline NAME"):
        baseline.run(ready(), None)
