"""A grid becomes experiments; a bad one is refused before any of them starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel, ValidationError

from flows.overrides import Grid
from flows.sweep import MOST, combinations
from pipeline.errors import InputError


class Parameters(BaseModel):
    grid: Grid


@pytest.fixture(autouse=True)
def _in_the_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def test_every_combination_is_one_experiment() -> None:
    result = combinations({"seed": [0, 1], "pretrain.keep_ratio": [0.3, 0.5]})
    assert result == [
        {"seed": 0, "pretrain.keep_ratio": 0.3},
        {"seed": 0, "pretrain.keep_ratio": 0.5},
        {"seed": 1, "pretrain.keep_ratio": 0.3},
        {"seed": 1, "pretrain.keep_ratio": 0.5},
    ]


@pytest.mark.parametrize(
    ("grid", "words"),
    [({}, "no key has no values"), ({"seed": []}, "seed has no values"), ({"seed": list(range(MOST + 1))}, "shorten")],
)
def test_an_empty_or_endless_grid_is_refused(grid: dict[str, list[Any]], words: str) -> None:
    with pytest.raises(InputError, match=f"{words}.*Cure|{words}"):
        combinations(grid)


@pytest.mark.parametrize(
    ("grid", "words"),
    [({"pretrain.keep_ratio": [0.3, 1.5]}, "maximum of 1"), ({"seed": 3}, "is not of type 'array'"),
     ({"sed": [1]}, "'sed' was unexpected")],
)  # fmt: skip
def test_the_schema_refuses_a_bad_grid_at_submission(grid: dict[str, Any], words: str) -> None:
    schema = Parameters.model_json_schema()["properties"]["grid"]
    jsonschema.validate({"pretrain.keep_ratio": [0.3, 0.5]}, schema)
    with pytest.raises(jsonschema.ValidationError, match=words):
        jsonschema.validate(grid, schema)


def test_the_flow_names_the_nearest_key() -> None:
    with pytest.raises(ValidationError, match="did you mean 'finetune.epochs'"):
        Parameters(grid={"finetune.epoch": [2]})
