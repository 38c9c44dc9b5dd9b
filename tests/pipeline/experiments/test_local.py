"""`everest run` on this machine: what a second start is told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.errors import BusyError
from pipeline.experiments import local
from pipeline.experiments.stage import only_one


def test_a_second_start_is_refused_at_once_and_does_not_wait_for_the_first_ones_stage(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(root / "recipes" / "drawn.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local.preflight, "require", lambda *_: [])
    monkeypatch.setattr(local, "_QUIET", {})
    waited: list[object] = []
    monkeypatch.setattr(local.dvc_locks, "wait_until_free", waited.append)
    with only_one("experiment"), pytest.raises(BusyError, match="experiment runs already in"):
        local.run_experiment()
    assert not waited
