"""A params file that is written: whole, or by single keys with its comments kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.params import load_params
from pipeline.params.write import write_overrides, write_params


@pytest.fixture
def params_file(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(root / "recipes" / "drawn.yaml", tmp_path / "params.yaml"))


def test_overrides_are_written_and_comments_stay(params_file: Path) -> None:
    write_overrides(params_file, {"finetune.epochs": 2, "benchmarks.motion.finetune.epochs": 3})
    params = load_params(params_file)
    assert params.finetune.epochs == 2
    assert params.benchmark("motion").finetune.epochs == 3
    assert "# paper: 0.6" in params_file.read_text()


def test_a_bad_override_leaves_the_file_as_it_was(params_file: Path) -> None:
    before = params_file.read_bytes()
    with pytest.raises(InputError, match="finetune.epochs"):
        write_overrides(params_file, {"finetune.epochs": -1})
    assert params_file.read_bytes() == before


def test_written_parameters_are_read_as_the_same(params_file: Path, tmp_path: Path) -> None:
    params = load_params(params_file, {"seed": 7})
    write_params(tmp_path / "new" / "params.yaml", params)
    assert load_params(tmp_path / "new" / "params.yaml") == params
