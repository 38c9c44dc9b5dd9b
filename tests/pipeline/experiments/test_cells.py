"""A training of a comparison: a folder of its own, finished stages kept, another one's results never taken."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipeline import layout
from pipeline.budget.ledger import named_ledger
from pipeline.errors import DamagedError, EverestError, InputError, Interrupted
from pipeline.experiments import cells
from pipeline.experiments.cells import cell, run_cell, settled
from pipeline.params import declared, load_params, with_overrides
from pipeline.planning.equal import Trial, plan

LOCK = {
    "schema": "2.0",
    "stages": {
        "corpus@motion": {"cmd": "x", "outs": [{"path": "data/corpus/motion.parquet", "md5": "aa"}]},
        "pretrain": {"cmd": "x", "outs": [{"path": "outputs/pretrain", "md5": "bb"}]},
    },
}


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(root / "recipes" / "drawn.yaml", tmp_path / "params.yaml")
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(LOCK))
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVEREST_CELLS", raising=False)
    return tmp_path


def write_lock(project: Path, **outs: str) -> None:
    """dvc.lock with other outputs beside those of LOCK."""
    made = {"other": {"cmd": "x", "outs": [{"path": path, "md5": content} for path, content in outs.items()]}}
    (project / "dvc.lock").write_text(yaml.safe_dump({**LOCK, "stages": {**LOCK["stages"], **made}}))


def trials(**compare: object) -> list[Trial]:
    values = {"strategies": ["everest", "tube", "scratch"], "seeds": [0], "benchmarks": ["motion"]} | compare
    return plan(with_overrides(load_params(), {f"compare.{name}": value for name, value in values.items()}))


class Stages:
    """In place of the stages' processes: writes their metrics, until one is told to fail."""

    def __init__(self, codes: Mapping[str, int] | None = None) -> None:
        self.codes = codes or {}
        self.ran: list[str] = []
        self.environments: list[Mapping[str, str]] = []

    def __call__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> int:
        stage, *benchmark = command[3:]
        self.ran.append(" ".join([stage, *benchmark]))
        self.environments.append(environment)
        if code := self.codes.get(stage):
            return code
        path = folder / layout.metrics_file(stage, benchmark[0] if benchmark else None)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        finish(folder, stage, *benchmark)
        return 0


def finish(folder: Path, stage: str, benchmark: str | None = None) -> None:
    """What a stage leaves at its very end."""
    record = folder / layout.record_file(stage, benchmark)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(declared.values(stage, benchmark, load_params(folder / "params.yaml"))))
    (folder / layout.output_dir(stage, benchmark)).mkdir(parents=True, exist_ok=True)


def test_a_part_whose_version_was_raised_is_trained_again_with_what_reads_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, stages = trials()[0], Stages()
    run_cell(trial, run=stages)
    for part, again in {
        "scoring": ["evaluate motion"],
        "views": ["finetune motion", "evaluate motion"],
        "augmentation": ["pretrain", "finetune motion", "evaluate motion"],
        "drawing": [],  # the data's content is in the folder's name
    }.items():
        stages.ran.clear()
        raised = {**declared.versions(), part: 99}
        monkeypatch.setattr(declared, "versions", lambda raised=raised: raised)
        run_cell(trial, run=stages)
        assert stages.ran == again, part


def test_a_training_runs_its_stages_once_over_the_projects_data(project: Path) -> None:
    everest, _, scratch = trials()
    stages = Stages()
    folder = run_cell(everest, run=stages)
    assert stages.ran == ["pretrain", "finetune motion", "evaluate motion"]
    assert (folder / "data").resolve() == project / "data"
    assert load_params(folder / "params.yaml") == everest.params
    assert stages.environments[0]["EVEREST_COMPARE"] == "everest-seed0"
    assert stages.environments[0]["EVEREST_WORK"] == str(folder / ".work"), "its checkpoints lie with it"
    run_cell(everest, run=stages)
    assert len(stages.ran) == 3, "a second start computes nothing"
    run_cell(scratch, run=stages)
    assert stages.ran[3:] == ["finetune motion", "evaluate motion"]


