"""Parameter groups and updates follow METHOD section 7."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

import models  # noqa: F401
from pipeline.training.optim import (
    LossScaler,
    adamw,
    depth_of,
    layer_of,
    parameter_groups,
    set_lr,
    step_unless,
    takes_decay,
)


@pytest.fixture(scope="module")
def classifier() -> torch.nn.Module:
    return timm.create_model("everest_tiny_patch16_224", img_size=32, num_frames=4, num_classes=3)


@pytest.fixture(scope="module")
def autoencoder() -> torch.nn.Module:
    return timm.create_model(
        "everest_pretrain_tiny_patch16_224", img_size=64, num_frames=8, keep_ratio=0.5, visible_ratio=0.2
    )


def _by_name(groups: list[dict]) -> dict[str, dict]:
    return {name: group for group in groups for name in group["names"]}


def test_vectors_biases_and_the_mask_token_do_not_decay(autoencoder: torch.nn.Module) -> None:
    groups = _by_name(parameter_groups(autoencoder, 0.05))
    undecayed = {name for name, group in groups.items() if group["weight_decay"] == 0.0}
    assert "mask_token" in undecayed
    assert all(name in undecayed for name, p in autoencoder.named_parameters() if p.ndim <= 1)
    assert groups["encoder.blocks.0.attn.qkv.weight"]["weight_decay"] == 0.05
    assert set(groups) == {name for name, _ in autoencoder.named_parameters()}


def test_every_parameter_is_in_exactly_one_group(classifier: torch.nn.Module) -> None:
    groups = parameter_groups(classifier, 0.05, layer_decay=0.75)
    listed = [name for group in groups for name in group["names"]]
    assert sorted(listed) == sorted(name for name, _ in classifier.named_parameters())


def test_layer_scales_are_powers_from_the_head_down(classifier: torch.nn.Module) -> None:
    groups = _by_name(parameter_groups(classifier, 0.05, layer_decay=0.75))
    depth = depth_of(classifier)
    assert depth == 4
    assert groups["head.weight"]["lr_scale"] == 1.0
    assert groups["fc_norm.weight"]["lr_scale"] == 1.0
    assert groups["blocks.3.mlp.fc1.weight"]["lr_scale"] == pytest.approx(0.75)
    assert groups["blocks.0.mlp.fc1.weight"]["lr_scale"] == pytest.approx(0.75**4)
    assert groups["patch_embed.proj.weight"]["lr_scale"] == pytest.approx(0.75**5)


def test_layer_scales_and_decay_equal_timms(classifier: torch.nn.Module) -> None:
    theirs = param_groups_layer_decay(
        classifier, weight_decay=0.05, layer_decay=0.75, no_weight_decay_list=classifier.no_weight_decay()
    )
    scale = {id(p): group["lr_scale"] for group in theirs for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in theirs for p in group["params"]}
    for group in parameter_groups(classifier, 0.05, layer_decay=0.75):
        for parameter in group["params"]:
            assert group["lr_scale"] == pytest.approx(scale[id(parameter)])
            assert group["weight_decay"] == decay[id(parameter)]


def test_frozen_parameters_are_left_out_and_prefixes_scale() -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    model["a"].requires_grad_(False)
    groups = _by_name(parameter_groups(model, 0.1, lr_scales={"b.": 3.0}))
    assert set(groups) == {"b.weight", "b.bias"}
    assert groups["b.bias"]["lr_scale"] == 3.0


def test_names_decide_as_well_as_shapes() -> None:
    matrix = torch.zeros(2, 2)
    assert takes_decay("blocks.0.mlp.fc1.weight", matrix)
    assert not takes_decay("pos_embed", matrix)
    assert not takes_decay("pool.query", matrix, exempt={"pool.query"})
    assert layer_of("encoder.blocks.11.norm1.weight", 12) == 12


def test_the_rate_of_a_step_reaches_each_group_through_its_scale() -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = adamw(parameter_groups(model, 0.1, lr_scales={"bias": 0.5}), (0.9, 0.95), 1e-8)
    set_lr(optimizer, 0.2)
    assert {group["names"][0]: group["lr"] for group in optimizer.param_groups} == {
        "weight": 0.2,
        "bias": 0.1,
    }


def test_a_refused_step_changes_no_parameter_and_no_moment() -> None:
    model = torch.nn.Linear(3, 3)
    optimizer = adamw(parameter_groups(model, 0.1), (0.9, 0.95), 1e-8)
    set_lr(optimizer, 0.1)
    model(torch.ones(1, 3)).sum().backward()
    step_unless(optimizer, torch.tensor(0.0))
    before = [p.clone() for p in model.parameters()]
    moments = [optimizer.state[p]["exp_avg"].clone() for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    step_unless(optimizer, torch.tensor(1.0))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(torch.equal(m, optimizer.state[p]["exp_avg"]) for m, p in zip(moments, model.parameters(), strict=True))
    assert all(float(optimizer.state[p]["step"]) == 1.0 for p in model.parameters())


def test_the_scaler_halves_on_overflow_and_doubles_after_clean_steps() -> None:
    scaler = LossScaler(True, torch.device("cpu"), initial=8.0, interval=2)
    scaler.update(torch.tensor(1.0))
    assert float(scaler.scale) == 4.0
    for _ in range(2):
        scaler.update(torch.tensor(0.0))
    assert float(scaler.scale) == 8.0
    gradients = [torch.full((2,), 16.0)]
    scaler.unscale(gradients)
    assert gradients[0].tolist() == [2.0, 2.0]


def test_the_scaler_is_inert_without_fp16() -> None:
    scaler = LossScaler(False, torch.device("cpu"))
    scaler.update(torch.tensor(1.0))
    assert float(scaler.scaled(torch.tensor(3.0))) == 3.0
    assert scaler.state() == {"scale": 1.0, "clean": 0.0}
