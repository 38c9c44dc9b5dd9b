"""What learns of a classifier, its adapters and their merging, and the cost of a step against torch's counter."""

from __future__ import annotations

import pytest
import timm
import torch
from flops import counted

from models.classifier import POOLS
from models.cost import multiply_adds
from models.registry import create_classifier
from models.tuning.learning import Learning, arrange, passes, with_adapters
from models.tuning.lora import merged

NAME = "everest_tiny_patch16_224"
ARGUMENTS = {"img_size": 64, "num_frames": 8, "num_classes": 5, "keep_ratio": 0.6}


def _classifier(learning: Learning, **more: object) -> torch.nn.Module:
    torch.manual_seed(1)
    model = create_classifier(NAME, ARGUMENTS | more)
    arrange(model, learning)
    return model


def _learned(learning: Learning) -> set[str]:
    return {name for name, parameter in _classifier(learning).named_parameters() if parameter.requires_grad}


HEAD = {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}


def test_each_choice_leaves_what_it_names_to_learn() -> None:
    every = {name for name, _ in timm.create_model(NAME, **ARGUMENTS).named_parameters()}
    assert _learned(Learning()) == every
    assert _learned(Learning("head")) == HEAD
    assert _learned(Learning("last-1")) == HEAD | {name for name in every if name.startswith("blocks.3.")}
    assert _learned(Learning("norm")) == HEAD | {name for name in every if ".norm" in name}
    adapters = _learned(Learning("head", rank=2)) - HEAD
    assert len(adapters) == 4 * 4
    assert all("_adapter." in name for name in adapters)


def test_adapters_add_nothing_at_first_and_are_merged_into_the_weights_to_rounding() -> None:
    clip = torch.randn(2, 3, 8, 64, 64)
    plain = _classifier(Learning("head")).eval()
    model = _classifier(Learning("head", rank=4, alpha=8.0)).eval()
    assert torch.equal(model(clip), plain(clip))
    for name, parameter in model.named_parameters():
        if ".up." in name or name.startswith("head."):
            torch.nn.init.normal_(parameter, std=0.2)
    back = create_classifier(NAME, ARGUMENTS).eval()
    back.load_state_dict(merged(model.state_dict(), 8.0))
    difference = (back(clip) - model(clip)).abs().max()
    assert (model(clip) - plain(clip)).abs().max() > 0.1
    assert difference < 1e-4


@pytest.mark.parametrize("head", POOLS)
@pytest.mark.parametrize(
    "learning",
    [Learning("head"), Learning("last-2"), Learning("norm"), Learning("head", rank=8), Learning("norm", rank=8)],
    ids=lambda learning: f"{learning.train}-{learning.rank}",
)
def test_the_multiply_adds_of_a_step_are_those_that_torch_counts(learning: Learning, head: str) -> None:
    with torch.device("meta"):
        model = _classifier(learning, head=head)
        clip = torch.empty(1, 3, 8, 64, 64)
    flops = counted(lambda: model(clip).sum().backward())
    cost = multiply_adds("tiny", "finetune", keep_ratio=0.6, frames=8, resolution=64, num_classes=5, head=head)
    cost = with_adapters(cost, "tiny", learning)
    ours = passes(cost, "tiny", learning) * cost.multiply_adds
    assert ours == pytest.approx(flops, rel=5e-3)


def test_less_that_learns_costs_less() -> None:
    cost = multiply_adds("base", "finetune", keep_ratio=0.6, num_classes=101)
    costs = [passes(cost, "base", Learning(train)) for train in ("head", "last-2", "norm", "all")]
    assert costs == sorted(costs)
    assert costs[0] < 1.01
    assert costs[-1] == 3.0


@pytest.mark.parametrize(("learning", "drops"), [(Learning("head"), False), (Learning("last-1"), True)])
def test_a_head_that_learns_alone_sees_the_features_that_it_is_asked_for(learning: Learning, drops: bool) -> None:
    model = _classifier(learning, drop_path_rate=0.5)
    clip = torch.randn(2, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.train()(clip), model.eval()(clip)) is not drops
