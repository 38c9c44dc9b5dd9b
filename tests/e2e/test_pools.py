"""A run whose data another worker makes, in another checkout: by a DVC remote, or by a cache that both have."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from canary_site import Canary, init, make_canary
from prefect_site import until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DATA = "data/cpu"
ENDED = ("Completed", "Failed", "Crashed", "Cancelled")


class Pools:
    """A training's checkout with its server, and the data's checkout, whose worker takes runs of another pool."""

    def __init__(self, code: Path, folder: Path) -> None:
        self.site: Canary = make_canary(code, folder / "trains")
        self.data = folder / "makes-data"
        subprocess.run(["git", "clone", "--quiet", str(self.site.root), str(self.data)], check=True)

    def start(self) -> None:
        self.site.start_server()
        init(self.site)
        self.site.start_worker()
        # The data's machine has a home, an environment and a checkout of its own.
        there = {"PWD": str(self.data), "PYTHONPATH": str(self.data)}
        command = ("-m", "flows.worker", "--pool", "everest-cpu")
        self.site.start(*command, log="data-worker.log", folder=self.data, **there)

    def dvc(self, folder: Path, *words: str) -> None:
        subprocess.run(["dvc", *words], cwd=folder, env=self.site.environment, check=True, capture_output=True)

    def submit(self, number: int, **more: object) -> str:
        return self.site.submit(number, data_on=DATA, **more)

    def end_of(self, run: str, seconds: float = 240) -> str:
        until(lambda: self.site.state(run) in ENDED, seconds, "the run ends")
        return self.site.state(run)

    def data_run_of(self) -> str:
        rows = self.site.ask(
            "flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "flows": {"name": {"any_": ["data"]}}}
        )
        return str(rows[0]["id"])


@pytest.fixture(scope="module")
def pools(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pools]:
    pools = Pools(root, tmp_path_factory.mktemp("pools"))
    try:
        pools.start()
        yield pools
    finally:
        pools.site.end()


def test_without_a_way_back_nothing_is_made(pools: Pools) -> None:
    run = pools.submit(0)
    assert pools.end_of(run) == "Failed"
    assert "dvc remote add --local --default NAME URL" in pools.site.message(run)
    assert not (pools.data / "data" / "raw").exists()
    assert not (pools.site.root / "data" / "raw").exists()


def test_data_come_by_the_remote_and_the_training_fetches_no_video(pools: Pools, tmp_path: Path) -> None:
    for folder in (pools.site.root, pools.data):
        pools.dvc(folder, "remote", "add", "--local", "--default", "between", str(tmp_path))
    try:
        run = pools.submit(1)
        assert pools.end_of(run) == "Completed", pools.site.message(run)
        assert (pools.data / "data" / "raw").is_dir()
        assert not (pools.site.root / "data" / "raw").exists(), "the training's machine needs no videos"
        states = pools.site.stages(run)
        made = {name for name, state in states.items() if state == "Completed"}
        assert not {name for name in made if name.startswith(("download", "preprocess", "baseline", "corpus"))}
        assert {"pretrain", "report"} <= made
        assert set(pools.site.stages(pools.data_run_of())) == set(states) - {
            name for name in states if name.startswith(("pretrain", "finetune", "evaluate", "report"))
        }
    finally:
        for folder in (pools.site.root, pools.data):
            pools.dvc(folder, "remote", "remove", "--local", "between")


def test_one_cache_for_both_needs_no_remote(pools: Pools, tmp_path: Path) -> None:
    shutil.rmtree(pools.site.root / ".dvc" / "cache")
    for folder in (pools.site.root, pools.data):
        pools.dvc(folder, "cache", "dir", "--local", str(tmp_path))
    run = pools.submit(2)
    assert pools.end_of(run) == "Completed", pools.site.message(run)
    assert pools.site.stages(run)["preprocess@" + pools.site.benchmark] == "Cached"
    assert not list((tmp_path / "everest").iterdir()), "no mark is left"


def test_an_order_to_cancel_reaches_the_data(pools: Pools) -> None:
    run = pools.submit(3, **{f"benchmarks.{pools.site.benchmark}.data.source.train": 4000})
    until(lambda: "in work pool everest-cpu" in pools.site.lines(run), 60, "the data are asked for")
    data = pools.data_run_of()
    until(lambda: pools.site.state(data) == "Running", 60, "the data's run begins")
    pools.site.cancel(run)
    assert pools.end_of(run, 60) == "Cancelled"
    assert pools.end_of(data, 60) == "Cancelled"


def test_what_makes_no_data_is_refused(pools: Pools) -> None:
    for name, word in (("data/gpu", "is no deployment"), ("experiment/demo", "does not make data")):
        run = pools.site.submit(4, data_on=name)
        assert pools.end_of(run, 60) == "Failed"
        assert word in pools.site.message(run)
