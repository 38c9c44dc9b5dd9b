"""The engine on real ranks: exact resume, agreement before the update, the same result on any number of ranks."""

import contextlib
import copy
import math
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.autograd.function import FunctionCtx

from pipeline.distributed.groups import start
from pipeline.distributed.heartbeat import Pulse
from pipeline.errors import EverestError, Interrupted
from pipeline.system.processes import StopRequest
from pipeline.training import checkpoint
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.engine import NonFinite
from pipeline.training.optim import Average
from tests.faults import checkpoint_trials, rank_trials, toy


def _engine(work: Path, **wish: object) -> toy.Engine:
    import json

    work.mkdir(parents=True, exist_ok=True)
    (work / "toy.json").write_text(json.dumps({"rank": 0, "epochs": 2, **wish}))
    return toy.build(work, start("cpu"), Pulse(None), StopRequest())


def test_two_ranks_have_the_losses_of_one_process(tmp_path: Path) -> None:
    wish = {"dropout": 0.0, "epochs": 3}
    rank_trials.forked(tmp_path / "one", 1, wish)
    rank_trials.forked(tmp_path / "two", 2, wish)
    one, two = rank_trials.losses(tmp_path / "one"), rank_trials.losses(tmp_path / "two")
    assert len(one) == 24
    assert max(abs(a - b) / abs(a) for a, b in zip(one[:20], two[:20], strict=True)) < 1e-6


def test_accumulation_has_the_losses_of_one_large_batch(tmp_path: Path) -> None:
    _engine(tmp_path / "one", dropout=0.0).run()
    _engine(tmp_path / "four", dropout=0.0, accumulate=4).run()
    one, four = rank_trials.losses(tmp_path / "one"), rank_trials.losses(tmp_path / "four")
    assert one == pytest.approx(four, rel=1e-5)


