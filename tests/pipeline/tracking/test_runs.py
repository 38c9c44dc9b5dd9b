"""Stage runs against a real SQLite store."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Interrupted
from pipeline.inference.models import _ADDRESS
from pipeline.params import declared
from pipeline.system.files import write_json
from pipeline.tracking import close_parent, open_parent, stage_run
from pipeline.tracking import sync as sync_module
from pipeline.tracking.context import STAGE_INPUTS, registered_name, stage_inputs
from pipeline.tracking.folder import RunFolder, all_runs, process_identity, runs_dir
from pipeline.tracking.store import Store
from pipeline.tracking.upload import drain

WORK = Path(".work/finetune/motion/abc")


@pytest.fixture
def store(project: Path, migrated: Path) -> Store:
    shutil.copy(migrated, project / "mlflow.db")
    return Store()


def by_stage(store: Store) -> dict[str, dict[str, Any]]:
    return {run["tags"].get("dvc.stage", "parent"): run for run in store.search()}


def test_a_finished_stage_has_its_numbers_params_tags_and_parent(store: Store, project: Path) -> None:
    (project / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  preprocess@motion:\n    cmd: x\n    outs:\n"
        "    - {path: data/cache/motion, hash: md5, md5: 0123456789abcdef0123456789abcdef.dir}\n"
    )
    picture = project / "tokens.png"
    picture.write_bytes(b"png")
    with stage_run(
        "finetune", "motion", {"finetune.epochs": 2, "finetune.scales": [1.0]}, WORK, {"world_size": 2}
    ) as run:
        for step in range(3):
            run.metrics({"train/loss": 1.0 - step / 10}, step)
        run.metrics({"eval/top1": 0.75, "train/bad": float("nan")})
        run.summary({"motion/eval/top1": 0.75})
        run.summary({"motion/eval/top1": 0.75})  # as the report repeats it: told once
        run.artifact(picture, "pictures")
    runs = by_stage(store)
    child, parent = runs["finetune@motion"], runs["parent"]
    assert child["status"] == parent["status"] == "FINISHED"
    assert child["name"] == "finetune motion"
    assert child["params"] == {"finetune.epochs": "2", "finetune.scales": "[1.0]"}
    assert child["metrics"] == {"train/loss": 0.8, "eval/top1": 0.75}
    assert store.history(child["id"], "train/loss") == [(0, 1.0), (1, 0.9), (2, 0.8)]
    assert child["tags"]["mlflow.parentRunId"] == parent["id"]
    assert child["tags"]["world_size"] == "2"
    assert child["tags"]["dvc.data_hash"] == "0123456789abcdef0123456789abcdef.dir"
    assert child["inputs"] == {"data/cache/motion": "0123456789abcdef0123456789abcdef.dir"}
    assert set(store.artifacts(child["id"])) == {"params.yaml", "code/params.yaml", "pictures/tokens.png"}
    note = child["tags"]["mlflow.note.content"]
    page = f"#/experiments/{parent['experiment']}/runs"
    assert f"Stage `finetune` on `motion`, part of this [experiment]({page}/{parent['id']})" in note
    assert f"[report]({page}/{parent['id']}/artifacts/report/report.html)" in note
    assert "- read `data/cache/motion` `0123456789ab`" in note
    assert f"`everest reproduce {child['id']}`" in note
    assert parent["metrics"] == {"motion/eval/top1": 0.75}
    assert len(store.history(parent["id"], "motion/eval/top1")) == 1
    assert parent["params"]["pretrain.epochs"] == "2"
    assert "code/environment.txt" in store.artifacts(parent["id"])
    assert [f.about()["kind"] for f in all_runs()] == ["parent"], "what is sent and finished is tidied away"


def test_stages_of_the_same_parameters_share_a_parent_and_others_do_not(store: Store, project: Path) -> None:
    for stage in ("pretrain", "evaluate"):
        with stage_run(stage, None, {}, Path(".work") / stage):
            pass
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("ranks: 2", "ranks: 8"))
    with stage_run("report", None, {}, Path(".work/report")):
        pass
    (project / "params.yaml").write_text(text.replace("epochs: 2", "epochs: 3"))
    with stage_run("finetune", "motion", {}, WORK):
        pass
    runs = by_stage(store)
    parent_of = {stage: run["tags"].get("mlflow.parentRunId") for stage, run in runs.items()}
    assert parent_of["pretrain"] == parent_of["evaluate"] == parent_of["report"]
    assert parent_of["finetune@motion"] != parent_of["pretrain"]


def test_failed_and_interrupted_stages_say_so_and_hide_secrets(
    store: Store, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "sesame-42")
    with pytest.raises(ValueError), stage_run("pretrain", None, {}, Path(".work/pretrain")):
        raise ValueError("cannot log in with sesame-42")
    with pytest.raises(Interrupted), stage_run("finetune", "motion", {}, WORK):
        raise Interrupted("stopped")
    runs = by_stage(store)
    assert runs["pretrain"]["status"] == "FAILED"
    assert runs["pretrain"]["tags"]["everest.error"] == "ValueError: cannot log in with [hidden]"
    assert runs["finetune@motion"]["status"] == "KILLED"
    assert runs["parent"]["status"] == "KILLED"


def interrupted_after_five_steps() -> None:
    with stage_run("finetune", "motion", {"a": 1}, WORK) as run:
        for step in range(5):
            run.metrics({"train/loss": float(step)}, step)
        raise Interrupted("stopped")


def test_a_resumed_stage_continues_its_run_and_repeats_no_step(store: Store, project: Path) -> None:
    with pytest.raises(Interrupted):
        interrupted_after_five_steps()
    with stage_run("finetune", "motion", {"a": 1}, WORK) as run:
        for step in range(3, 8):
            run.metrics({"train/loss": float(step)}, step)
    runs = by_stage(store)
    assert len(runs) == 2
    assert runs["finetune@motion"]["status"] == "FINISHED"
    assert store.history(runs["finetune@motion"]["id"], "train/loss") == [(s, float(s)) for s in range(8)]
    assert not [name for name in runs["finetune@motion"]["tags"] if name.startswith("resumed.")]


def test_a_run_resumed_with_other_code_or_ranks_says_so_beside_what_it_began_with(
    store: Store, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for commit, ranks in (("1" * 40, 2), ("2" * 40, 4)):
        monkeypatch.setattr("pipeline.tracking.context.code_tags", lambda commit=commit: {"git.commit": commit})
        with contextlib.suppress(Interrupted), stage_run("finetune", "motion", {}, WORK, {"world_size": ranks}):
            if ranks == 2:
                raise Interrupted("stopped")
    tags = by_stage(store)["finetune@motion"]["tags"]
    assert (tags["git.commit"], tags["resumed.git.commit"]) == ("1" * 40, "2" * 40)
    assert (tags["world_size"], tags["resumed.world_size"]) == ("2", "4")


def test_saved_work_that_another_experiment_takes_up_gives_a_complete_run(
    store: Store, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the next flow run does: its parent is another one, and the saved work tells of the run that it is from."""
    for flow, commit, loss, steps in (("one", "1" * 40, 1.0, range(5)), ("two", "2" * 40, 2.0, range(3, 8))):
        monkeypatch.setattr("pipeline.tracking.context.code_tags", lambda commit=commit: {"git.commit": commit})
        monkeypatch.setenv("EVEREST_PARENT_RUN", open_parent(flow))
        (project / "params.yaml").write_text(f"recipe: demo\nseed: 0\ncompute: {{ranks: 2}}  # {flow}\n")
        with (
            contextlib.suppress(Interrupted),
            stage_run("finetune", "motion", {"a": 1}, WORK, {"world_size": 2}) as run,
        ):
            for step in steps:
                run.metrics({"train/loss": loss * step, "step/whole_seconds": 0.1}, step)
            if flow == "one":
                run.model(WORK, "m", {})
                raise Interrupted("stopped")
            run.metrics({"train/loss": 0.5})
        close_parent(os.environ["EVEREST_PARENT_RUN"], "KILLED" if flow == "one" else "FINISHED")
    runs = {run["status"]: run for run in store.search() if run["tags"].get("everest.stage") == "finetune"}
    first, second = runs["KILLED"], runs["FINISHED"]
    began, points = (store.client.get_metric_history(runs[s]["id"], "train/loss") for s in ("KILLED", "FINISHED"))
    assert [(p.step, p.value) for p in points if p.value != 0.5] == [
        *((s, float(s)) for s in range(5)),
        *((s, 2.0 * s) for s in range(5, 8)),
    ]
    assert [p.timestamp for p in points][:5] == [p.timestamp for p in began], "when they were measured"
    assert second["start"] == first["start"]
    assert second["params"] == first["params"] == {"a": "1"}
    assert second["tags"]["mlflow.parentRunId"] != first["tags"]["mlflow.parentRunId"]
    assert (second["tags"]["git.commit"], second["tags"]["resumed.git.commit"]) == ("1" * 40, "2" * 40)
    assert "resumed.world_size" not in second["tags"]
    assert "# one" in store.download(second["id"], "code/params.yaml", project / "fetched").read_text()
    assert [v["run"] for v in store.models.versions("m")] == [first["id"]], "what it has registered it need not again"


