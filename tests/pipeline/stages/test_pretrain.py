"""The pre-training stage on real videos: what it writes, what it refuses, what it does not depend on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import ready

from models.weights import load_model
from pipeline.distributed.groups import Ranks
from pipeline.distributed.heartbeat import Pulse
from pipeline.errors import InputError
from pipeline.params import Params
from pipeline.planning.stage_cost import StageCost
from pipeline.stages import pretrain
from pipeline.system.processes import StopRequest
from pipeline.tracking.headline import headline
from pipeline.training import tasks
from pipeline.training.engine import Engine
from pipeline.training.journal import Journal, NoSink, Progress

CPU = torch.device("cpu")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _losses(params: Params, work: Path, ranks: int = 1) -> list[float]:
    """The losses of a pre-training in this process; of several ranks the mean of their shares."""
    built = [tasks.PretrainTask(params, Ranks(rank, ranks, rank, CPU)) for rank in range(ranks)]
    model = built[0].model
    losses = []
    for epoch in range(2):
        for batches in zip(*(task.loader.epoch(epoch) for task in built), strict=True):
            with torch.no_grad():
                shares = [task.loss(model, b, epoch) for task, b in zip(built, batches, strict=True)]
            losses.append(float(torch.stack(shares).mean()))
    return losses


def test_it_leaves_a_model_that_loads_a_history_and_its_cost(here: Path) -> None:
    params = ready()
    metrics = pretrain.run(params, None)
    model = load_model(Path("outputs/pretrain"))
    assert sum(p.numel() for p in model.parameters()) > 100_000
    history = Path("outputs/pretrain/history.csv").read_text().splitlines()
    assert len(history) == 1 + 2 * (18 // 8)
    assert metrics == json.loads(Path("outputs/pretrain/metrics.json").read_text())
    assert headline(metrics) == json.loads(Path("metrics/pretrain.json").read_text())
    wanted = {
        "train/loss", "efficiency/gmacs_per_clip", "efficiency/tokens_per_clip", "efficiency/peak_memory_gib",
        "efficiency/clips_per_second", "efficiency/mfu", "efficiency/loader_wait_fraction",
        "efficiency/wall_seconds",
    }  # fmt: skip
    assert wanted <= metrics.keys()
    assert metrics["efficiency/gmacs_per_clip"] == pytest.approx(StageCost(params).cost.multiply_adds / 1e9, rel=0.005)
    assert metrics["efficiency/tokens_per_clip"] == int(0.2 * 4 * 4)
    assert Path("metrics/pretrain.csv").read_text().startswith("step,loss,lr")
    assert len(list(Path("outputs/pretrain/pictures").glob("*.png"))) == tasks.PICTURES
    assert not list(Path(".work/pretrain").rglob("checkpoints"))


def test_masks_crops_and_clips_do_not_depend_on_the_number_of_ranks(here: Path) -> None:
    params = ready()
    one, two = _losses(params, here, 1), _losses(params, here, 2)
    assert one == pytest.approx(two, rel=1e-6)


@pytest.mark.parametrize("workers", [2, 4])
def test_losses_do_not_depend_on_the_number_of_loader_threads(here: Path, workers: int) -> None:
    none = _losses(ready(compute__loader_workers=0), here)
    assert _losses(ready(compute__loader_workers=workers), here) == none


def test_online_frame_selection_trains_on_the_chosen_slots(here: Path) -> None:
    choice = {"mode": "online", "oversample": 1.5, "window": "grow"}
    params = ready(pretrain__frame_selection=choice)
    task = tasks.PretrainTask(params, Ranks(0, 1, 0, CPU))
    batch = next(iter(task.loader.epoch(0)))
    assert batch.clips_BTHWC.shape[1] == 12
    assert torch.isfinite(task.loss(task.model, batch, 0))


def test_a_resumed_run_has_the_same_losses_as_one_that_never_stopped(here: Path) -> None:
    params = ready()

    def engine(work: Path) -> Engine:
        task = tasks.PretrainTask(params, Ranks(0, 1, 0, CPU))
        parts: dict[str, Any] = {"pulse": Pulse(None), "stop": StopRequest(), "progress": Progress("", False)}
        return Engine(task, task.settings, task_ranks, work, journal=Journal(work / "h.csv", NoSink()), **parts)

    task_ranks = Ranks(0, 1, 0, CPU)
    whole, parts = here / "whole", here / "parts"
    engine(whole).run()
    first = engine(parts)
    first.stop.signal = "SIGTERM"
    with pytest.raises(Exception, match="stopped by SIGTERM after step 1"):
        first.run()
    engine(parts).run()
    losses = [[line.split(",")[2] for line in (f / "h.csv").read_text().splitlines()] for f in (whole, parts)]
    assert losses[0] == losses[1]


def test_a_missing_corpus_names_the_command(here: Path) -> None:
    from small_benchmark import params

    with pytest.raises(InputError, match=r"data/corpus/small.parquet does not exist.*everest corpus small"):
        pretrain.run(params(), None)


def test_a_benchmark_is_refused(here: Path) -> None:
    from small_benchmark import params

    with pytest.raises(InputError, match="takes no benchmark"):
        pretrain.run(params(), "small")
