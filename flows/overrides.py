"""The type of a flow's `overrides`: dotted keys of params.yaml with their bounds, as a JSON schema.

Prefect checks a submission against this schema, so most mistakes are refused before a run exists; the flow checks the
rest (rules between keys) before its first stage.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, GetJsonSchemaHandler, ValidationInfo
from pydantic.functional_validators import AfterValidator
from pydantic_core import CoreSchema

from pipeline.params import Params, known_keys, nearest_key


class _OverridesSchema:
    """Publishes every dotted key with the bounds that params.yaml has for it."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        full = Params.model_json_schema()
        properties: dict[str, Any] = {}
        for key, entry in _leaves(full, full, ""):
            names = benchmark_names() if ".*." in key else ["*"]
            properties |= {key.replace("*", name, 1): entry for name in names}
        return {
            "type": "object",
            "title": "Overrides",
            "description": 'Dotted keys of params.yaml, for example {"finetune.epochs": 2}',
            "properties": properties,
            "additionalProperties": False,
        }


def benchmark_names() -> list[str]:
    """The benchmarks of params.yaml and of every recipe here: named, not as a pattern, so that a refusal is short."""
    files = [Path("params.yaml"), *sorted(Path("recipes").glob("*.yaml"))]
    return sorted({name for path in files if path.exists() for name in _names_in(path.read_text())})


@functools.cache
def _names_in(text: str) -> list[str]:
    try:
        found = yaml.safe_load(text).get("benchmarks", {})
    except (yaml.YAMLError, AttributeError, ValueError, RecursionError):  # the flow refuses it in words
        return []
    return [name for name in found if isinstance(name, str)] if isinstance(found, dict) else []


def _keys_are_known(value: dict[str, Any], _info: ValidationInfo) -> dict[str, Any]:
    known = known_keys()
    for key in value:
        general = re.sub(r"^benchmarks\.[^.]+\.", "benchmarks.*.", key)
        if general not in known:
            raise ValueError(f"overrides: {key}: unknown key. Cure: {nearest_key(key)}")
    return value


class _GridSchema(_OverridesSchema):
    """Publishes every dotted key with a list of values within its bounds."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        full = super().__get_pydantic_json_schema__(schema, handler)
        properties = {key: {"type": "array", "items": entry} for key, entry in full["properties"].items()}
        about = {"title": "Grid", "description": 'Dotted keys with lists, for example {"finetune.epochs": [2, 5]}'}
        return full | about | {"properties": properties}


Overrides = Annotated[dict[str, Any], AfterValidator(_keys_are_known), _OverridesSchema]
Grid = Annotated[dict[str, list[Any]], AfterValidator(_keys_are_known), _GridSchema]


def _leaves(node: dict[str, Any], full: dict[str, Any], prefix: str) -> list[tuple[str, dict[str, Any]]]:
    """All (dotted key, schema without references) below a JSON-schema node; `*` stands for a benchmark's name."""
    node = _resolve(node, full)
    found: list[tuple[str, dict[str, Any]]] = []
    choices = node.get("oneOf") or []
    if choices:
        for choice in choices:
            found += _leaves(choice, full, prefix)
        merged: dict[str, list[dict[str, Any]]] = {}
        for key, entry in found:
            merged.setdefault(key, []).append(entry)
        return [(key, entries[0] if len(entries) == 1 else {"anyOf": entries}) for key, entries in merged.items()]
    if "properties" in node:
        for name, child in node["properties"].items():
            found += _leaves(child, full, f"{prefix}{name}.")
        return found
    if isinstance(node.get("additionalProperties"), dict):
        return _leaves(node["additionalProperties"], full, f"{prefix}*.")
    return [(prefix.rstrip("."), _without_references(node, full))]


def _resolve(node: dict[str, Any], full: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = full["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def _without_references(node: Any, full: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        node = _resolve(node, full)
        return {key: _without_references(value, full) for key, value in node.items() if key != "default"}
    if isinstance(node, list):
        return [_without_references(item, full) for item in node]
    return node


def json_schema() -> dict[str, Any]:
    """The schema of `overrides` alone, as Prefect publishes it."""

    class Holder(BaseModel):
        overrides: Overrides = {}

    return Holder.model_json_schema()["properties"]["overrides"]
