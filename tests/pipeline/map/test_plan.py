"""A map's plan: which cells it has, and what is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.errors import InputError
from pipeline.map.cells import key
from pipeline.map.plan import MapPlan, cells, load_plan, places
from pipeline.params import declared

PLAN = {
    "recipe": "scenes",
    "benchmark": "motion",
    "axes": {
        "mover": {
            "key": "benchmarks.motion.data.source.scene.mover_share", "values": [0.05, 0.15, 0.6], "centre": 0.15,
        },
        "keep": {"key": "pretrain.keep_ratio", "values": [0.5], "centre": 0.3},
    },
    "strategies": ["everest", "tube"],
    "seeds": [0, 1],
    "equal": ["multiply-adds", "epochs"],
}  # fmt: skip


def written(folder: Path, **changes: object) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**PLAN, **changes}, sort_keys=False))
    return path


def test_a_star_varies_one_axis_at_a_time_and_a_grid_all(tmp_path: Path) -> None:
    star = places(load_plan(written(tmp_path)))
    assert star == [
        {"mover": 0.15, "keep": 0.3},
        {"mover": 0.05, "keep": 0.3},
        {"mover": 0.6, "keep": 0.3},
        {"mover": 0.15, "keep": 0.5},
    ]
    grid = places(load_plan(written(tmp_path, design="grid")))
    assert [(place["mover"], place["keep"]) for place in grid] == [(0.05, 0.5), (0.15, 0.5), (0.6, 0.5)]


def test_a_cell_is_the_recipe_with_its_values_and_the_comparisons_of_the_plan(root: Path, tmp_path: Path) -> None:
    cell = cells(load_plan(written(tmp_path)), root / "recipes")[1]
    assert list(cell.params) == ["multiply-adds", "epochs"]
    params = cell.params["epochs"]
    source = params.benchmark("motion").data.source
    assert source.kind == "generated"
    assert source.scene is not None
    assert source.scene.mover_share == 0.05
    assert (params.compare.equal, params.compare.seeds, params.compare.benchmarks) == ("epochs", [0, 1], ["motion"])
    assert params.compare.strategies == ["everest", "tube"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": [1, 1]}, "seeds = [1, 1]: one is named twice"),
        ({"equal": ["money"]}, "equal.0"),
        ({"axes": {}}, "axes"),
        ({"strategy": "everest"}, "strategy: Extra inputs are not permitted"),
        ({"recipe": "nowhere"}, "nowhere.yaml"),
        ({"recipe": "../params"}, "recipes/params.yaml"),
        ({"overrides": {"compare.stop": "futile"}}, "compare.stop = futile: a strategy that is stopped has no score"),
        ({"strategies": ["everest", "tubes"]}, "the cell mover = 0.15, keep = 0.3: "),
        ({"axes": {"keep": {"key": "pretrain.keep", "values": [1], "centre": 0.3}}}, "pretrain.keep: unknown key"),
        ({"axes": {"a": {"key": "seed", "values": list(range(40)), "centre": 0}} | {
            name: {"key": "pretrain.epochs", "values": list(range(1, 40)), "centre": 1} for name in "bc"
        }, "design": "grid"}, "60840 cells, more than 500"),
    ],
)  # fmt: skip
def test_a_wrong_plan_is_refused_with_what_is_wrong(
    root: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError) as refused:
        cells(load_plan(written(tmp_path, **changes)), root / "recipes")
    assert words in str(refused.value)


def test_the_committed_plans_fit_their_recipes(root: Path) -> None:
    for path in sorted((root / "plans").glob("*.yaml")):
        plan = load_plan(path)
        assert isinstance(plan, MapPlan)
        assert len(cells(plan, root / "recipes")) == len(places(plan))


def test_a_cell_is_made_anew_where_any_part_of_the_code_gives_other_results(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cells(load_plan(written(tmp_path)), root / "recipes")[0]
    names = [key(cell)]
    for part in ("drawing", "networks", "optimisation", "scoring", "baselines"):
        raised = {**declared.versions(), part: 99}
        monkeypatch.setattr("pipeline.map.cells.versions", lambda raised=raised: raised)
        names.append(key(cell))
    assert len(set(names)) == len(names)
