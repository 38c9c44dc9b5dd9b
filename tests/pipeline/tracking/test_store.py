"""The tracking store: its own file, runs and models as plain values, what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.tracking.store import BATCH_PARAMS, MAX_PARAM, Store

MAKE = "from pipeline.tracking.store import Store; print(len(Store('sqlite:///mlflow.db').search()))"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(root))
    return tmp_path


@pytest.fixture
def store(tracking_store: str, tmp_path: Path) -> Store:
    """A store of its own, whose tables were made once."""
    return Store(tracking_store)


@pytest.mark.slow  # imports MLflow and makes its tables twice
def test_a_store_whose_maker_is_killed_is_not_there_and_the_next_start_makes_it(here: Path) -> None:
    maker = subprocess.Popen([sys.executable, "-c", MAKE], stdout=subprocess.PIPE)
    unfinished = here / ".mlflow.db.new"
    deadline = time.monotonic() + 60
    while not unfinished.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(maker.pid, signal.SIGKILL)
    maker.wait()
    assert unfinished.exists(), "killed while it made the tables"
    assert not (here / "mlflow.db").exists()
    done = subprocess.run([sys.executable, "-c", MAKE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr
    assert not unfinished.exists()


def test_params_that_a_run_has_stay_and_long_values_are_cut(store: Store) -> None:
    run = store.create_run("e", "key", "n", 0, {})
    store.params(run, {"a": "1"})
    store.params(run, {"a": "2", **{f"p{number}": "x" * (MAX_PARAM + 1) for number in range(BATCH_PARAMS + 1)}})
    params = store.get_run(run)["params"]
    assert params.pop("a") == "1"
    assert len(params) == BATCH_PARAMS + 1, "more than the server takes at once"
    assert {len(value) for value in params.values()} == {MAX_PARAM}


def test_an_interrupted_call_that_made_a_run_finds_it_again(store: Store) -> None:
    first = store.create_run("e", "key-of-this-run", "n", 0, {"x": "1"})
    assert store.create_run("e", "key-of-this-run", "n", 0, {"x": "1"}) == first
    assert store.create_run("e", "another-key", "n", 0, {"x": "1"}) != first


def test_a_run_that_a_user_names_wrongly_is_bad_input_and_a_lost_store_is_not(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"'0{32}' is no run of sqlite:.*Cure: copy the id"):
        store.run("0" * 32)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(InputError, match=r"there is no tracking store .*none\.db\. Cure: "):
        Store.existing()
    assert not (tmp_path / "none.db").exists(), "a store that is only asked is not made"


def test_a_run_comes_back_as_plain_values(store: Store, tmp_path: Path) -> None:
    run = store.create_run("e", "plain", "n", 5, {"t": "1"})
    store.metrics(run, [("a", 1.0, 10, 1), ("a", 2.0, 20, 2), ("a", 2.0, 20, 2)])
    store.inputs(run, {"data/cache/motion": "aa"})
    store.status(run, "FINISHED", 9)
    (tmp_path / "note.txt").write_text("seen")
    store.artifact(run, tmp_path / "note.txt", "code")
    result = store.get_run(run)
    assert (result["name"], result["status"], result["start"], result["end"]) == ("n", "FINISHED", 5, 9)
    assert (result["metrics"], result["inputs"]) == ({"a": 2.0}, {"data/cache/motion": "aa"})
    assert store.history(run, "a") == [(1, 1.0), (2, 2.0)], "sent twice, stored once"
    assert store.artifacts(run) == ["code/note.txt"]
    assert store.download(run, "code/note.txt", tmp_path / "fetched").read_text() == "seen"


def test_a_model_that_is_not_there_is_named_with_those_that_are(store: Store, tmp_path: Path) -> None:
    run = store.create_run("e", "models", "n", 0, {})
    (tmp_path / "model").mkdir()
    assert store.models.register(run, "k", tmp_path / "model", "known", {}, ["candidate"]) == "1"
    assert store.models.register(run, "k", tmp_path / "model", "known", {}, ["candidate"]) == "1", "the same call again"
    with pytest.raises(InputError, match=r"no version or alias 'best'; there are: 1, @candidate \(1\)"):
        store.models.version("known", "best")
    with pytest.raises(InputError, match="there are: none, the models are .*known"):
        store.models.version("unknown", "1")
    assert [version["version"] for version in store.models.of_run(run)] == ["1"]