class _Replayed(torch.autograd.Function):
    """A weight whose gradient lies in the same memory each time, as a replayed CUDA graph gives it."""

    @staticmethod
    def forward(ctx: FunctionCtx, weight: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        ctx.memory = memory  # type: ignore[attr-defined]
        return weight.clone()

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.memory.copy_(grads[0]).detach(), None  # type: ignore[attr-defined]


def test_gradients_that_a_replay_writes_over_are_added_up(tmp_path: Path) -> None:
    _engine(tmp_path / "launched", dropout=0.0, accumulate=4).run()
    engine = _engine(tmp_path / "replayed", dropout=0.0, accumulate=4, graphs=True)
    layer = engine.model[0]
    memory = torch.empty_like(layer.weight)
    layer.forward = lambda values: nn.functional.linear(values, _Replayed.apply(layer.weight, memory), layer.bias)
    engine.run()
    assert rank_trials.losses(tmp_path / "replayed") == rank_trials.losses(tmp_path / "launched")


def test_a_stop_at_any_step_resumes_to_the_bit(tmp_path: Path) -> None:
    figure = rank_trials.stop_and_resume(tmp_path, ranks=1, accumulate=2, stops=[3, 11, 12, 20])
    assert (figure.trials, figure.bad) == (4, 0)


def test_two_ranks_resume_to_the_bit_in_the_middle_of_an_accumulation(tmp_path: Path) -> None:
    assert rank_trials.stop_and_resume(tmp_path, ranks=2, accumulate=2, stops=[9]).bad == 0


def test_a_killed_rank_continues_on_the_same_curve(tmp_path: Path) -> None:
    assert rank_trials.crash_and_resume(tmp_path, crashes=[11]).bad == 0


def test_other_ranks_see_every_sample_once_an_epoch(tmp_path: Path) -> None:
    assert rank_trials.other_ranks(tmp_path, [(2, 1)]).bad == 0


def test_sharded_ranks_have_the_losses_of_replicated_ones(tmp_path: Path) -> None:
    wish = {"dropout": 0.0, "ema_decay": 0.9, "clip_grad": 1.0}
    rank_trials.forked(tmp_path / "ddp", 2, wish)
    rank_trials.forked(tmp_path / "fsdp", 2, {**wish, "data_parallel": "fsdp"})
    assert rank_trials.losses(tmp_path / "fsdp") == pytest.approx(rank_trials.losses(tmp_path / "ddp"), rel=1e-6)


@pytest.mark.parametrize(("before", "after"), [("ddp", "fsdp"), ("fsdp", "ddp"), ("fsdp", "fsdp")])
def test_checkpoints_travel_between_sharded_and_replicated_ranks(tmp_path: Path, before: str, after: str) -> None:
    wish = {"dropout": 0.0, "epochs": 2, "ema_decay": 0.9, "rank": 0}
    rank_trials.forked(tmp_path / "whole", 2, wish)
    rank_trials.forked(tmp_path / "work", 2, {**wish, "data_parallel": before, "stop_at": 7})
    rank_trials.forked(tmp_path / "work", 2, {**wish, "data_parallel": after})
    whole, resumed = rank_trials.losses(tmp_path / "whole"), rank_trials.losses(tmp_path / "work")
    assert resumed == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
def test_a_nan_on_one_rank_is_agreed_on_by_both(tmp_path: Path, policy: str) -> None:
    assert rank_trials.nonfinite(tmp_path, policy).bad == 0


def test_a_non_finite_step_names_its_clips_and_the_cure(tmp_path: Path) -> None:
    import json

    engine = _engine(tmp_path, nan_at=3)
    with pytest.raises(NonFinite, match=r"step 3.*1 of 1 ranks.*Cure: lower base_lr"):
        engine.run()
    record = json.loads((tmp_path / "nonfinite-000000003.json").read_text())
    assert len(record["ranks"][0]["clips"][0]) == 8


def test_skipping_is_bounded(tmp_path: Path) -> None:
    engine = _engine(tmp_path, on_nonfinite="skip", max_nonfinite=1)
    normal = engine.task.loss
    engine.task.loss = lambda model, batch, epoch: normal(model, batch, epoch) * math.nan  # type: ignore[method-assign]
    with pytest.raises(NonFinite):
        engine.run()
    assert engine.nonfinite == 2


def test_a_rollback_passes_over_the_bad_batch_and_finishes(tmp_path: Path) -> None:
    engine = _engine(tmp_path, on_nonfinite="rollback", nan_at=9, always=True)
    engine.run()
    assert engine.passed_over == {9}
    assert engine.step == engine.total_steps
    assert all(math.isfinite(loss) for loss in rank_trials.losses(tmp_path))


def test_a_rollback_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    engine = _engine(tmp_path, on_nonfinite="rollback", nan_at=1)
    with pytest.raises(NonFinite, match="no checkpoint to go back to"):
        engine.run()


def test_a_damaged_newest_checkpoint_costs_only_the_steps_since_the_one_before(tmp_path: Path) -> None:
    rank_trials.forked(tmp_path / "whole", 1, {"rank": 0})
    work = tmp_path / "hurt"
    rank_trials.forked(work, 1, {"rank": 0, "stop_at": 13})
    newest = work / "checkpoints" / "step-000000014" / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    rank_trials.forked(work, 1)
    assert rank_trials.differing(rank_trials.result(tmp_path / "whole"), rank_trials.result(work)) == 0
    assert rank_trials.losses(work) == rank_trials.losses(tmp_path / "whole")


def test_a_resume_reads_every_file_of_the_checkpoint_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rank_trials.forked(tmp_path, 1, {"rank": 0, "stop_at": 13})
    seen: list[Path] = []
    real = checkpoint._verified_bytes
    monkeypatch.setattr(
        checkpoint, "_verified_bytes", lambda path, expected: [seen.append(path), real(path, expected)][1]
    )
    engine = _engine(tmp_path)
    engine.resume()
    assert engine.step == 14
    assert len(seen) == len(set(seen)) == len(list((tmp_path / "checkpoints" / "step-000000014").iterdir())) - 1


def test_a_signal_is_obeyed_at_the_step_boundary_and_loses_no_step(tmp_path: Path) -> None:
    engine = _engine(tmp_path, epochs=4)
    normal = engine.task.loss

    def stop_in_the_middle(model: nn.Module, batch: toy.ToyBatch, epoch: int) -> torch.Tensor:
        if engine.step == 5:
            engine.stop.signal = "SIGUSR1"
        return normal(model, batch, epoch)

    engine.task.loss = stop_in_the_middle  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match="SIGUSR1 after step 6; saved"):
        engine.run()
    assert checkpoint_trials.newest_step(Checkpoints(tmp_path / "checkpoints")) == 6
    assert len(rank_trials.losses(tmp_path)) == 6


