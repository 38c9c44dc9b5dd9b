"""Switches that must not change what is learned: compilation, recomputation, fused updates, loss scaling."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import timm
import torch

import models  # noqa: F401 - registers the names with timm
from pipeline.stages import pretrain
from pipeline.training.optim import LossScaler, adamw, parameter_groups, set_lr, step_unless

CPU = torch.device("cpu")
PRETRAIN = {"img_size": 32, "num_frames": 8, "keep_ratio": 0.5, "visible_ratio": 0.2}


def _model(name: str, **arguments: object) -> torch.nn.Module:
    torch.manual_seed(1)
    return timm.create_model(name, **arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("everest_pretrain_tiny_patch16_224", PRETRAIN),
        ("everest_tiny_patch16_224", {"img_size": 32, "num_frames": 8, "num_classes": 5, "keep_ratio": 0.6}),
    ],
)
def test_recomputing_activations_changes_no_gradient(name: str, arguments: dict[str, object]) -> None:
    clips_BCTHW = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    gradients = []
    for recompute in (False, True):
        model = _model(name, **arguments)
        model.set_grad_checkpointing(recompute)
        torch.manual_seed(3)
        model(clips_BCTHW).square().mean().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, value in gradients[0].items():
        assert torch.allclose(value, gradients[1][key], atol=1e-7), key


def test_the_fused_update_is_adamws_definition() -> None:
    """Loshchilov and Hutter, Decoupled Weight Decay Regularization, algorithm 2, written out."""
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    optimizer = adamw(parameter_groups(model, 0.05), (0.9, 0.95), 1e-8)
    expected = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    first = {name: torch.zeros_like(p) for name, p in expected.items()}
    second = {name: torch.zeros_like(p) for name, p in expected.items()}
    for step in range(1, 6):
        lr = 0.01 * step
        set_lr(optimizer, lr)
        for name, parameter in model.named_parameters():
            gradient = torch.randn_like(parameter)
            parameter.grad = gradient
            g, decay = gradient.double(), 0.0 if name == "bias" else 0.05
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.95 * second[name] + 0.05 * g * g
            corrected = first[name] / (1 - 0.9**step)
            spread = (second[name] / (1 - 0.95**step)).sqrt() + 1e-8
            expected[name] = expected[name] * (1 - lr * decay) - lr * corrected / spread
        step_unless(optimizer, torch.tensor(0.0))
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.double(), expected[name], atol=1e-6), name


def test_the_scaler_moves_as_torchs_does() -> None:
    ours = LossScaler(True, CPU, initial=1024.0, interval=3)
    theirs = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=3)
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    for overflow in (0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0):
        parameter.grad = torch.full((2,), float("inf") if overflow else 1.0)
        theirs.scale(torch.zeros(()))
        theirs.unscale_(optimizer)
        theirs.step(optimizer)
        theirs.update()
        ours.update(torch.tensor(float(overflow)))
        assert float(ours.scale) == theirs.get_scale()


def _losses() -> list[float]:
    with Path("outputs/pretrain/history.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.slow  # the first compilation takes a minute
@pytest.mark.parametrize(
    ("how", "ranks", "accumulate"), [(True, 1, 1), (True, 2, 1), ("graphs", 1, 2), ("graphs", 2, 1)]
)
def test_compiled_training_has_the_losses_of_eager_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: bool | str, ranks: int, accumulate: int
) -> None:
    from small_training import ready

    monkeypatch.chdir(tmp_path)
    common = {"compute__ranks": ranks, "pretrain__accumulate": accumulate}
    pretrain.run(ready(**common), None)
    eager = _losses()
    metrics = pretrain.run(ready(**common, compute__compile=how, pretrain__max_nonfinite=9), None)
    assert _losses() == pytest.approx(eager, rel=1e-4)
    assert metrics["efficiency/first_step_seconds"] > metrics["efficiency/step_seconds"]


@pytest.mark.slow
def test_an_autoencoder_sharded_by_its_blocks_has_the_losses_of_a_replicated_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from small_training import ready

    curves = []
    for how in ("ddp", "fsdp"):
        (tmp_path / how).mkdir()
        monkeypatch.chdir(tmp_path / how)
        pretrain.run(ready(compute__ranks=2, compute__data_parallel=how), None)
        curves.append(_losses())
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
