"""Write a params file: a whole set of parameters, or single keys with the file's comments kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from pipeline.params.keys import replace
from pipeline.params.load import load_params
from pipeline.params.schema import Params


def write_params(path: Path, params: Params) -> None:
    """Write all parameters, defaults too, to a file whose folder is made if absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def write_overrides(path: Path, overrides: Mapping[str, object]) -> None:
    """Set dotted keys in a params file, keeping its comments; checked before the file is touched."""
    load_params(path, overrides)
    if not overrides:
        return
    from dvc.utils.serialize import modify_yaml

    with modify_yaml(str(path)) as content:
        for dotted, value in overrides.items():
            replace(content, dotted, value)
