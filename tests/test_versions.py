"""Results that change without their version: DVC would call models and caches of before up to date."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.params.declared import read_versions
from tests import golden


@pytest.mark.parametrize("part", golden.PARTS)
def test_a_part_gives_what_is_recorded_for_its_version(part: str) -> None:
    entry, version = golden.recorded()[part], read_versions()[part]
    unchanged = golden.same(entry, golden.result(part))
    assert unchanged or entry["version"] < version, (
        f"{part} gives other results than version {version} did. Cure: raise its number in versions.yaml, so that DVC "
        "makes the stages stale that it touches, then `python -m tests.golden`."
    )
    assert entry["version"] == version, "Cure: `python -m tests.golden` records what this version gives."


def test_every_part_of_the_file_has_a_test() -> None:
    assert set(golden.PARTS) == set(read_versions()) == set(golden.recorded())


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "golden.json"
    path.write_text(golden.RECORDED.read_text())
    monkeypatch.setattr(golden, "RECORDED", path)
    monkeypatch.setattr(golden, "PARTS", {"sampling": golden.PARTS["sampling"]})
    return path


def test_a_change_is_recorded_only_with_a_raised_version(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.data import sampling

    now = read_versions()["sampling"]
    assert golden.record({"sampling": now}) == []
    before = copy.read_text()
    plain = sampling.epoch_order
    monkeypatch.setattr(sampling, "epoch_order", lambda *arguments: plain(*arguments)[::-1])
    assert not golden.same(golden.recorded()["sampling"], golden.result("sampling"))
    assert golden.record({"sampling": now}) == ["sampling"]
    assert copy.read_text() == before
    assert golden.record({"sampling": now + 1}) == []
    assert json.loads(copy.read_text())["sampling"]["version"] == now + 1


def test_last_digits_of_another_processor_are_no_change() -> None:
    entry = golden.recorded()["networks"]
    other = {**entry, "close": (np.asarray(entry["close"]) + 2e-5).tolist()}
    assert golden.same(entry, other)
    assert not golden.same(entry, {**entry, "close": (np.asarray(entry["close"]) + 2e-3).tolist()})
