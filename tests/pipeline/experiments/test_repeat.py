"""Repeating an experiment over official splits and seeds: what runs where, what is kept, and the arithmetic."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from pipeline import layout
from pipeline.errors import EverestError, InputError, Interrupted
from pipeline.experiments.repeat import Repetition, command
from pipeline.params import declared, load_params, with_overrides
from pipeline.params.records import write_record

#: Top-1 of each (split, seed), as the stand-in for the stages will have it.
SCORES = {(1, 0): 0.90, (1, 1): 0.92, (2, 0): 0.85, (2, 1): 0.85, (3, 0): 0.95, (3, 1): 0.99}


class Stages:
    """Writes what the real stages would, and notes what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, str]] = []
        self.answer = 0
        self.stop_at: int | None = None

    def __call__(self, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> int:
        params = yaml.safe_load((folder / "params.yaml").read_text())
        stage, *names = words[3:]
        name = names[0] if names else None
        data = next(iter(params["benchmarks"].values()))["data"]
        if len(self.calls) == self.stop_at:
            return self.answer
        self.calls.append((data["split"], params["seed"], " ".join(words[3:])))
        if stage in ("pretrain", "finetune", "evaluate"):
            assert (folder / "data/cache/ucf101").is_dir(), "its data are not linked"
            assert environment["EVEREST_REPEAT"] == f"split{data['split']}-seed{params['seed']}"
        metrics = {"eval/top1": SCORES[data["split"], params["seed"]], "eval/videos_ok": 9, "eval/videos_total": 10}
        record = folder / layout.record_file(stage, name)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(declared.values(stage, name, params)))
        if stage == "corpus":
            path = folder / layout.corpus_file(str(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            return 0
        for out in declared.declared(stage, name).outs[:-1]:
            (folder / out).mkdir(parents=True, exist_ok=True)
        for path in (folder / layout.metrics_file(stage, name), folder / layout.results_file(stage, name)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(metrics))
        assert Path(environment["EVEREST_DATA"]) == Path("data").absolute(), "videos are shared"
        return 0


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking_store: str) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_store)
    shutil.copy(root / "recipes/ucf101.yaml", "params.yaml")
    return tmp_path


def test_every_split_has_its_own_data_and_pretraining_and_seeds_share_the_data(project: Path) -> None:
    stages = Stages()
    result = command(seeds=[0, 1], run=stages)
    one = ["download ucf101", "preprocess ucf101", "corpus ucf101"]
    training = ["pretrain", "finetune ucf101", "evaluate ucf101"]
    assert stages.calls == [
        call
        for split in (1, 2, 3)
        for call in [
            *((split, 0, words) for words in one),
            *((split, seed, words) for seed in (0, 1) for words in training),
        ]
    ]
    assert [(row["split"], row["seed"]) for row in result["repetitions"]] == list(SCORES)
    again = Stages()
    assert command(seeds=[0, 1], run=again)["results"] == result["results"]
    assert again.calls == [], "a finished stage is not run again"


def test_mean_and_deviations_are_those_worked_out_by_hand(project: Path) -> None:
    result = command(seeds=[0, 1], run=Stages())
    row = result["results"][0]
    # Means of the splits: 91, 85, 97. Deviations within: sqrt(2), 0, 2 sqrt(2).
    assert row["mean"] == pytest.approx(91)
    assert row["between_splits"] == pytest.approx(6)
    assert row["between_seeds"] == pytest.approx(2**0.5)
    assert result["sentences"] == [
        "ucf101: top-1 91.0 % over 3 official splits with 2 seed(s) each; "
        "standard deviation 6.0 between splits and 1.4 between seeds."
    ]
    page = Path(result["report"]).read_text()
    assert "9 of 10" in page
    assert "91.0" in page
    assert json.loads(Path("outputs/repeat/summary.json").read_text())["results"] == result["results"]
    lone = command([2], [0], run=Stages())
    assert (lone["results"][0]["between_splits"], lone["results"][0]["between_seeds"]) == (None, None)
    assert "one value has no deviation" in lone["sentences"][0]


