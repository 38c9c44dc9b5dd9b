"""A place to run stages in: what is linked, lent and skipped, and what is said of a stage that fails or stops."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pipeline import layout
from pipeline.errors import EverestError, InputError, Interrupted
from pipeline.experiments.workspace import Report, Workspace, environment, require_data
from pipeline.params import Params, declared, load_params

REPORT = Report(stopped="stopped here", cure="mend it", note="[1/2]", whose=" of tube", where=" in the folder")
STEPS = [("pretrain", None), ("finetune", "motion"), ("evaluate", "motion")]


class Stages:
    """In place of the stages' processes: each leaves its record, until one ends with another code than 0."""

    def __init__(self, **codes: int) -> None:
        self.codes = codes
        self.ran: list[str] = []

    def __call__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> int:
        assert command[:3] == [sys.executable, "-m", "pipeline.cli"]
        stage, *key = command[3:]
        self.ran.append(stage)
        if code := self.codes.get(stage, 0):
            return code
        record = folder / layout.record_file(stage, key[0] if key else None)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(declared.values(stage, key[0] if key else None, load_params("params.yaml"))))
        (folder / layout.output_dir(stage, *key)).mkdir(parents=True, exist_ok=True)
        return 0


@pytest.fixture
def params(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    shutil.copy(root / "recipes" / "drawn.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return load_params()


@pytest.fixture
def place(params: Params, tmp_path: Path) -> Workspace:
    return Workspace("place", tmp_path / "place", tmp_path, {})


def test_parameters_are_written_and_links_follow_what_is_there(
    place: Workspace, params: Params, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    place.prepare(params, {"data": tmp_path / "data", "dvc.lock": tmp_path / "dvc.lock"})
    assert load_params(place.folder / "params.yaml") == params
    assert (place.folder / "data").readlink() == tmp_path / "data"
    assert not (place.folder / "dvc.lock").is_symlink()
    (tmp_path / "data").rmdir()
    place.prepare(params, {"data": tmp_path / "data"})
    assert not (place.folder / "data").is_symlink()


def test_finished_stages_are_skipped_and_what_reads_a_new_result_is_made_again(
    place: Workspace, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = Stages()
    place.run(STEPS, params, REPORT, run=stages)
    assert "[1/2]: finetune motion started" in capsys.readouterr().err
    place.run(STEPS, params, REPORT, run=stages)
    assert stages.ran == ["pretrain", "finetune", "evaluate"]
    (place.folder / layout.record_file("finetune", "motion")).unlink()
    place.run(STEPS, params, REPORT, run=stages)
    assert stages.ran[3:] == ["finetune", "evaluate"]


def test_a_stage_whose_output_is_gone_is_run_again_with_what_reads_it(place: Workspace, params: Params) -> None:
    stages = Stages()
    place.run(STEPS, params, REPORT, run=stages)
    shutil.rmtree(place.folder / "outputs/finetune/motion")
    place.run(STEPS, params, REPORT, run=stages)
    assert stages.ran[3:] == ["finetune", "evaluate"]


def test_what_another_workspace_made_again_is_read_again(place: Workspace, params: Params) -> None:
    stages, remade = Stages(), {"preprocess@motion"}
    place.run(STEPS, params, REPORT, run=stages)
    place.run(STEPS[1:], params, REPORT, remade=remade, run=stages)
    assert stages.ran[3:] == ["finetune", "evaluate"]
    assert remade == {"preprocess@motion", "finetune@motion", "evaluate@motion"}


def test_a_result_that_is_taken_over_is_not_run(
    place: Workspace, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = Stages()
    place.run(
        STEPS,
        params,
        REPORT,
        take_over=lambda stage, benchmark: "this project's own run" * (stage == "pretrain"),
        run=stages,
    )
    assert stages.ran == ["finetune", "evaluate"]
    assert "pretrain (taken from this project's own run)" in capsys.readouterr().err


@pytest.mark.parametrize("code", [130, -2, -15])
def test_a_stage_that_was_stopped_ends_the_run_and_the_next_one_goes_on(
    place: Workspace, params: Params, code: int
) -> None:
    stages = Stages(finetune=code)
    with pytest.raises(Interrupted, match="^stopped here$"):
        place.run(STEPS, params, REPORT, run=stages)
    stages.codes = {}
    place.run(STEPS, params, REPORT, run=stages)
    assert stages.ran == ["pretrain", "finetune", "finetune", "evaluate"]


def test_a_stage_that_failed_is_named_with_its_code_place_and_cure(place: Workspace, params: Params) -> None:
    with pytest.raises(
        EverestError, match=r"^finetune motion of tube ended with code 7 in the folder\. Cure: mend it$"
    ):
        place.run(STEPS, params, REPORT, run=Stages(finetune=7))


def test_a_workspace_is_lent_what_the_checkout_keeps_unless_a_variable_puts_it_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EVEREST_DATA", "EVEREST_RUNS", "EVEREST_CELLS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", "/mine")
    lent = environment(tmp_path, tmp_path / "code", tmp_path / "saved", EVEREST_COMPARE="tube")
    assert lent["PYTHONPATH"] == f"{tmp_path / 'code'}:/mine"
    assert lent["EVEREST_COMPARE"] == "tube"
    assert lent["EVEREST_WORK"] == str(tmp_path / "saved")
    assert lent["EVEREST_DATA"] == str(tmp_path / "data")
    assert lent["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path / 'mlflow.db'}"
    for name, folder in (("EVEREST_RUNS", "runs"), ("EVEREST_CELLS", "compare")):
        assert lent[name] == str(tmp_path / ".work" / folder)
        monkeypatch.setenv(name, "/elsewhere")
        assert environment(tmp_path, tmp_path, tmp_path)[name] == "/elsewhere"


def test_flows_can_make_workspaces_without_torch_or_mlflow() -> None:
    code = "import sys, pipeline.experiments.workspace; sys.exit(bool({'torch', 'mlflow'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_data_are_named_with_the_stages_that_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no cached data of a, b\. Cure: `dvc repro corpus@a preprocess@b` first"):
        require_data(["a", "b"], ["a"])
    for name in ("a", "b"):
        layout.cache_dir(name).mkdir(parents=True)
        (layout.cache_dir(name) / "cache.json").touch()
    with pytest.raises(InputError, match=r"no cached data of a\. "):
        require_data(["a", "b"], ["a"])
    require_data(["a", "b"], [])
