"""The name of a flow run on Prefect's page: its recipe, then what was changed in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml
from prefect.runtime import flow_run

from pipeline.system.text import printable

#: [characters] of a name; a page shows no more.
LONGEST = 160


def run_name() -> str:
    """The name of the flow run that this process is: `demo`, `demo: finetune.epochs=2`.

    Without a recipe that of params.yaml. Prefect asks when the run begins, before the flow has checked anything: what
    cannot be read here is refused there.
    """
    parameters = flow_run.parameters
    recipe = parameters.get("recipe") or committed()
    return named(recipe, {**(parameters.get("grid") or {}), **(parameters.get("overrides") or {})})


def named(recipe: str, changes: Mapping[str, object]) -> str:
    """A recipe and its overrides on one line."""
    name = printable(f"{recipe}: {changed(changes)}" if changes else recipe)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."


def changed(changes: Mapping[str, object]) -> str:
    """`finetune.epochs=2, pretrain.keep_ratio=0.5`."""
    return ", ".join(f"{key}={value}" for key, value in changes.items())


def committed() -> str:
    """The recipe that params.yaml in the current folder names."""
    try:
        content = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        return str(content["recipe"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return "params.yaml"
