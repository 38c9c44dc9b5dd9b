"""The dotted keys of params.yaml: `finetune.epochs`; `benchmarks.*` stands for any benchmark.

Content is what YAML holds before it is checked, or as DVC notes it: any value may stand under a key.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, MutableMapping

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaValue

from pipeline.params import names
from pipeline.params.schema import Params


def flatten(content: BaseModel | Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; lists stay whole."""
    items = content.model_dump() if isinstance(content, BaseModel) else content
    flat: dict[str, object] = {}
    for key, value in items.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def lookup(content: Mapping[str, object], dotted: str) -> object:
    """The value of a dotted key; None where it is absent."""
    node: object = content
    for part in dotted.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def replace(content: MutableMapping[str, object], dotted: str, value: object) -> None:
    """Set a dotted key; an absent group is made, so that the check of its keys names it."""
    *groups, last = dotted.split(".")
    for group in groups:
        below = content.get(group)
        if not isinstance(below, MutableMapping):
            below = content[group] = {}
        content = below
    content[last] = value


def nearest_key(key: str) -> str:
    """A cure for an unknown dotted key: the nearest one that exists."""
    return names.nearest(key, known_keys())


def known_keys() -> list[str]:
    """All dotted keys of params.yaml."""
    return sorted(key_schemas())


@functools.cache
def key_schemas() -> Mapping[str, JsonSchemaValue]:
    """Dotted key -> its type and bounds as a JSON schema without references and defaults."""
    full = Params.model_json_schema()
    return _leaves(full, full["$defs"], "")


def _leaves(node: JsonSchemaValue, definitions: JsonSchemaValue, prefix: str) -> dict[str, JsonSchemaValue]:
    node = _resolve(node, definitions)
    if "oneOf" in node:
        merged: dict[str, list[JsonSchemaValue]] = {}
        for choice in node["oneOf"]:
            for key, entry in _leaves(choice, definitions, prefix).items():
                merged.setdefault(key, []).append(entry)
        return {key: entries[0] if len(entries) == 1 else {"anyOf": entries} for key, entries in merged.items()}
    if "properties" in node:
        leaves: dict[str, JsonSchemaValue] = {}
        for name, child in node["properties"].items():
            leaves |= _leaves(child, definitions, f"{prefix}{name}.")
        return leaves
    if isinstance(node.get("additionalProperties"), dict):
        return _leaves(node["additionalProperties"], definitions, f"{prefix}*.")
    return {prefix.rstrip("."): _plain(node, definitions)}


def _resolve(node: JsonSchemaValue, definitions: JsonSchemaValue) -> JsonSchemaValue:
    while "$ref" in node:
        node = definitions[node["$ref"].rsplit("/", 1)[-1]]
    return node


def _plain(node: JsonSchemaValue, definitions: JsonSchemaValue) -> JsonSchemaValue:
    """A leaf with its references filled in and its default left out."""

    def filled(value: object) -> object:
        if isinstance(value, list):
            return [filled(item) for item in value]
        return _plain(value, definitions) if isinstance(value, dict) else value

    return {key: filled(value) for key, value in _resolve(node, definitions).items() if key != "default"}
