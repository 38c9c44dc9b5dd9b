"""What `everest reproduce` refuses, what it puts back, and how it compares; the whole of it runs in tests/e2e."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import BusyError, EverestError, InputError
from pipeline.experiments import reproduce
from pipeline.experiments.restore import unknown_code
from pipeline.experiments.stage import only_one
from pipeline.experiments.workspace import Workspace
from pipeline.system.files import sha256_of
from pipeline.tracking.store import Store

DIGEST = "everest.weights_sha256"
DATA = {"data/cache/motion": "ab" + "0" * 30 + ".dir", "data/corpus/motion.parquet": "cd" + "0" * 30}


def git(*words: str) -> str:
    identity = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    return subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking_store: str) -> Path:
    """A repository with DVC and one commit, whose cache holds what DATA names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_store)
    objects = tmp_path / ".dvc/cache/files/md5"
    (objects / "ab").mkdir(parents=True)
    (objects / "cd").mkdir()
    (objects / "ab" / DATA["data/cache/motion"][2:]).write_text(
        json.dumps([{"md5": "cd" + "0" * 30, "relpath": "sub/cache.json"}])
    )
    (objects / "cd" / ("0" * 30)).write_text("content")
    (tmp_path / ".dvc/config").touch()
    (tmp_path / ".gitignore").write_text(".work/\n.dvc/cache\n.dvc/tmp\n")
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/code.py").write_text("X = 1\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    return tmp_path


class Tracked:
    """Runs of the project in the shared store."""

    def __init__(self, project: Path) -> None:
        self.store = Store()
        self.project = project
        self.count = 0

    def run(self, *, status: str = "FINISHED", inputs: Any = DATA, files: Any = None, **tags: str) -> str:
        self.count += 1
        every = {"everest.stage": "pretrain", "git.commit": git("rev-parse", "HEAD"), **tags}
        run = self.store.create_run("reproducing", f"{self.project}-{self.count}", "run", 0, every)
        self.store.inputs(run, inputs)
        for name, text in {"params.yaml": "seed: 7\n", **(files or {})}.items():
            path = self.project / ".work" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            self.store.artifact(run, path, "code")
        self.store.metrics(run, [("train/loss", 0.5, 1, 1), ("train/loss", 0.25, 2, 2), ("efficiency/mfu", 0.3, 1, 0)])
        self.store.status(run, status, 1)
        return run


@pytest.fixture
def tracked(project: Path) -> Tracked:
    return Tracked(project)


def nothing_is_left(project: Path) -> None:
    assert git("worktree", "list").count("\n") == 0
    assert not list((project / ".work/reproduce").glob("*"))
    assert git("status", "--porcelain") == ""
    assert (project / "params.yaml").read_text() == "seed: 1\n"


