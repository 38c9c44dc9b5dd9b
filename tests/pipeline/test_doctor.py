"""What cannot be loaded is a failed check with its cure, beside all other checks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline import doctor


@pytest.mark.parametrize(("package", "failed"), [
    ("torch", {"devices"}), ("decord", {"decord decodes H.264"}),
    ("av", {"decord decodes H.264", "pyav decodes H.264"}), ("numpy", {"decoders"}),
])  # fmt: skip
def test_a_package_that_cannot_be_loaded_fails_its_check_alone(
    package: str, failed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # without parameters, nor data
    monkeypatch.setattr(doctor, "_beside", list)
    whole = {check["check"]: check for check in doctor.examine()}
    monkeypatch.setitem(sys.modules, package, None)
    checks = {check["check"]: check for check in doctor.examine()}
    changed = {name for name, check in checks.items() if check != whole.get(name) and name not in ("disk", "memory")}
    assert changed == failed
    assert {(checks[name]["status"], checks[name]["cure"]) for name in failed} == {("fail", "make install")}
    assert all(package in checks[name]["found"] for name in failed)
