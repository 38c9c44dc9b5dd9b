"""The flow's order is an order of dvc.yaml's own graph."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.chain.stages import COMPARE, chain, comparison_chain, data_chain
from pipeline.params import load_params


@pytest.fixture(scope="module")
def edges(root: Path) -> set[tuple[str, str]]:
    """(stage, a stage that it waits for), as DVC sees them."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return {(str(after.addressing), str(before.addressing)) for after, before in repo.index.graph.edges}


def test_the_flow_runs_the_stages_of_dvc_yaml_and_no_other(root: Path, edges: set[tuple[str, str]]) -> None:
    params = load_params(root / "params.yaml")
    names = [stage.name for stage in chain(params)]
    assert len(names) == len(set(names))
    assert {*names, COMPARE} == {name for edge in edges for name in edge}
    assert set(names) > {stage.name for stage in data_chain(params)}


def test_the_flow_runs_every_stage_after_those_it_depends_on(root: Path, edges: set[tuple[str, str]]) -> None:
    params = load_params(root / "params.yaml")
    for stages in (chain(params), comparison_chain(params)):
        place = {stage.name: index for index, stage in enumerate(stages)}
        for stage, needed in edges:
            if stage in place:
                assert place[needed] < place[stage], f"{stage} runs before {needed}"


def test_the_flow_waits_for_every_edge_of_the_graph(root: Path, edges: set[tuple[str, str]]) -> None:
    params = load_params(root / "params.yaml")
    stages = {stage.name: stage for stage in (*chain(params), *comparison_chain(params))}

    def ancestors(name: str) -> set[str]:
        return set(stages[name].after).union(*(ancestors(before) for before in stages[name].after), set())

    for stage, needed in edges:
        assert needed in ancestors(stage), f"{stage} does not wait for {needed}"


def test_converted_weights_need_no_pretraining(root: Path) -> None:
    params = load_params(root / "params.yaml", {"finetune.init": "weights/official"})
    assert not [stage.name for stage in chain(params) if "pretrain" in stage.name or "corpus" in stage.name]


def test_from_scratch_depends_on_a_file_that_every_checkout_has(root: Path, tmp_path: Path) -> None:
    import shutil
    import subprocess

    from dvc.repo import Repo

    from pipeline.params import SCRATCH

    tracked = ["git", "ls-files", "--error-unmatch", SCRATCH]
    assert subprocess.run(tracked, cwd=root, capture_output=True, check=False).returncode == 0
    for name in ("dvc.yaml", SCRATCH):
        shutil.copyfile(root / name, tmp_path / name)
    text = (root / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("init: outputs/pretrain", f"init: {SCRATCH}"))
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        finetune = next(stage for stage in repo.index.stages if stage.name == "finetune@motion")
        dependency = next(d for d in finetune.deps if d.def_path == SCRATCH)
        assert dependency.exists
        assert ("finetune@motion", "pretrain") not in {(a.name, b.name) for a, b in repo.index.graph.edges}
