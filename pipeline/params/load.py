"""Reading params.yaml: misspelt keys and values out of bounds are refused with the key, the value, the bound, the cure.

Imports only pydantic and PyYAML, so that flows can validate without torch.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from pipeline.errors import InputError
from pipeline.params import names
from pipeline.params.consistency import faults
from pipeline.params.file import parse_mapping, read_text
from pipeline.params.schema import Params


def load_params(path: Path | str = "params.yaml", overrides: Mapping[str, object] | None = None) -> Params:
    """Read and check a params file.

    Args:
        path: a YAML file with the keys of :class:`Params`.
        overrides: dotted key -> value, applied before the check (`{"finetune.epochs": 2}`).

    Raises:
        InputError: the file is missing or not plain YAML, or a key or value is wrong; one line for each fault.
    """
    path = Path(path)
    return params_from_text(read_text(path), path, overrides)


def params_from_text(text: str, path: Path, overrides: Mapping[str, object] | None = None) -> Params:
    """Parse and check the text of a params file; see :func:`load_params`."""
    raw = parse_mapping(text, path)
    for key, value in (overrides or {}).items():
        _set_dotted(raw, key, value)
    return check_params(raw, str(path))


def check_params(raw: dict[str, Any], origin: str = "params") -> Params:
    """Validate an already parsed mapping; see :func:`load_params`."""
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(origin, item) for item in error.errors()]
        raise InputError("\n".join(lines)) from None
    if found := faults(params):
        raise InputError("\n".join(f"{origin}: {line}" for line in found))
    return params


def known_keys() -> list[str]:
    """All dotted keys of params.yaml; `benchmarks.*` stands for any benchmark."""
    return sorted(_walk(Params, ""))


def flatten(params: BaseModel | dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`; lists stay whole."""
    items = params.model_dump() if isinstance(params, BaseModel) else params
    flat: dict[str, Any] = {}
    for key, value in items.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def nearest_key(key: str) -> str:
    """A cure for an unknown dotted key: the nearest one that exists."""
    return names.nearest(key, known_keys())


def _set_dotted(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    node: Any = raw
    for part in parents:
        # A missing group is created, so that validation names it; its keys are checked there.
        if isinstance(node, dict) and not isinstance(node.get(part), dict):
            node[part] = {}
        node = node[part]
    node[last] = value


def _explain(origin: str, item: Any) -> str:
    parts = [str(part) for part in item["loc"]]
    # The kind of a source stands behind `source` in pydantic's place, and is no key.
    kept = [part for before, part in zip(["", *parts], parts, strict=False) if before != "source" or len(parts) < 5]
    where = [part[:100] for part in (kept if "source" in parts else parts)]
    key = ".".join(where)
    if item["type"] == "extra_forbidden":
        return f"{origin}: {key}: unknown key. Cure: {nearest_key(key)}"
    if item["type"] == "missing":
        return f"{origin}: {key}: missing. Cure: add it; `everest recipe show demo` has an example."
    if item["type"] == "value_error":
        message = str(item["ctx"]["error"])
        if not key:
            return "\n".join(f"{origin}: {line}" for line in message.splitlines())
        return f"{origin}: {key}{'.' if isinstance(item['input'], dict) else ': '}{message}"
    message = item["msg"].replace("Input should be", "expected").strip()
    shown = repr(item["input"])
    shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
    return f"{origin}: {key} = {shown}: {message}. Cure: {_cure(key, item['input'], item['type'])}"


def _cure(key: str, value: Any, fault: str) -> str:
    if fault in ("float_type", "int_type") and isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return f"set {key} to a number."
        return f"YAML reads {value} as text: write {int(number) if fault == 'int_type' else format(number, '.1e')}."
    return f"set {key} within that bound."


def _walk(group: type[BaseModel], prefix: str) -> list[str]:
    keys: list[str] = []
    for name, field in group.model_fields.items():
        models = _models_in(field.annotation)
        if not models:
            keys.append(f"{prefix}{name}")
        middle = "*." if get_origin(field.annotation) is dict or "dict[" in str(field.annotation) else ""
        for model in models:
            keys += _walk(model, f"{prefix}{name}.{middle}")
    return list(dict.fromkeys(keys))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, dict, Annotated, list):
        return [model for part in get_args(annotation) for model in _models_in(part)]
    return []