def again(stage: str, benchmark: str | None, folder: Path) -> None:
    """A stage that puts its run into the worktree's store, as the real one does.

    The tables are copied, as making them takes seconds.
    """
    made = Path(reproduce._check_store(folder).removeprefix("sqlite:///"))
    shutil.copy(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///"), made)
    store = Store(reproduce._check_store(folder))
    repeated(store, "again", now=time.time_ns() // 1_000_000)


def repeated(
    store: Store, key: str, losses: tuple[float, ...] = (0.5, 0.25), digest: str = "aa", extra: int = 0, now: int = 0
) -> dict[str, Any]:
    run = store.create_run("reproducing", key, "run", now, {"everest.stage": "pretrain", DIGEST: digest})
    store.metrics(run, [("train/loss", value, 5, step + 1) for step, value in enumerate(losses)])
    store.metrics(run, [("efficiency/mfu", 0.9, 1, 0)] + [("train/new", 1.0, 1, 0)] * extra)
    store.status(run, "FINISHED", 1)
    return store.get_run(run)


def test_code_params_and_data_are_put_back_and_all_of_it_is_removed(
    project: Path, tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "models/code.py").write_text("X = 2\n")
    patch = git("diff", "HEAD") + "\n"
    git("checkout", "--quiet", "models/code.py")
    files = {"uncommitted.diff": patch, "uncommitted.txt": " M models/code.py\n?? notes.txt\n"}
    tags = {DIGEST: "aa", "everest.inputs": json.dumps({"data/corpus/motion.parquet": _sha()})}
    run = tracked.run(files=files, **tags)
    git("commit", "--quiet", "--allow-empty", "-m", "later")
    seen: dict[str, str] = {}

    def look(stage: str, benchmark: str | None, folder: Path) -> None:
        for name in ("models/code.py", "params.yaml", "data/cache/motion/sub/cache.json", "data/corpus/motion.parquet"):
            seen[name] = (folder / name).read_text()
        again(stage, benchmark, folder)

    monkeypatch.setattr(reproduce, "_run_stage", look)
    result = reproduce.command(run)
    assert list(seen.values()) == ["X = 2\n", "seed: 7\n", "content", "content"]
    assert result["equal"] is True
    assert [(row["metric"], row["points"], row["equal"]) for row in result["metrics"]] == [
        ("train/loss", 2, True),
        ("SHA-256 of the weights", 1, True),
    ]
    nothing_is_left(project)


def _sha() -> str:
    return sha256_of(Path(".dvc/cache/files/md5/cd") / ("0" * 30))


def test_the_smallest_difference_is_told(tracked: Tracked) -> None:
    store = tracked.store
    then = store.get_run(tracked.run(**{DIGEST: "aa"}))

    def different(name: str, **values: Any) -> list[str]:
        now = repeated(store, f"{tracked.project}-{name}", **values)
        return [row["metric"] for row in reproduce.compare(store, then, store, now) if not row["equal"]]

    assert different("same") == []
    assert different("last value", losses=(0.5, 0.25 + 1e-12)) == ["train/loss"]
    assert different("first value", losses=(0.4, 0.25)) == ["train/loss"]
    assert different("step missing", losses=(0.25,)) == ["train/loss"]
    assert different("metric more", extra=1) == ["train/new"]
    assert different("weights", digest="bb") == ["SHA-256 of the weights"]


def test_runs_that_cannot_be_reproduced_say_why(project: Path, tracked: Tracked) -> None:
    gone = {"data/cache/motion": "ef" + "0" * 30 + ".dir"}
    other = {"everest.inputs": json.dumps({"outputs/converted/model.safetensors": "1" * 64})}
    for run, message in (
        ("0" * 32, r"'0{32}' is no run of sqlite.*Cure: copy the id"),
        (tracked.run(**{"everest.stage": ""}), r"an experiment's, not a stage's"),
        (tracked.run(**{"everest.stage": "report"}), r"of the stage report.*pretrain, finetune, evaluate"),
        (tracked.run(status="KILLED"), r"is KILLED.*finished"),
        (tracked.run(inputs={}), r"no data hashes.*dvc repro"),
        (
            tracked.run(**{"git.commit": "unknown", "git.unknown": "git is not installed"}),
            r"git.commit unknown \(git is",
        ),
        (tracked.run(**{"git.dirty": "unknown", "git.unknown": "dubious ownership"}), r"git.dirty unknown \(dubious"),
        (tracked.run(**{"resumed.git.commit": "2" * 40}), r"resumed with that of 222222222222"),
        (tracked.run(files={"uncommitted.txt": " M models/code.py\n"}), r"uncommitted changes that nobody kept"),
        (tracked.run(**{"git.commit": "1" * 40}), r"commit 1{40} is not in this clone.*git fetch"),
        (tracked.run(inputs=gone), r"data/cache/motion with hash ef0.* is not in DVC's cache.*`dvc pull`"),
        (tracked.run(**other), r"outputs/converted/model\.safetensors with SHA-256 1{12}.*`dvc pull`"),
        (tracked.run(files={"uncommitted.txt": "?? models/mine.py\n"}), r"git did not know.*models/mine\.py"),
        (tracked.run(files={"uncommitted.diff": "diff --git a/x b/x\n"}), r"uncommitted changes cannot be applied"),
    ):
        with pytest.raises(InputError, match=message):
            reproduce.command(run)
        nothing_is_left(project)


def test_weights_that_dvc_does_not_keep_are_found_by_their_hash(
    project: Path, tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Converted weights beside the project's outputs, and the trainings of a comparison in `.work`."""
    cell = project / ".work/compare/tube-seed1/outputs/pretrain"
    cell.mkdir(parents=True)
    (cell / "model.safetensors").write_text("weights")
    (cell / "model.json").write_text("{}")
    name = "outputs/pretrain/model.safetensors"
    run = tracked.run(**{"everest.inputs": json.dumps({name: sha256_of(cell / "model.safetensors")})})
    seen = []

    def look(stage: str, benchmark: str | None, folder: Path) -> None:
        seen.append(sorted(path.name for path in (folder / "outputs/pretrain").iterdir()))
        again(stage, benchmark, folder)

    monkeypatch.setattr(reproduce, "_run_stage", look)
    assert reproduce.command(run)["equal"] is True
    assert seen == [["model.json", "model.safetensors"]]
    assert (cell / "model.safetensors").read_text() == "weights"


def test_a_stage_that_fails_leaves_nothing_and_keep_leaves_all(project: Path, tracked: Tracked) -> None:
    run = tracked.run()
    # The commit holds no pipeline, so the stage is this checkout's; its parameters are wrong.
    with pytest.raises(EverestError, match=r"pretrain ended with code 2"):
        reproduce.command(run)
    nothing_is_left(project)
    with pytest.raises(EverestError):
        reproduce.command(run, keep=True)
    assert (project / ".work/reproduce" / run / "models/code.py").exists()
    with pytest.raises(EverestError):  # a folder that was left is no obstacle
        reproduce.command(run)
    nothing_is_left(project)


def test_a_reproduction_takes_up_no_saved_work_and_is_tracked_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVEREST_WORK", "/the/checkouts")
    monkeypatch.setenv("EVEREST_RUNS", "/the/checkouts/runs")
    monkeypatch.setenv("EVEREST_PARENT_RUN", "an experiment")
    places: list[Workspace] = []
    monkeypatch.setattr(Workspace, "run_stage", lambda place, *_, **__: places.append(place))
    reproduce._run_stage("pretrain", None, tmp_path)
    (variables,) = (place.environment for place in places)
    assert variables["EVEREST_WORK"] == str(tmp_path / ".work")
    assert variables["EVEREST_RUNS"] == str(tmp_path / ".work/runs")
    assert variables["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path / '.work/check.db'}"
    assert variables["PYTHONPATH"].startswith(str(tmp_path)), "the code of the run's commit"
    assert "EVEREST_PARENT_RUN" not in variables


def test_the_same_run_is_not_reproduced_twice_at_once(project: Path, tracked: Tracked) -> None:
    run = tracked.run()
    with only_one(f"reproduce-{run}"), pytest.raises(BusyError, match=f"reproduce-{run} runs already"):
        reproduce.command(run)
    nothing_is_left(project)


def test_only_unknown_files_of_code_count() -> None:
    status = ' M models/a.py\n?? models/b.py\n?? notes/x.py\n?? "pipeline/c d.py"\n'
    assert unknown_code(status) == ["models/b.py", "pipeline/c d.py"]
