"""A grid of parameters: one experiment for each combination, one after another, and a table of them all."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from prefect import flow, get_run_logger

from flows.artifacts import publish_sweep
from flows.experiment import experiment
from flows.isolated import checked
from flows.names import changed, named, run_name
from flows.overrides import Grid, Overrides
from pipeline.errors import EverestError, InputError

#: More experiments than anybody means to start by one command.
MOST = 100


@flow(name="sweep", flow_run_name=run_name, validate_parameters=True)
def sweep(grid: Grid, recipe: str | None = None, overrides: Overrides = {}) -> dict[str, object]:  # noqa: B006
    """Run an experiment for every combination of the grid's values. What they share is computed once.

    Args:
        grid: dotted keys of params.yaml with lists of values, for example `{"pretrain.keep_ratio": [0.3, 0.5]}`.
        recipe: a file of recipes/ without `.yaml`; the committed params.yaml if left out.
        overrides: dotted keys that all have in common.

    Raises:
        InputError: a combination is not valid; nothing was started.
        EverestError: some experiments failed; the others are finished and in the table.
    """
    points = combinations(grid)
    for point in points:
        checked(Path.cwd(), recipe, {**overrides, **point})
    rows, failed = [], []
    for number, point in enumerate(points, 1):
        name = changed(point)
        get_run_logger().info("%d of %d: %s", number, len(points), name)
        # A function, since Prefect fills in a text's braces; the recipe is the sweep's and stands in its name.
        titled = experiment.with_options(flow_run_name=functools.partial(named, name, {}))
        state = titled(recipe, {**overrides, **point}, return_state=True)
        if state.is_completed():
            results = cast(list[dict[str, object]], state.result()["results"])
            rows += [{**point, **row} for row in results]
        else:
            failed.append(name)
            rows.append({**point, "failed": state.message or state.name})
    publish_sweep(rows)
    if failed:
        raise EverestError(
            f"{len(failed)} of {len(points)} experiments failed: {'; '.join(failed)}. "
            "Cure: mend what their logs name and start the sweep again; finished ones are not repeated."
        )
    return {"experiments": len(points), "results": rows}


def combinations(grid: Mapping[str, Sequence[object]]) -> list[dict[str, object]]:
    """Every combination of the grid's values, the last key running fastest.

    Raises:
        InputError: no key, no value, or too many combinations.
    """
    empty = [key for key, values in grid.items() if not values]
    if not grid or empty:
        raise InputError(
            f"grid: {', '.join(empty) or 'no key'} has no values. "
            'Cure: name keys with lists, for example {"pretrain.keep_ratio": [0.3, 0.5]}.'
        )
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if len(points) > MOST:
        raise InputError(f"grid: {len(points)} combinations, more than {MOST}. Cure: shorten the lists.")
    return points