CHILD = """
import os, sys, time
from pathlib import Path
from pipeline.tracking import stage_run
with stage_run("finetune", "motion", {}, Path(".work/finetune/motion/abc")) as run:
    run.metrics({"train/loss": 1.0}, 0)
    Path("ready").touch()
    time.sleep(60)
"""


def test_a_run_whose_process_was_killed_is_closed_by_the_next_and_then_continued(store: Store, project: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.environ.get("PYTHONPATH", "") + f":{Path(__file__).parents[3]}",
    }
    child = subprocess.Popen([sys.executable, "-c", CHILD], env=environment)
    deadline = time.monotonic() + 30
    while not (project / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert [f.about()["status"] for f in all_runs()] == ["RUNNING", "RUNNING"]
    done = sync_module.command()
    assert len(done["killed"]) == 1
    assert {run["status"] for run in store.search()} == {"KILLED"}
    with stage_run("finetune", "motion", {}, WORK) as run:
        run.metrics({"train/loss": 0.5}, 1)
    runs = by_stage(store)
    assert runs["finetune@motion"]["status"] == "FINISHED"
    assert store.history(runs["finetune@motion"]["id"], "train/loss") == [(0, 1.0), (1, 0.5)]


def test_a_run_of_a_container_that_was_killed_is_continued_by_the_next_container(store: Store, project: Path) -> None:
    """The second has another name, and cannot ask whether the first one lives; the work folder's lock has told."""
    with pytest.raises(Interrupted):
        interrupted_after_five_steps()
    for folder in all_runs():
        if folder.about()["kind"] == "stage":
            elsewhere = {**process_identity(os.getpid()), "host": "container-1"}
            folder.update(status="RUNNING", ended=None, owner=elsewhere)
    with stage_run("finetune", "motion", {"a": 1}, WORK) as run:
        run.metrics({"train/loss": 5.0}, 5)
    (tuned,) = (run for run in store.search() if run["tags"].get("everest.stage") == "finetune")
    assert tuned["status"] == "FINISHED"
    assert store.history(tuned["id"], "train/loss") == [(s, float(s)) for s in range(6)]


def test_a_parent_that_a_flow_owns_keeps_its_status_until_the_flow_closes_it(
    store: Store, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = open_parent("my flow", tags={"prefect.flow_run_id": "f-1"})
    monkeypatch.setenv("EVEREST_PARENT_RUN", parent)
    with stage_run("pretrain", None, {}, Path(".work/pretrain")) as run:
        run.summary({"pretrain/loss": 0.5})
    with pytest.raises(ValueError), stage_run("finetune", "motion", {}, WORK):
        raise ValueError("broken")
    assert by_stage(store)["parent"]["status"] == "RUNNING"
    close_parent(parent, "FINISHED")
    runs = by_stage(store)
    assert runs["parent"]["status"] == "FINISHED"
    assert runs["parent"]["name"] == "my flow"
    assert runs["parent"]["metrics"] == {"pretrain/loss": 0.5}
    assert "f-1" in runs["parent"]["tags"]["mlflow.note.content"]
    assert runs["pretrain"]["tags"]["mlflow.parentRunId"] == runs["parent"]["id"]


def test_sending_again_after_a_crash_before_the_offset_was_noted_doubles_nothing(store: Store, project: Path) -> None:
    folder = RunFolder.create({"kind": "stage", "experiment": "e", "name": "n", "parent": None, "tags": {}})
    model = project / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    with folder.records() as spool:
        for step in range(50):
            spool.metrics({"a": float(step)}, step)
        spool.model(model, "demo-motion", {"score": 0.5}, ("candidate", "best"))
    drain(folder, store)
    run = folder.remote()["run_id"]
    # As after a crash: the server has everything, this side remembers nothing.
    (folder.path / "remote.json").unlink()
    drain(folder, store)
    assert folder.remote()["run_id"] == run
    assert store.history(run, "a") == [(s, float(s)) for s in range(50)]
    assert [v["version"] for v in store.models.versions("demo-motion")] == ["1"]


def test_the_alias_best_stays_with_the_highest_score(store: Store, project: Path) -> None:
    folder = RunFolder.create({"kind": "stage", "experiment": "e", "name": "n", "parent": None, "tags": {}})
    with folder.records() as spool:
        for index, score in enumerate((0.5, 0.8, 0.7, None)):
            model = project / f"model{index}"
            model.mkdir()
            (model / "model.safetensors").write_bytes(bytes([index]))
            spool.model(model, "m", {} if score is None else {"score": score}, ("candidate", "best"))
        spool.model(project / "model3", "unscored", {}, ("candidate", "best"))
    drain(folder, store)
    assert store.models.version("m", "best")["version"] == "2"
    assert store.models.version("m", "candidate")["version"] == "4"
    assert store.models.version("unscored", "candidate")["aliases"] == ["candidate"]
    fetched = store.models.download(store.models.version("m", "best"), project / "fetched")
    assert (fetched / "model.safetensors").read_bytes() == bytes([1])


@pytest.mark.slow
def test_two_processes_that_make_the_tables_at_once_do_not_collide(project: Path) -> None:
    code = "from pipeline.tracking.store import Store; print(Store().experiment('x'))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=120)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers == ["1", "1"]


def test_a_process_with_the_same_number_after_a_restart_is_not_the_owner(project: Path) -> None:
    folder = RunFolder.create({"kind": "stage", "experiment": "e", "name": "n", "parent": None, "tags": {}})
    owner = folder.about()["owner"]
    write_json(runs_dir() / folder.id / "run.json", {**folder.about(), "owner": {**owner, "boot": "another"}})
    from pipeline.tracking.runs import sweep

    assert sweep() == [folder.id]
    assert folder.about()["status"] == "KILLED"


def test_inputs_are_what_dvc_lock_knows_of_the_files_that_are_read(project: Path) -> None:
    outs = {
        "data/cache/motion": "aa", "data/manifests/motion": "bb", "data/corpus/motion.parquet": "cc",
        "data/cache/other": "dd", "data/corpus/other.parquet": "ee", "outputs/pretrain": "ff",
    }  # fmt: skip
    entries = "".join(f"    - {{path: {path}, md5: {digest}}}\n" for path, digest in outs.items())
    (project / "dvc.lock").write_text(f"stages:\n  all:\n    outs:\n{entries}")
    params = "recipe: demo\npretrain: {corpus: [motion]}\nfinetune: {init: outputs/pretrain}\n"
    (project / "params.yaml").write_text(params)
    assert stage_inputs("pretrain", None) == {"data/corpus/motion.parquet": "cc", "data/cache/motion": "aa"}
    tuned = {"data/cache/motion": "aa", "data/manifests/motion": "bb", "outputs/pretrain": "ff"}
    assert stage_inputs("finetune", "motion") == tuned

    cell = project / ".work/compare/tube"
    cell.mkdir(parents=True)
    for shared in ("data", "dvc.lock"):
        (project / shared).touch() if shared == "dvc.lock" else (project / shared).mkdir()
        (cell / shared).symlink_to(project / shared)
    (cell / "params.yaml").write_text(params)
    with contextlib.chdir(cell):
        # Its pre-training is its own, of which the project's dvc.lock knows nothing.
        assert stage_inputs("finetune", "motion") == {k: v for k, v in tuned.items() if k != "outputs/pretrain"}


def test_a_run_names_the_inputs_that_dvc_watches_for_its_stage() -> None:
    content = {
        "benchmarks": {"motion": {}}, "pretrain": {"corpus": ["motion"]}, "finetune": {"init": "outputs/pretrain"},
    }  # fmt: skip
    known = {"b": "motion", "c": "motion", "init": "outputs/pretrain"}
    stages = declared.stages(content)
    assert {stage.name for stage in stages} == set(STAGE_INPUTS)
    for stage in stages:
        watched = [dep.replace("${finetune.init}", "outputs/pretrain") for dep in stage.deps if dep != "raw"]
        named = [pattern.format(**known).rstrip("/") for pattern in STAGE_INPUTS[stage.name]]
        missing = [dep for dep in watched if not any(is_within(name, dep) for name in named)]
        # Of a corpus the run names the cache, too, which DVC watches a stage earlier.
        surplus = [name for name in named if not any(is_within(name, dep) for dep in watched)]
        assert (missing, surplus) == ([], ["data/cache/motion"] if stage.name == "pretrain" else []), stage.address


def is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def test_sending_gives_way_to_the_training_and_nothing_else_of_the_process_does(store: Store) -> None:
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    with stage_run("pretrain", None, {}, WORK):
        sending = next(thread for thread in threading.enumerate() if thread.name == "tracking-upload")
        assert sending.native_id is not None
        until = time.monotonic() + 10
        while os.getpriority(os.PRIO_PROCESS, sending.native_id) != 19 and time.monotonic() < until:
            time.sleep(0.01)
        assert os.getpriority(os.PRIO_PROCESS, sending.native_id) == 19
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


@pytest.mark.parametrize("kind", ["no folder", "a folder", "not a database"])
def test_a_store_that_cannot_be_made_is_one_line_with_a_cure(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from pipeline.tracking.store import Store, StoreError

    file = tmp_path / "mlflow.db"
    if kind == "no folder":
        (tmp_path / "file").touch()
        file = tmp_path / "file" / "mlflow.db"
    elif kind == "a folder":
        file.mkdir()
    else:
        file.write_bytes(b"no database at all" * 300)
    with pytest.raises(StoreError, match=r"the tracking store sqlite:.*mlflow\.db .*Cure: ") as result:
        Store(f"sqlite:///{file}")
    assert "\n" not in str(result.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("recipe", ["k400.small", "a/b: v1 @'x' %\"", os.fsdecode(b"caf\xe9"), "[b]\n"])
def test_a_model_is_registered_whatever_its_recipe_is_called(project: Path, store: Store, recipe: str) -> None:
    run = store.create_run("everest-x", "key", "x", 0, {})
    (project / "model").mkdir()
    (project / "model" / "model.json").write_text("{}")
    name = registered_name(recipe, "motion")
    version = store.models.register(run, "key", project / "model", name, {"score": "0.5"}, ["candidate", "best"])
    assert store.models.version(name, "best")["version"] == version
    assert _ADDRESS.fullmatch(f"models:/{name}@best"), "a user can name it"