def test_clipping_bounds_the_gradient_that_adamw_sees(tmp_path: Path) -> None:
    engine = _engine(tmp_path, clip_grad=0.01)
    seen: list[float] = []
    step = engine.train_step.optimizer.step

    def watched() -> None:
        seen.append(
            float(nn.utils.get_total_norm([p.grad for p in engine.train_step.parameters if p.grad is not None]))
        )
        step()

    engine.train_step.optimizer.step = watched  # type: ignore[method-assign,assignment]
    engine.run()
    assert max(seen) <= 0.01 * 1.001
    assert min(seen) > 0.0099


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_as_well(tmp_path: Path, precision: str) -> None:
    engine = _engine(tmp_path, precision=precision, epochs=8, dropout=0.0)
    engine.run()
    curve = rank_trials.losses(tmp_path)
    assert sum(curve[-8:]) < 0.7 * sum(curve[:8])
    assert all(p.dtype == torch.float32 for p in engine.model.parameters())


class Infinite(torch.autograd.Function):
    """A finite value, whose gradient is not."""

    @staticmethod
    def forward(ctx: object, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return gradient * math.inf


def test_gradients_that_no_scale_makes_finite_end_a_training_in_fp16_too(tmp_path: Path) -> None:
    engine = _engine(tmp_path, precision="fp16", epochs=4)
    normal = engine.task.loss
    engine.task.loss = lambda model, batch, epoch: Infinite.apply(normal(model, batch, epoch))  # type: ignore[method-assign]
    with pytest.raises(NonFinite, match=r"step 16: loss .*gradient norm nan"):
        engine.run()
    assert float(engine.scaler.scale) == 1, "lowered from 65536 by 16 steps, and the next one counts"


def test_the_average_equals_timms() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    theirs, ours = ModelEmaV3(copy.deepcopy(model), decay=0.9), Average(model, 0.9)
    for _ in range(5):
        with torch.no_grad():
            model.weight.add_(torch.randn(4, 4))
        theirs.update(model)
        ours.update(torch.tensor(0.0))
    assert torch.allclose(ours.values["weight"], theirs.module.weight, atol=1e-6)
    live = model.weight.detach().clone()
    with ours.in_place_of():
        assert torch.equal(model.weight, ours.values["weight"])
    assert torch.equal(model.weight, live)


def test_a_refused_step_leaves_the_average() -> None:
    model = nn.Linear(2, 2)
    average = Average(model, 0.5)
    before = average.values["weight"].clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    average.update(torch.tensor(1.0))
    assert torch.equal(average.values["weight"], before)


@pytest.mark.parametrize("select", ["best", "last"])
def test_the_best_and_the_last_are_kept_and_the_chosen_one_is_the_result(tmp_path: Path, select: str) -> None:
    engine = _engine(tmp_path, epochs=4, select=select)
    scores, seen = [0.2, 0.9, 0.9, 0.1], []

    def validate(epoch: int, last: bool, alive: object) -> dict[str, float]:
        seen.append({name: p.detach().clone() for name, p in engine.model.named_parameters()})
        return {"val/top1": scores[epoch]}

    engine.task.validate = validate  # type: ignore[method-assign]
    engine.run()
    last = engine.step
    result = engine.result()
    chosen = seen[1] if select == "best" else seen[3]
    assert all(torch.equal(result[name], value) for name, value in chosen.items())
    kept = Checkpoints(tmp_path / "checkpoints")
    assert max(kept.steps()) == last
    if select == "best":
        assert kept.best() == last // 2
        assert kept.best() in kept.steps()


def test_another_model_is_not_loaded_over(tmp_path: Path) -> None:
    _engine(tmp_path, epochs=1).run()
    with pytest.raises(EverestError, match=r"does not fit the model.*Cure: remove the work folder"):
        _engine(tmp_path, epochs=2, width=16).run()


@pytest.mark.slow  # a share of time: needs a quiet machine
def test_checkpoints_hold_the_training_up_for_less_than_a_twentieth(tmp_path: Path) -> None:
    engine = _engine(tmp_path, seconds=0.05, checkpoint_every_steps=4, epochs=3)
    engine.run()
    assert engine.spent.save < 0.05 * engine.spent.train


def test_what_a_training_took_is_counted_over_all_its_starts_and_ranks(tmp_path: Path) -> None:
    for stops in (True, False):
        engine = _engine(tmp_path, size=16, checkpoint_every_steps=2)
        engine.taken = lambda: (10.0, 1.0)
        if stops:
            engine.after_step = partial(engine.stop.note, signal.SIGTERM)
        with contextlib.suppress(Interrupted):
            engine.run()
    assert engine.step == 4
    saves = engine.spent.wall / 10
    assert saves >= 2, "of both starts"
    assert engine.spent.energy_wh == saves
    assert engine.spent.on_ranks(1, 4, own_energy=True).clips == engine.spent.clips // 4
    engine.spent.add_process(1.0, None)
    assert engine.spent.energy_wh is None, "one machine without a counter leaves no figure"