def test_a_stopped_training_goes_on_at_the_stage_that_was_stopped(project: Path) -> None:
    trial = trials()[0]
    stages = Stages({"finetune": 130})
    with pytest.raises(Interrupted, match="the same command continues"):
        run_cell(trial, run=stages)
    stages.codes = {}
    run_cell(trial, run=stages)
    assert stages.ran == ["pretrain", "finetune motion", "finetune motion", "evaluate motion"]


def test_a_failed_stage_is_named_with_its_folder_and_the_cure(project: Path) -> None:
    trial = trials()[1]
    with pytest.raises(EverestError, match=r"pretrain of tube, seed 0, ended with code 1 in .*Cure") as result:
        run_cell(trial, run=Stages({"pretrain": 1}))
    assert str(cell(trial)) in str(result.value)


def test_other_parameters_or_data_are_another_training(project: Path) -> None:
    before = cell(trials()[0])
    assert cell(trials(seeds=[0, 1])[0]) == before, "what else is compared does not matter"
    lock = {**LOCK, "stages": {**LOCK["stages"], "pretrain": {"cmd": "y", "outs": [{"path": "outputs/pretrain"}]}}}
    (project / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert cell(trials()[0]) == before, "nor does what the chain trained"
    text = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text(text.replace("aa", "cc"))
    assert cell(trials()[0]) != before
    (project / "dvc.lock").write_text(text)
    params = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(params.replace("keep_ratio: 0.6", "keep_ratio: 0.7"))
    assert cell(trials()[0]) != before


def test_the_link_to_the_data_follows_the_checkout(project: Path, tmp_path: Path) -> None:
    trial = trials()[0]
    folder = run_cell(trial, run=Stages())
    (folder / "data").unlink()
    (folder / "data").symlink_to(tmp_path / "gone")
    run_cell(trial, run=Stages())
    assert (folder / "data").resolve() == project / "data"


def test_what_the_chain_trained_with_the_same_parameters_is_taken_over(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "outputs" / "pretrain").mkdir(parents=True)
    (project / "outputs" / "pretrain" / "model.safetensors").write_bytes(b"weights")
    (project / "metrics").mkdir()
    (project / "metrics" / "pretrain.json").write_text(json.dumps({"train/loss": 1}))
    finish(project, "pretrain")
    monkeypatch.setattr(cells, "_up_to_date", lambda stage: stage == "pretrain")
    everest, tube, _ = trials()
    stages = Stages()
    folder = run_cell(everest, run=stages)
    assert stages.ran == ["finetune motion", "evaluate motion"]
    assert (folder / "outputs/pretrain/model.safetensors").read_bytes() == b"weights"
    run_cell(tube, run=stages)
    assert "pretrain" in stages.ran, "another strategy's training is not it"


def test_what_the_chain_trained_is_left_where_dvc_calls_it_stale(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "outputs" / "pretrain").mkdir(parents=True)
    (project / "metrics").mkdir()
    (project / "metrics" / "pretrain.json").write_text("{}")
    finish(project, "pretrain")
    monkeypatch.setattr(cells, "_up_to_date", lambda stage: False)
    stages = Stages()
    run_cell(trials()[0], run=stages)
    assert stages.ran[0] == "pretrain"


def test_a_stage_is_stale_where_one_before_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stages = {
        "finetune": {"cmd": "echo 1 > model", "params": ["epochs"], "outs": ["model"]},
        "evaluate": {"cmd": "cp model score", "deps": ["model"], "outs": ["score"]},
    }
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    Path("params.yaml").write_text("epochs: 1\n")
    for words in (["init", "--no-scm", "--quiet"], ["repro", "--quiet"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], check=True)
    assert cells._up_to_date("evaluate")
    Path("params.yaml").write_text("epochs: 2\n")
    assert not cells._up_to_date("evaluate")


def test_a_comparison_without_data_names_the_command_that_makes_it(project: Path) -> None:
    from pipeline.experiments.compare import command

    with pytest.raises(InputError, match="Cure: `dvc repro corpus@motion corpus@state_change` first"):
        command()
    assert not Path("outputs").exists()


def test_a_dry_run_says_what_would_run_and_writes_nothing(project: Path) -> None:
    from pipeline.experiments.compare import command

    rows = command({"compare.strategies": ["everest", "scratch"], "compare.seeds": [0, 1]}, dry_run=True)["trials"]
    assert [(row["strategy"], row["seed"]) for row in rows] == [
        ("everest", 0), ("everest", 1), ("scratch", 0), ("scratch", 1)
    ]  # fmt: skip
    assert rows[2]["pre-training epochs"] == 0
    assert not (project / ".work").exists()


def test_a_rate_is_measured_once_a_device_and_anew_where_its_file_is_torn(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.efficiency import meters
    from pipeline.experiments import compare

    params = with_overrides(load_params(), {"compare.equal": "wall-time", "compare.strategies": ["everest", "scratch"]})
    measured = iter([5.0, 6.0, 7.0])
    monkeypatch.setattr(compare, "training_rate", lambda trained: next(measured))
    assert compare._rates(params) == compare._rates(params) == {"everest": 5.0}
    (file,) = (project / ".work/compare/rates").iterdir()
    file.write_text("")
    assert compare._rates(params) == compare._rates(params) == {"everest": 6.0}
    monkeypatch.setattr(meters, "device_name", lambda device: "another GPU")
    assert compare._rates(params) == compare._rates(params) == {"everest": 7.0}


def with_models(stages: Stages) -> Stages:
    """Stages that write weights too: a pre-training's are told by its strategy, a fine-tuning's by what it reads."""

    def run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> int:
        if code := stages(command, folder, environment):
            return code
        stage, *benchmark = command[3:]
        output = folder / layout.output_dir(stage, *benchmark)
        params, pretrained = load_params(folder / "params.yaml"), folder / "outputs/pretrain/model.safetensors"
        weights = params.pretrain.strategy + params.finetune.strategy * (stage != "pretrain")
        weights += pretrained.read_text() if stage == "finetune" and pretrained.exists() else ""
        (output / "model.safetensors").write_text(weights)
        return 0

    return run  # type: ignore[return-value]


def test_strategies_that_share_a_training_or_differ_in_the_test_alone_train_once(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = ["everest", "everest-tested-tome", "everest-then-tome", "tube"]
    every, stages = trials(strategies=arms), Stages()
    for trial in every:
        run_cell(trial, run=with_models(stages), others=every)
    assert stages.ran == [
        *("pretrain", "finetune motion", "evaluate motion"),
        "evaluate motion",
        *("finetune motion", "evaluate motion"),
        *("pretrain", "finetune motion", "evaluate motion"),
    ]
    said = capsys.readouterr().err
    assert said.count("(taken from everest, seed 0)") == 3
    weights = [(cell(trial) / "outputs/finetune/motion/model.safetensors").read_text() for trial in every]
    assert weights[0] == weights[1]
    assert len(set(weights)) == 3
    values = json.loads((cell(every[1]) / layout.record_file("evaluate", "motion")).read_text())
    assert values["evaluate.strategy"] == "tome"


def test_a_training_of_another_seed_or_other_weights_is_not_taken_over(project: Path) -> None:
    every, stages = trials(strategies=["everest", "everest-tested-rlt"], seeds=[0, 1]), Stages()
    for trial in every[:2]:
        run_cell(trial, run=with_models(stages), others=every)
    assert stages.ran == 2 * ["pretrain", "finetune motion", "evaluate motion"]
    stages.codes = {"finetune": 130}
    stages.ran.clear()
    with pytest.raises(Interrupted):
        run_cell(every[2], run=with_models(stages))
    (cell(every[2]) / "outputs/pretrain/model.safetensors").write_text("as another machine trains them")
    stages.codes = {}
    stages.ran.clear()
    run_cell(every[2], run=with_models(stages), others=every)
    assert stages.ran == ["finetune motion", "evaluate motion"], "what starts from other weights is another result"


def test_a_key_that_came_later_leaves_the_names_of_earlier_trainings_alone(project: Path) -> None:
    from pipeline.experiments.workspace import result_values

    plain, tested = (
        result_values(trial.params, ["motion"]) for trial in trials(strategies=["everest", "everest-tested-tome"])
    )
    assert "evaluate.strategy" not in plain
    assert tested["evaluate.strategy"] == "tome"


def test_data_that_a_training_does_not_use_leave_its_name_alone(project: Path) -> None:
    everest, _, scratch = trials()
    before = cell(everest), cell(scratch)
    write_lock(
        project, **{"data/cache/other": "1", "data/manifests/state_change": "2", "data/corpus/other.parquet": "3"}
    )
    assert "state_change" in everest.corpora
    assert cell(everest) != before[0], "its corpus"
    assert cell(scratch) == before[1], "from scratch it has no corpus"
    everest, scratch = (
        replace(trial, params=with_overrides(trial.params, {"pretrain.corpus": ["motion"]}))
        for trial in (everest, scratch)
    )
    before = cell(everest), cell(scratch)
    write_lock(project, **{"data/cache/state_change": "4"})
    changed = {"benchmarks.state_change.data.frame_step": 2}
    other = [replace(trial, params=with_overrides(trial.params, changed)) for trial in (everest, scratch)]
    assert (cell(other[0]), cell(other[1])) == before
    write_lock(project, **{"data/cache/motion": "5"})
    assert cell(everest) != before[0]
    assert cell(scratch) != before[1]


def test_settings_of_the_machine_leave_a_trainings_name_alone(project: Path) -> None:
    trial = trials()[0]
    values = {
        "ingest.workers": 3,
        "preprocess.workers": 3,
        "benchmarks.motion.data.raw": "there",
        "compute.eur_per_gpu_hour": 5.0,
    }
    assert cell(replace(trial, params=with_overrides(trial.params, values))) == cell(trial)


def test_a_training_keeps_its_folder_while_dvc_makes_other_data(project: Path) -> None:
    before = trials()
    placed = settled(before)
    write_lock(project, **{"data/cache/motion": "other"})
    assert [cell(trial) for trial in placed] == [trial.folder for trial in placed]
    assert cell(before[0]) != cell(placed[0])


def test_a_half_written_lock_is_waited_for_and_a_damaged_one_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, lock = trials()[0], project / "dvc.lock"
    before, whole = cell(trial), lock.read_text()
    monkeypatch.setattr(cells.time, "sleep", lambda _: lock.write_text(whole))
    for torn in ("", whole[:40] + "\n  : ["):
        lock.write_text(torn)
        assert cell(trial) == before
        monkeypatch.setattr(cells.time, "sleep", lambda _: None)
        lock.write_text(torn)
        with pytest.raises(DamagedError, match=r"dvc\.lock is damaged.*Cure: `git checkout dvc\.lock`"):
            cell(trial)
        monkeypatch.setattr(cells.time, "sleep", lambda _: lock.write_text(whole))


def test_what_only_looks_at_a_training_leaves_its_name_alone(project: Path) -> None:
    (plain,) = trials(strategies=["everest"])
    watched = replace(plain, params=with_overrides(plain.params, {"pretrain.monitor.every": 7.0}))
    assert cell(watched) == cell(plain)
    assert named_ledger(watched.params) == named_ledger(plain.params), "what it took before counts on"
