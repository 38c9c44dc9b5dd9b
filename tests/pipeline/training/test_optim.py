"""Parameter groups and updates follow METHOD section 7."""

import copy
import re

import pytest
import timm
import torch

import models  # noqa: F401
from models.classifier import POOLS
from pipeline.training.optim import (
    LossScaler,
    adamw,
    parameter_groups,
    set_lr,
    step_unless,
)
from pipeline.training.probes import Probes


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
    assert len(classifier.blocks) == 4
    assert groups["head.weight"]["lr_scale"] == 1.0
    assert groups["fc_norm.weight"]["lr_scale"] == 1.0
    assert groups["blocks.3.mlp.fc1.weight"]["lr_scale"] == pytest.approx(0.75)
    assert groups["blocks.0.mlp.fc1.weight"]["lr_scale"] == pytest.approx(0.75**4)
    assert groups["patch_embed.proj.weight"]["lr_scale"] == pytest.approx(0.75**5)


@pytest.mark.parametrize("layer_decay", [1.0, 0.75])
@pytest.mark.parametrize("head", POOLS)
def test_every_parameter_has_the_decay_and_the_scale_that_the_method_gives_it(head: str, layer_decay: float) -> None:
    model = timm.create_model("everest_tiny_patch16_224", img_size=32, num_frames=4, num_classes=3, head=head)
    groups = _by_name(parameter_groups(model, 0.05, layer_decay))
    for name, parameter in model.named_parameters():
        block = re.match(r"blocks\.(\d+)\.", name)
        layer = int(block[1]) + 1 if block else 0 if name.startswith("patch_embed") else 5
        assert groups[name]["lr_scale"] == pytest.approx(layer_decay ** (5 - layer))
        assert groups[name]["weight_decay"] == (0.0 if parameter.ndim <= 1 or name == "pool.query" else 0.05)


def test_frozen_parameters_are_left_out() -> None:
    model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    model["a"].requires_grad_(False)
    assert set(_by_name(parameter_groups(model, 0.1))) == {"b.weight", "b.bias"}


def test_each_head_of_a_probe_has_its_factor(classifier: torch.nn.Module) -> None:
    probes = Probes(copy.deepcopy(classifier), factors=(0.5, 2.0))
    groups = _by_name(probes.parameter_groups(0.1))
    assert set(groups) == {name for name, p in probes.named_parameters() if p.requires_grad}
    assert {name: groups[name]["lr_scale"] for name in ("heads.0.head.weight", "heads.1.head.bias")} == {
        "heads.0.head.weight": 0.5,
        "heads.1.head.bias": 2.0,
    }


def test_a_frozen_encoder_drops_no_paths_while_its_heads_train() -> None:
    shape = {"img_size": 32, "num_frames": 4, "num_classes": 3, "drop_path_rate": 0.5, "fc_drop_rate": 0.5}
    probes = Probes(timm.create_model("everest_tiny_patch16_224", **shape), factors=(0.5, 2.0))
    clip_BCTHW = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = []
    for training in (True, True, False):
        probes.heads[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        probes.train(training)(clip_BCTHW)
        assert [head.training and head.fc_drop.training for head in probes.heads] == [training] * 2
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_a_probe_exempts_from_weight_decay_what_fine_tuning_exempts() -> None:
    classifier = timm.create_model(
        "everest_tiny_patch16_224", img_size=32, num_frames=4, num_classes=3, head="attentive"
    )
    tuned = _by_name(parameter_groups(classifier, 0.05))
    probed = _by_name(Probes(copy.deepcopy(classifier), factors=(0.5, 2.0)).parameter_groups(0.05))
    assert probed["heads.1.pool.query"]["weight_decay"] == 0.0
    assert {name: group["weight_decay"] for name, group in probed.items()} == {
        name: tuned[name.split(".", 2)[2]]["weight_decay"] for name in probed
    }


def test_the_rate_of_a_step_reaches_each_group_through_its_scale() -> None:
    model = torch.nn.Linear(2, 2)
    groups = parameter_groups(model, 0.1)
    _by_name(groups)["bias"]["lr_scale"] = 0.5
    optimizer = adamw(groups, (0.9, 0.95), 1e-8)
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
