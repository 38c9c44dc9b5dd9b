"""A fine-tuning of which a part learns: frozen weights stay, several ranks agree, and a stop changes no bit."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_training import ready

from models.tuning.lora import merged
from models.weights import load_model, read_info
from pipeline.distributed.groups import Ranks
from pipeline.distributed.heartbeat import Pulse
from pipeline.errors import Interrupted
from pipeline.params import Params, check_params
from pipeline.system.processes import StopRequest
from pipeline.training import tasks
from pipeline.training.engine import Engine
from pipeline.training.journal import Journal, NoSink, Progress
from tests.faults import rank_trials

ONE = Ranks(0, 1, 0, torch.device("cpu"))
#: With an average, a decay by layers and random depth, so that each of them meets frozen weights.
LITTLE = {
    "finetune__init": "scratch", "finetune__ema_decay": 0.8, "finetune__layer_decay": 0.8, "finetune__drop_path": 0.1,
    "finetune__epochs": 3, "finetune__base_lr": 0.1,
}  # fmt: skip
LORA = {"finetune__train": "head", "finetune__lora_rank": 4}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _engine(params: Params, work: Path, ranks: Ranks = ONE, stop_at: int | None = None) -> Engine:
    task, stop = tasks.FinetuneTask(params, "small", ranks), StopRequest()
    work.mkdir(exist_ok=True)

    def after_step() -> None:
        if engine.step == stop_at:
            stop.signal = "SIGTERM"

    journal = Journal(work / "history.csv" if ranks.main else None, NoSink())
    engine = Engine(
        task, task.settings, ranks, work, journal=journal, pulse=Pulse(None), stop=stop,
        progress=Progress("", False), after_step=after_step,
    )  # fmt: skip
    return engine


@pytest.mark.parametrize("train", [{"finetune__train": "last-1"}, {"finetune__train": "norm"}, LORA])
def test_frozen_weights_stay_and_the_model_that_comes_out_is_a_plain_one(here: Path, train: dict[str, object]) -> None:
    params = ready(**LITTLE, **train)
    engine = _engine(params, here / "work")
    before = copy.deepcopy(engine.model.state_dict())
    engine.run()
    after, learned = engine.model.state_dict(), {n for n, p in engine.model.named_parameters() if p.requires_grad}
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    # `down` has no gradient in the step in which `up` is still 0, and moves after it.
    assert changed == learned
    assert set(engine.average.tensors()) == learned
    tensors = engine.result()
    engine.task.export(tensors, here / "out")
    model = load_model(here / "out")
    stage = params.finetune
    assert (read_info(here / "out")["train"], read_info(here / "out")["lora_rank"]) == (stage.train, stage.lora_rank)
    clip = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad(), engine.average.in_place_of():
        assert torch.allclose(model.eval()(clip), engine.model.eval()(clip), atol=1e-5)


def test_a_stopped_training_of_adapters_goes_on_to_the_bit(here: Path) -> None:
    params = ready(**LITTLE, **LORA)
    whole = _engine(params, here / "whole")
    whole.run()
    with pytest.raises(Interrupted):
        _engine(params, here / "work", stop_at=3).run()
    again = _engine(params, here / "work")
    again.run()
    assert rank_trials.differing(whole.result(), again.result()) == 0
    assert rank_trials.losses(here / "whole") == rank_trials.losses(here / "work")
    moments = again.checkpoints.newest().tensors["optimizer"]
    assert {name.split("|")[0] for name in moments} == {n for n, p in again.model.named_parameters() if p.requires_grad}


def _train(work: Path, ranks: Ranks, _pulse: Pulse, _stop: StopRequest) -> None:
    engine = _engine(check_params(json.loads((work / "params.json").read_text())), work, ranks)
    engine.run()
    tensors = merged(engine.result(), 16.0)
    if ranks.main:
        save_file(tensors, work / "result.safetensors")


@pytest.mark.parametrize("train", [LORA, {"finetune__train": "last-1"}], ids=["lora", "last-1"])
def test_two_ranks_replicated_or_sharded_learn_what_one_does(here: Path, train: dict[str, object]) -> None:
    calm = {**LITTLE, **train, "finetune__drop_path": 0.0}
    params = ready(**calm)
    results = {}
    for name, ranks, how in (("one", 1, "ddp"), ("ddp", 2, "ddp"), ("fsdp", 2, "fsdp")):
        work = here / name
        work.mkdir()
        content = params.model_dump(mode="json")
        content["compute"]["data_parallel"] = how
        (work / "params.json").write_text(json.dumps(content))
        ends = rank_trials.forked(work, ranks, train=_train)
        assert [end.state for end in ends] == ["done"] * ranks, ends
        results[name] = load_file(work / "result.safetensors"), rank_trials.losses(work)
    for name in ("ddp", "fsdp"):
        assert results[name][1] == pytest.approx(results["one"][1], rel=1e-5)
        for key, value in results["one"][0].items():
            assert torch.allclose(value, results[name][0][key], atol=1e-5), key


def test_sharded_ranks_with_unequal_batches_of_held_out_videos_wait_for_nobody(here: Path) -> None:
    calm = {**LITTLE, "finetune__drop_path": 0.0, "finetune__batch": 4}
    content = ready(20, **calm).model_dump(mode="json")  # 5 are held out: the fifth is one rank's
    losses = {}
    for ranks, how in ((1, "ddp"), (2, "fsdp")):
        work = here / how
        work.mkdir()
        content["compute"]["data_parallel"] = how
        (work / "params.json").write_text(json.dumps(content))
        ends = rank_trials.forked(work, ranks, train=_train)
        assert [end.state for end in ends] == ["done"] * ranks, ends
        with (work / "history.csv").open(newline="") as file:
            losses[how] = [float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]]
    assert len(losses["ddp"]) == 3
    assert losses["fsdp"] == pytest.approx(losses["ddp"], rel=1e-5)
