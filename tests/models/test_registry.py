"""Names and sizes in timm's registry."""

from __future__ import annotations

import pytest
import timm
import torch

import models
from models.registry import SIZES


def test_every_size_has_its_two_names() -> None:
    expected = {models.architecture(size, pretrain) for size in SIZES for pretrain in (True, False)}
    assert set(timm.list_models("everest_*")) == expected
    assert "everest_pretrain_base_patch16_224" in expected
    assert "everest_huge_patch16_224" in expected


@pytest.mark.parametrize(("size", "width", "depth", "heads"), [("small", 384, 12, 6), ("huge", 1280, 32, 16)])
def test_a_size_is_the_published_one(size: str, width: int, depth: int, heads: int) -> None:
    with torch.device("meta"):
        model = timm.create_model(models.architecture(size, True))
    assert model.encoder.norm.weight.shape == (width,)
    assert len(model.encoder.blocks) == depth
    assert model.encoder.blocks[0].attn.heads == heads
    assert model.decoder.norm.weight.shape == (width // 2,)
    assert len(model.decoder.blocks) == 4


def test_initial_weights_follow_the_paper() -> None:
    torch.manual_seed(0)
    pretrain = timm.create_model("everest_pretrain_tiny_patch16_224", img_size=64)
    bound = (6 / (96 + 4 * 96)) ** 0.5  # xavier-uniform of fc1
    fc1 = pretrain.encoder.blocks[0].mlp.fc1
    assert float(fc1.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)
    assert fc1.bias.eq(0).all()
    assert pretrain.mask_token.abs().max() <= 0.02
    assert float(pretrain.encoder_to_decoder.weight.detach().abs().max()) == pytest.approx(96**-0.5, rel=0.01)
    assert float(pretrain.encoder.patch_embed.proj.weight.detach().abs().max()) == pytest.approx(1536**-0.5, rel=0.01)
    classifier = timm.create_model("everest_tiny_patch16_224", img_size=64)
    assert float(classifier.blocks[0].mlp.fc1.weight.detach().std()) == pytest.approx(0.02, rel=0.05)


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="size = 'medium', expected one of tiny, mini, small, base, large, huge"):
        models.architecture("medium", True)
