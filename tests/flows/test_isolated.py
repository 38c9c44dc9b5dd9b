"""What a flow is asked for is checked before its first stage: recipes by name, and what the worktree already tells."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import yaml
from prefect.exceptions import Pause
from prefect.states import Cancelled, Scheduled

import flows.isolated as isolation
from flows.chain.repro import workspace
from flows.isolated import checked, create, preflight
from flows.overrides import benchmark_names
from pipeline.errors import EverestError, InputError
from pipeline.experiments.workspace import Workspace
from pipeline.params import load_params
from pipeline.system import worktree
from tests.pipeline.system.test_worktree import make_checkout


def commit(folder: Path, init: bool = False) -> None:
    words = [["init", "-q"]] * init + [
        ["add", "--all"],
        ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"],
    ]
    for command in words:
        subprocess.run(["git", *command], cwd=folder, check=True)


@pytest.mark.parametrize("recipe", ["../outside", "../recipes/demo", "", "a\0b", "demo.yaml", "x" * 5000, "/outside"])
def test_a_recipe_is_one_of_the_projects_by_name_and_never_a_path(root: Path, tmp_path: Path, recipe: str) -> None:
    project = tmp_path / "project"
    (project / "recipes").mkdir(parents=True)
    text = (root / "recipes" / "demo.yaml").read_text()
    for path in (project / "recipes" / "demo.yaml", tmp_path / "outside.yaml", project / "outside.yaml"):
        path.write_text(text)
    commit(project, init=True)
    given = str(tmp_path / "outside") if recipe == "/outside" else recipe
    with pytest.raises(InputError, match=r"is not in recipes/\. Cure: use one of: demo\.") as caught:
        checked(project, given, {})
    assert len(str(caught.value)) < 250
    assert checked(project, "demo", {}).recipe == "demo"


@pytest.fixture
def place(root: Path, tmp_path: Path) -> Workspace:
    (tmp_path / "params.yaml").write_text((root / "recipes" / "demo.yaml").read_text())
    where = workspace(tmp_path, "run", {})
    return dataclasses.replace(where, environment={**where.environment, "PYTHONPATH": str(root)})


def change(place: Workspace, **values: object) -> None:
    raw = yaml.safe_load((place.folder / "params.yaml").read_text())
    for dotted, value in values.items():
        group, _, key = dotted.partition("__")
        raw[group][key] = value
    (place.folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))


def test_a_worktree_is_asked_before_the_first_stage(place: Workspace) -> None:
    change(place, finetune__mixup=0.8, finetune__batch=6, compute__device="cpu")
    with pytest.raises(InputError, match="finetune.mixup = 0.8 mixes pairs of clips"):
        preflight(place, ())
    change(place, finetune__mixup=0.0, compute__cluster="tcp://127.0.0.1:9")
    with pytest.raises(EverestError, match="compute.cluster = tcp://127.0.0.1:9 does not answer") as caught:
        preflight(place, ())
    assert caught.value.exit_code == 1


def test_a_flow_of_the_data_alone_is_not_stopped_by_what_a_training_lacks(place: Workspace) -> None:
    change(place, finetune__mixup=0.8, finetune__batch=6, compute__device="cpu")
    preflight(place, ("download", "preprocess", "corpus"))


def test_a_broken_params_file_does_not_keep_the_flows_from_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("benchmarks: [", "- 1", "benchmarks: 3", "[" * 3000):
        Path("params.yaml").write_text(text)
        assert benchmark_names() == []
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_flow_run_has_a_worktree_with_its_own_params_file(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EVEREST_DATA", "EVEREST_RUNS", "EVEREST_CELLS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    checkout = make_checkout(root, tmp_path / "checkout")
    monkeypatch.chdir(checkout)
    where = create(checkout, "run", None, {"finetune.epochs": 60})
    assert where.folder == checkout / ".work" / "worktrees" / "run"
    text = (where.folder / "params.yaml").read_text()
    assert yaml.safe_load(text)["finetune"]["epochs"] == 60
    assert "# paper: 0.6" in text
    assert yaml.safe_load((checkout / "params.yaml").read_text())["finetune"]["epochs"] != 60
    assert worktree.dvc_cache(where.folder) == checkout / ".dvc" / "cache"
    assert where.environment["PYTHONPATH"] == str(where.folder), "the code of the commit"
    for name, place in (("DATA", "data"), ("RUNS", ".work/runs"), ("CELLS", ".work/compare"), ("WORK", ".work")):
        assert where.environment[f"EVEREST_{name}"] == str(checkout / place)
    assert where.environment["MLFLOW_TRACKING_URI"] == f"sqlite:///{checkout / 'mlflow.db'}"


@pytest.fixture
def checkout(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = make_checkout(root, tmp_path / "checkout")
    monkeypatch.chdir(made)
    monkeypatch.setattr(isolation, "get_run_logger", lambda: logging.getLogger("run"))
    monkeypatch.setattr(isolation, "preflight", lambda where, stages: None)
    return made


def end(how: BaseException | None) -> None:
    """A flow that does nothing in its worktree but to end that way."""
    with suppress(type(how)) if how else nullcontext(), isolation.isolated(None, {}):
        if how is not None:
            raise how


@pytest.mark.parametrize(
    ("how", "stays"),
    [
        (None, False),
        (Pause("", state=Cancelled()), False),
        (Pause("", state=Scheduled(name="Resuming")), True),
        (EverestError("a stage failed"), True),
    ],
)
def test_a_worktree_stays_to_be_looked_at_or_to_go_on_with_and_for_nothing_else(
    checkout: Path, how: BaseException | None, stays: bool
) -> None:
    end(how)
    assert (checkout / ".work/worktrees/manual").exists() == stays
    assert len(list((checkout / ".git").glob("worktrees/*"))) == stays


def test_a_stop_while_the_worktree_is_made_leaves_nothing(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(root: Path, folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worktree, "share_cache", stopped)
    end(KeyboardInterrupt())
    assert list((checkout / ".work/worktrees").iterdir()) == []
    assert list((checkout / ".git").glob("worktrees/*")) == []


def test_a_run_that_goes_on_keeps_its_worktree_where_it_is_stopped_before_its_first_stage(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(where: Workspace, stages: object) -> None:
        raise KeyboardInterrupt

    end(Pause("", state=Scheduled(name="Resuming")))
    monkeypatch.setattr(isolation, "preflight", stopped)
    end(KeyboardInterrupt())
    assert (checkout / ".work/worktrees/manual/params.yaml").exists()


def test_a_run_takes_its_stages_from_the_commit_that_it_works_in(root: Path, checkout: Path) -> None:
    committed = load_params(checkout / "params.yaml")
    (checkout / "params.yaml").write_text((root / "recipes" / "drawn.yaml").read_text())
    assert load_params(checkout / "params.yaml").benchmarks.keys() != committed.benchmarks.keys()
    with isolation.isolated(None, {"finetune.epochs": 60}) as place:
        assert place.params == load_params(place.where.folder / "params.yaml")
        assert place.params.benchmarks.keys() == committed.benchmarks.keys()
        assert place.params.finetune.epochs == 60


def test_a_run_that_goes_on_keeps_the_parameters_of_its_commit(root: Path, checkout: Path) -> None:
    committed = load_params(checkout / "params.yaml")
    end(Pause("", state=Scheduled(name="Resuming")))
    (checkout / "params.yaml").write_text((root / "recipes" / "drawn.yaml").read_text())
    commit(checkout)
    with isolation.isolated(None, {}) as place:
        assert place.params == committed


def test_a_recipe_that_is_not_committed_is_refused_before_anything_is_made(root: Path, checkout: Path) -> None:
    (checkout / "recipes").mkdir()
    (checkout / "recipes" / "mine.yaml").write_text((root / "recipes" / "demo.yaml").read_text())
    with (
        pytest.raises(InputError, match=r"recipes/mine\.yaml is not committed .*Cure: `git add recipes/mine\.yaml`"),
        isolation.isolated("mine", {}),
    ):
        pass
    assert not (checkout / ".work/worktrees").exists()
    commit(checkout)
    with isolation.isolated("mine", {}) as place:
        assert place.params.recipe == "demo"