def test_it_stops_and_continues_where_it_was(project: Path) -> None:
    stages = Stages()
    stages.stop_at, stages.answer = 4, 130
    with pytest.raises(Interrupted, match="same command continues"):
        command([1], run=stages)
    stages.stop_at, stages.answer = 5, 1
    with pytest.raises(EverestError, match=r"evaluate ucf101 ended with code 1 in .*split1-seed0"):
        command([1], run=stages)
    stages.stop_at = None
    assert command([1], run=stages)["results"][0]["mean"] == pytest.approx(90)
    assert len(stages.calls) == len(set(stages.calls)) == 6


def test_what_cannot_be_meant_is_refused(project: Path, root: Path) -> None:
    for splits, seeds in (([4], [0]), ([1, 1], [0]), ([1], []), ([1], [0, 0]), ([1], [-1])):
        with pytest.raises(InputError, match="expected each once"):
            command(splits, seeds)
    plan = command(seeds=[0, 1, 2], dry_run=True)["repetitions"]
    assert len(plan) == 9
    assert len({row["folder"] for row in plan}) == 9
    shutil.copy(root / "recipes/drawn.yaml", "params.yaml")
    with pytest.raises(InputError, match=r"none of motion, state_change has official splits"):
        command([1])
    with pytest.raises(InputError, match=r"no cached data of motion, state_change"):
        command(seeds=[0, 1])
    assert not Path(".work/repeat").exists() or not list(Path(".work/repeat").glob("*/outputs"))


def test_an_experiment_on_other_data_is_another_one(project: Path) -> None:
    params = load_params()
    names = []
    for content in ("aaaa", "bbbb"):
        stages = {"preprocess@ucf101": {"outs": [{"path": "data/cache/ucf101", "md5": content}]}}
        Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
        names.append([Repetition(split, 0, params).folder.name for split in (0, 1)])
    assert names[0][0] != names[1][0]
    assert names[0][1] == names[1][1], "a split's own data follow from its parameters"


def test_a_started_experiment_keeps_its_folder_and_machine_settings_change_none(project: Path) -> None:
    params = load_params()
    elsewhere = with_overrides(
        params, {"preprocess.workers": 3, "ingest.workers": 3, "benchmarks.ucf101.data.raw": "there"}
    )
    for split in (0, 1):
        here, there = (Repetition(split, 0, one) for one in (params, elsewhere))
        assert (here.folder, here.data) == (there.folder, there.data)
        quality = with_overrides(params, {"preprocess.jpeg_quality": 31})
        assert Repetition(split, 0, quality).folder != here.folder
        assert (Repetition(split, 0, quality).data != here.data) == bool(split)
    stages = {"preprocess@ucf101": {"outs": [{"path": "data/cache/ucf101", "md5": "a"}]}}
    started = Repetition(0, 0, params)
    before = started.folder
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    assert started.folder == before
    assert Repetition(0, 0, params).folder != before


def test_the_projects_own_data_that_other_parameters_made_are_refused(project: Path, root: Path) -> None:
    shutil.copy(root / "recipes/drawn.yaml", "params.yaml")
    params = load_params()
    for name in params.benchmarks:
        for stage in ("download", "preprocess", "corpus"):
            write_record(stage, name, declared.values(stage, name, yaml.safe_load(Path("params.yaml").read_text())))
    with pytest.raises(InputError, match="no cached data of motion, state_change"):
        command(seeds=[0])
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("jpeg_quality: 90", "jpeg_quality: 31"))
    refused = (
        r"everest repeat reads data/cache/motion, .* preprocess\.jpeg_quality = 90, now 31\. Cure: `dvc repro preproc"
    )
    with pytest.raises(InputError, match=refused):
        command(seeds=[0])
