"""The type of a flow's `overrides`: dotted keys of params.yaml with their bounds, as a JSON schema.

Prefect checks a submission against this schema, so most mistakes are refused before a run exists; the flow checks the
rest (rules between keys) before its first stage.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import GetJsonSchemaHandler
from pydantic.functional_validators import AfterValidator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from pipeline.params import key_schemas, known_keys, nearest_key


class _OverridesSchema:
    """Publishes every dotted key with the bounds that params.yaml has for it."""

    title = "Overrides"
    description = 'Dotted keys of params.yaml, for example {"finetune.epochs": 60}'

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        properties: dict[str, JsonSchemaValue] = {}
        for key, entry in key_schemas().items():
            names = benchmark_names() if ".*." in key else ["*"]
            properties |= {key.replace("*", name, 1): cls.value(entry) for name in names}
        return {
            "type": "object",
            "title": cls.title,
            "description": cls.description,
            "properties": properties,
            "additionalProperties": False,
        }

    @staticmethod
    def value(entry: JsonSchemaValue) -> JsonSchemaValue:
        return entry


class _GridSchema(_OverridesSchema):
    """Publishes every dotted key with a list of values within its bounds."""

    title = "Grid"
    description = 'Dotted keys with lists, for example {"finetune.epochs": [2, 5]}'

    @staticmethod
    def value(entry: JsonSchemaValue) -> JsonSchemaValue:
        return {"type": "array", "items": entry}


def benchmark_names() -> list[str]:
    """The benchmarks of params.yaml and of every recipe here: named, not as a pattern, so that a refusal is short."""
    files = [Path("params.yaml"), *sorted(Path("recipes").glob("*.yaml"))]
    return sorted({name for path in files if path.exists() for name in _names_in(path.read_text())})


@functools.cache
def _names_in(text: str) -> list[str]:
    try:
        benchmarks = yaml.safe_load(text).get("benchmarks", {})
    except (yaml.YAMLError, AttributeError, ValueError, RecursionError):  # the flow refuses it in words
        return []
    return [name for name in benchmarks if isinstance(name, str)] if isinstance(benchmarks, dict) else []


def _keys_are_known(value: dict[str, object]) -> dict[str, object]:
    known = known_keys()
    for key in value:
        general = re.sub(r"^benchmarks\.[^.]+\.", "benchmarks.*.", key)
        if general not in known:
            raise ValueError(f"overrides: {key}: unknown key. Cure: {nearest_key(key)}")
    return value


Overrides = Annotated[dict[str, object], AfterValidator(_keys_are_known), _OverridesSchema]
Grid = Annotated[dict[str, list[object]], AfterValidator(_keys_are_known), _GridSchema]
