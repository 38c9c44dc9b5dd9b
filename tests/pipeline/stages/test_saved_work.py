"""What one checkout has saved is taken up in another, by the name that its inputs give it."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_training import ready

from pipeline.data.cache.publish import store_dir
from pipeline.distributed import launch
from pipeline.distributed.groups import Ranks
from pipeline.distributed.heartbeat import Pulse
from pipeline.errors import BusyError, Interrupted
from pipeline.params import Params, check_params
from pipeline.stages import preprocess, pretrain
from pipeline.system.locks import locked
from pipeline.system.processes import StopRequest
from pipeline.training import job, worker


class Launch:
    """One rank in this process, told to stop after its first step if `stops`; notes the checkpoints that it met."""

    def __init__(self, stops: bool) -> None:
        self.stops = stops
        self.met: list[str] = []

    def __call__(
        self, module: str, arguments: list[str], compute: object, stage: str, work: Path, locks: object
    ) -> None:
        self.met = sorted(path.name for path in work.glob("checkpoints/step-*"))
        stop = StopRequest()
        if self.stops:
            stop.signal = "SIGTERM"
        worker.train(worker.TrainingJob.read(work), work, Ranks(0, 1, 0, torch.device("cpu")), Pulse(None), stop)


@pytest.fixture
def worktrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Params]:
    """Two folders with the same data, whose unfinished work lies together in a third; we are in the first."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    monkeypatch.setenv("EVEREST_WORK", str(tmp_path / "saved"))
    monkeypatch.chdir(first)
    params = ready()
    shutil.copytree(first / "data", second / "data")
    return first, second, params


def started(monkeypatch: pytest.MonkeyPatch, params: Params, stops: bool = False) -> list[str]:
    """Start pre-training here; returns the checkpoints that it began with."""
    begun = Launch(stops)
    monkeypatch.setattr(job, "start", begun)
    if stops:
        with pytest.raises(Interrupted):
            pretrain.run(params, None)
    else:
        pretrain.run(params, None)
    return begun.met


def losses() -> list[str]:
    return [line.split(",")[2] for line in Path("outputs/pretrain/history.csv").read_text().splitlines()]


def test_a_training_goes_on_in_another_worktree_where_it_was_stopped(
    worktrees: tuple[Path, Path, Params], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, second, params = worktrees
    assert started(monkeypatch, params, stops=True) == []
    monkeypatch.chdir(second)
    other = check_params(params.model_dump(mode="json") | {"seed": params.seed + 1})
    assert started(monkeypatch, other, stops=True) == [], "another seed's work is not its own"
    assert len(started(monkeypatch, params)) == 1
    continued = losses()
    monkeypatch.setenv("EVEREST_WORK", str(tmp_path / "nothing saved"))
    assert started(monkeypatch, params) == []
    assert continued == losses()


def test_checkpoints_of_a_finished_training_go_before_another_start_can_hold_their_folder(
    worktrees: tuple[Path, Path, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    remove: Callable[..., None] = shutil.rmtree
    refused: list[str] = []

    def watched(path: Path, **options: bool) -> None:
        if path.name == "checkpoints":
            with pytest.raises(BusyError, match="the same training runs already"), launch.locked(path.parent):
                pass
            refused.append(path.name)
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    started(monkeypatch, worktrees[2])
    assert refused == ["checkpoints"]


def test_shards_that_another_worktree_has_built_are_not_built_again(
    worktrees: tuple[Path, Path, Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, params = worktrees
    shutil.rmtree(second / "data" / "cache")
    monkeypatch.chdir(second)
    # The videos are shared too, as EVEREST_DATA shares them among worktrees.
    monkeypatch.setenv("EVEREST_DATA", str(first / "data"))
    metrics = preprocess.run(params, "small")
    assert metrics["frames_decoded"] == 0
    assert metrics["units_reused"] > 0
    assert (second / "data/cache/small/cache.json").exists()


def test_of_two_that_build_the_same_shards_the_second_waits_and_says_so(
    worktrees: tuple[Path, Path, Params], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, second, params = worktrees
    monkeypatch.chdir(second)
    ended: list[float] = []
    with locked(store_dir("small").parent / "lock", "a test"):
        thread = threading.Thread(target=lambda: (preprocess.run(params, "small"), ended.append(time.monotonic())))
        thread.start()
        deadline = time.monotonic() + 30
        while "waits for another one" not in capsys.readouterr().err and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.monotonic() < deadline
        released = time.monotonic()
    thread.join(60)
    assert ended, "it never ended"
    assert ended[0] > released
