"""The plan of a map: a recipe, what is varied of it, and what is compared in each cell."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from pipeline.audit.on_map import Value, place_words
from pipeline.errors import InputError
from pipeline.params import Params, load_params
from pipeline.params.file import parse_mapping, read_text
from pipeline.params.parts.kinds import Group

#: What pre-trainings of one cell may spend alike.
Equal = Literal["multiply-adds", "wall-time", "epochs"]
#: Cells of one map; each is several trainings.
MOST = 500


class Axis(Group):
    """One thing that is varied: a dotted key of params.yaml, its values, the one that it has elsewhere, its unit."""

    key: str
    values: Annotated[list[Value], Field(min_length=1, max_length=50)]
    centre: Value
    unit: str = ""


class MapPlan(Group):
    """A plan file.

    Attributes:
        recipe: of recipes/, without `.yaml`; `overrides` are put into it for all cells.
        axes: name -> what is varied.
        design: `star` varies one axis at a time around the centre, `grid` takes every combination.
        benchmark: that strategies are fine-tuned and tested on; its drawn videos are those of a cell.
        strategies: the second is compared with the first, which sets the budget; and so on.
    """

    recipe: str
    benchmark: str
    overrides: dict[str, Value | list[Value]] = Field(default_factory=dict)
    axes: Annotated[dict[str, Axis], Field(min_length=1, max_length=8)]
    design: Literal["star", "grid"] = "star"
    strategies: Annotated[list[str], Field(min_length=2, max_length=10)]
    seeds: Annotated[list[int], Field(min_length=1, max_length=100)]
    equal: Annotated[list[Equal], Field(min_length=1, max_length=3)]

    @model_validator(mode="after")
    def _each_once(self) -> MapPlan:
        for name in ("strategies", "seeds", "equal"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} = {values}: one is named twice. Cure: name each once.")
        return self


@dataclass(frozen=True)
class Cell:
    """One place of the map: the value of each axis, and the parameters with one of `equal` for each comparison."""

    place: Mapping[str, Value]
    params: Mapping[Equal, Params]

    @property
    def name(self) -> str:
        return place_words(self.place)

    @property
    def any_params(self) -> Params:
        """Of any of its comparisons: they differ in what is alike, not in the videos."""
        return next(iter(self.params.values()))


def load_plan(path: Path) -> MapPlan:
    """Read a plan file.

    Raises:
        InputError: it is missing, not plain YAML, or a key or value is wrong.
    """
    content = parse_mapping(read_text(path), path)
    try:
        return MapPlan.model_validate(content)
    except ValidationError as error:
        lines = [
            f"{path}: {'.'.join(str(part) for part in item['loc'])}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors()
        ]
        raise InputError("\n".join(lines) + "\nCure: plans/map.yaml is an example.") from None


def places(plan: MapPlan) -> list[dict[str, Value]]:
    """The value of each axis at each cell, each cell once; the centre first in a star.

    Raises:
        InputError: more than MOST.
    """
    centre = {name: axis.centre for name, axis in plan.axes.items()}
    if plan.design == "star":
        found = [centre, *({**centre, name: value} for name, axis in plan.axes.items() for value in axis.values)]
    else:
        found = [
            dict(zip(plan.axes, values, strict=True))
            for values in itertools.product(*(axis.values for axis in plan.axes.values()))
        ]
    once = list({tuple(place.items()): place for place in found}.values())
    if len(once) > MOST:
        raise InputError(f"the plan has {len(once)} cells, more than {MOST}. Cure: fewer values, or design: star.")
    return once


def cells(plan: MapPlan, recipes: Path) -> list[Cell]:
    """Every cell with its checked parameters.

    Raises:
        InputError: no such recipe, or a cell's key or value is wrong; names the cell.
    """
    file = recipes / f"{Path(plan.recipe).name}.yaml"
    return [Cell(place, {equal: _params(plan, place, equal, file) for equal in plan.equal}) for place in places(plan)]


def _params(plan: MapPlan, place: Mapping[str, Value], equal: Equal, file: Path) -> Params:
    overrides: dict[str, object] = {
        **plan.overrides,
        **{plan.axes[axis].key: value for axis, value in place.items()},
        "compare.strategies": list(plan.strategies),
        "compare.seeds": list(plan.seeds),
        "compare.equal": equal,
        "compare.benchmarks": [plan.benchmark],
    }
    try:
        params = load_params(file, overrides)
        if params.compare.stop is not None:
            raise InputError(
                f"compare.stop = {params.compare.stop}: a strategy that is stopped has no score in its cell, expected "
                "none for a map. Cure: `compare.stop: null` among the plan's overrides."
            )
        return params
    except InputError as error:
        where = ", ".join(f"{axis} = {value}" for axis, value in place.items())
        raise InputError(f"the cell {where}: {error}") from None
