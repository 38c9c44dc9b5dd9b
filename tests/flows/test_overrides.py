"""Overrides are refused at submission by a JSON schema, and by name of the nearest key in the flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from flows.overrides import Overrides


class Parameters(BaseModel):
    overrides: Overrides = {}


@pytest.fixture(autouse=True)
def _in_the_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def test_good_overrides_pass_both_checks() -> None:
    good = {"finetune.epochs": 2, "benchmarks.motion.finetune.base_lr": 0.01, "pretrain.clip_grad": None}
    jsonschema.validate(good, TypeAdapter(Overrides).json_schema())
    assert Parameters(overrides=good).overrides == good


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"finetune.epochs": 0}, "minimum of 1"),
        ({"pretrain.keep_ratio": 1.5}, "maximum of 1"),
        ({"finetune.epochs": "two"}, "is not of type 'integer'"),
        ({"finetune.epoks": 2}, "'finetune.epoks' was unexpected"),
    ],
)
def test_the_schema_refuses_a_bad_override_at_submission(bad: dict[str, Any], words: str) -> None:
    with pytest.raises(jsonschema.ValidationError, match=words):
        jsonschema.validate(bad, TypeAdapter(Overrides).json_schema())


def test_the_flow_names_the_nearest_key() -> None:
    with pytest.raises(ValidationError, match="did you mean 'finetune.epochs'"):
        Parameters(overrides={"finetune.epoch": 2})
