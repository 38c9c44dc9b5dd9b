"""Reading params.yaml: misspelt keys and values out of bounds are refused with the key, the value, the bound, the cure.

Imports only pydantic and PyYAML, so that flows can validate without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import InputError
from pipeline.params.benchmarks import STEP_KINDS
from pipeline.params.consistency import faults
from pipeline.params.file import parse_mapping, read_text
from pipeline.params.keys import nearest_key, replace
from pipeline.params.schema import Params

#: No whole number of params.yaml is larger; its digits would fill lines.
MOST_WHOLE = 10**15


def load_params(path: Path | str = "params.yaml", overrides: Mapping[str, object] | None = None) -> Params:
    """Read and check a params file.

    Args:
        path: a YAML file with the keys of :class:`Params`.
        overrides: dotted key -> value, applied before the check (`{"finetune.epochs": 60}`).

    Raises:
        InputError: the file is missing or not plain YAML, or a key or value is wrong; one line for each fault.
    """
    path = Path(path)
    return params_from_text(read_text(path), path, overrides)


def params_from_text(text: str, path: Path, overrides: Mapping[str, object] | None = None) -> Params:
    """Parse and check the text of a params file; see :func:`load_params`."""
    return check_params(parse_mapping(text, path), str(path), overrides)


def with_overrides(params: Params, overrides: Mapping[str, object]) -> Params:
    """Parameters with dotted keys replaced, checked again."""
    return check_params(params.model_dump(mode="json"), "comparison", overrides)


def check_params(
    content: dict[str, object], origin: str = "params", overrides: Mapping[str, object] | None = None
) -> Params:
    """Validate an already parsed mapping, overrides put in; see :func:`load_params`."""
    for key, value in (overrides or {}).items():
        replace(content, key, value)
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        raise InputError("\n".join(_explain(origin, item) for item in error.errors())) from None
    if lines := faults(params):
        raise InputError("\n".join(f"{origin}: {line}" for line in lines))
    return params


def _explain(origin: str, item: ErrorDetails) -> str:
    parts = [str(part) for part in item["loc"] if part not in STEP_KINDS]
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


def _cure(key: str, value: object, fault: str) -> str:
    if fault not in ("float_type", "int_type") or not isinstance(value, str):
        return f"set {key} within that bound."
    wanted = "a whole number" if fault == "int_type" else "a number"
    try:
        number, exact = float(value), Decimal(value)
    except (ValueError, InvalidOperation):
        return f"set {key} to {wanted}."
    if fault == "int_type" and abs(number) <= MOST_WHOLE and number.is_integer():
        return f"YAML reads {value} as text: write {int(number)}."
    if fault == "float_type" and math.isfinite(number):
        # YAML 1.1 wants a point before the exponent, and a sign in it.
        digits, exponent = f"{exact:e}".split("e")
        digits += "" if "." in digits else ".0"
        return f"YAML reads {value} as text: write {digits}e{int(exponent):+03d}."
    return f"set {key} to {wanted}."
