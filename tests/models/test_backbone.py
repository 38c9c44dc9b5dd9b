"""Our models as backbones: timm's own ViT, with the same weights and arguments, says the same."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from models import EverestAutoencoder, EverestClassifier

SIZE, FRAMES = 64, 8
TOKENS, GRID = 4 * 4 * 4, (4, 4, 4)


def classifier(**kwargs: Any) -> EverestClassifier:
    torch.manual_seed(0)
    given = {"img_size": SIZE, "num_frames": FRAMES, "num_classes": 5, "strategy": "none", "init_scale": 1.0}
    return timm.create_model("everest_tiny_patch16_224", **{**given, **kwargs}).eval()


def autoencoder(**kwargs: Any) -> EverestAutoencoder:
    torch.manual_seed(0)
    return timm.create_model("everest_pretrain_tiny_patch16_224", img_size=SIZE, num_frames=FRAMES, **kwargs).eval()


def clip() -> Tensor:
    return torch.randn(2, 3, FRAMES, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


class Tokens(torch.nn.Module):
    """Stands in for timm's patch embedding: our own tokens, on a grid of 8 x 8, positions included."""

    def __init__(self, ours: EverestClassifier) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        return self.ours.embed_kept(clip_BCTHW).tokens_BKD

    def dynamic_feat_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return 8, 8


class Unfolded(VisionTransformer):
    """timm's ViT, which expects [B, C, H, W]: the clip comes as it is."""

    def forward_intermediates(self, x: Tensor, **kwargs: Any) -> Any:
        self.clip = x
        return super().forward_intermediates(x[:, :, 0], **kwargs)


def timms(ours: EverestClassifier) -> VisionTransformer:
    """timm's ViT with our weights."""
    theirs = Unfolded(
        img_size=128, patch_size=16, embed_dim=96, depth=4, num_heads=3, num_classes=5, class_token=False,
        global_pool="avg", fc_norm=True, pos_embed="none",
    ).eval()  # fmt: skip
    state = {}
    for key, value in ours.state_dict().items():
        if key.endswith("attn.q_bias"):
            v_bias = ours.state_dict()[key.replace("q_bias", "v_bias")]
            state[key.replace("q_bias", "qkv.bias")] = torch.cat([value, torch.zeros_like(value), v_bias])
        elif not key.endswith("v_bias") and not key.startswith("patch_embed"):
            state[key] = value
    missing = theirs.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith("patch_embed") for key in missing.missing_keys)
    tokens = Tokens(ours)
    theirs.patch_embed = tokens  # type: ignore[assignment]
    tokens.forward = lambda _: ours.embed_kept(theirs.clip).tokens_BKD  # type: ignore[method-assign]
    return theirs


@pytest.mark.parametrize(
    "how",
    [
        {}, {"indices": 2}, {"indices": [0, -1]}, {"indices": [2, 0]}, {"indices": 1, "norm": True},
        {"indices": [1], "stop_early": True},
        {"indices": 3, "output_fmt": "NLC"}, {"indices": 2, "intermediates_only": True}, {"output_dict": True},
        {"indices": [1], "output_dict": True, "intermediates_only": True}, {"return_prefix_tokens": True},
    ],
)  # fmt: skip
def test_intermediates_are_those_of_timms_vit(how: dict[str, Any]) -> None:
    ours = classifier()
    expected = timms(ours).forward_intermediates(clip(), **how)
    outputs = ours.forward_intermediates(clip(), **how)
    assert type(outputs) is type(expected)
    if isinstance(outputs, dict):
        assert isinstance(expected, dict)
        assert outputs.pop("image_kept").all()  # ours alone: which tokens were computed
        assert set(outputs) == set(expected)
        pairs = [*zip(outputs["image_intermediates"], expected["image_intermediates"], strict=True)]
        if "image_features" in expected:
            pairs.append((outputs["image_features"], expected["image_features"]))
    elif isinstance(outputs, tuple):
        pairs = [(outputs[0], expected[0]), *zip(outputs[1], expected[1], strict=True)]
    else:
        pairs = [*zip(outputs, expected, strict=True)]
    for mine, theirs in pairs:
        # A map of a video has a dimension more; timm's here is the same tokens on 8 x 8 places.
        flat = mine.flatten(2) if mine.ndim == 5 else mine
        torch.testing.assert_close(flat, theirs.flatten(2) if theirs.ndim == 4 else theirs, rtol=1e-4, atol=1e-5)


def test_arguments_are_timms_in_its_order() -> None:
    for name, without in (
        ("forward_intermediates", {"attn_mask", "is_causal"}),  # images of many sizes in one batch, text
        ("prune_intermediate_layers", set()),
        ("reset_classifier", set()),
    ):
        theirs = [key for key in inspect.signature(getattr(VisionTransformer, name)).parameters if key not in without]
        assert list(inspect.signature(getattr(EverestClassifier, name)).parameters) == theirs
    for name in ("forward_features", "forward_head"):
        count = 3 if name == "forward_head" else 2
        assert len(list(inspect.signature(getattr(EverestClassifier, name)).parameters)[:count]) == count


def test_features_and_head_are_those_of_timms_vit() -> None:
    ours = classifier()
    theirs = timms(ours)
    features = ours.forward_features(clip())
    assert features.shape == (2, TOKENS, 96)
    torch.testing.assert_close(ours.forward_head(features), theirs.forward_head(features))
    pooled = ours.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, theirs.forward_head(features, pre_logits=True))
    torch.testing.assert_close(ours(clip()), ours.forward_head(features))
    assert ours.num_features == theirs.num_features == 96


@pytest.mark.parametrize("make", [classifier, autoencoder])
def test_maps_are_whole_and_zero_where_a_token_is_dropped(make: Any) -> None:
    model = make(strategy="everest")
    outputs = model.forward_intermediates(clip(), indices=1, output_dict=True)
    (maps,), kept = outputs["image_intermediates"], outputs["image_kept"]
    assert maps.shape == (2, 96, *GRID)
    assert kept.sum(1).tolist() == [38, 38]  # 0.6 of 64
    assert torch.equal(maps.flatten(2).abs().sum(1) > 0, kept)
    assert outputs["image_features"].shape == (2, 38, 96)
    flat = model.forward_intermediates(clip(), indices=1, output_fmt="NLC", intermediates_only=True)[0]
    torch.testing.assert_close(flat, maps.flatten(2).transpose(1, 2))


def test_the_mean_of_a_map_is_the_feature_where_no_token_is_dropped() -> None:
    model = autoencoder(strategy="tube")  # has no rule to keep tokens: its encoder sees all
    features, (last,) = model.forward_intermediates(clip(), indices=1, norm=True)
    torch.testing.assert_close(model.forward_head(features), last.flatten(2).mean(2), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.forward_features(clip()), features)


def test_a_budget_for_each_clip_leaves_its_padding_out() -> None:
    model, x = classifier(strategy="everest", score_share=0.4), clip()
    x[0] = x[0, :, :1]
    outputs: Any = model.forward_intermediates(x, indices=1, output_dict=True)
    kept = model.embed_kept(x)
    assert kept.valid_BK is not None
    assert outputs["image_kept"].sum(1).tolist() == kept.valid_BK.sum(1).tolist()
    alone = model.forward_intermediates(x[:1], indices=1, intermediates_only=True)[0]  # type: ignore[index]
    torch.testing.assert_close(outputs["image_intermediates"][0][:1], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.forward_head(model.forward_features(x), valid_BK=kept.valid_BK), model(x))


@pytest.mark.parametrize("make", [classifier, autoencoder])
def test_pruning_removes_the_blocks_behind_and_the_head(make: Any) -> None:
    model = make()
    expected = model.forward_intermediates(clip(), indices=[1], intermediates_only=True)[0]
    before = sum(p.numel() for p in model.parameters())
    assert model.prune_intermediate_layers([1], prune_norm=True) == [1]
    assert len(model.encoder_blocks()) == 2
    assert sum(p.numel() for p in model.parameters()) < before / 1.5
    torch.testing.assert_close(model.forward_intermediates(clip(), indices=[1], intermediates_only=True)[0], expected)
    assert model.forward_features(clip()).shape[2] == 96


def test_timm_makes_a_feature_extractor_of_it() -> None:
    wrapped: Any = timm.create_model(
        "everest_tiny_patch16_224",
        img_size=SIZE,
        num_frames=FRAMES,
        strategy="none",
        features_only=True,
        out_indices=(1, 3),
    )
    assert wrapped.feature_info.channels() == [96, 96]
    assert wrapped.feature_info.reduction() == [16, 16]
    assert wrapped.feature_info.module_name() == ["blocks.1", "blocks.3"]
    assert [tuple(maps.shape) for maps in wrapped.eval()(clip())] == [(2, 96, *GRID)] * 2


def test_a_head_of_no_classes_gives_pooled_features() -> None:
    model = classifier()
    expected = model.forward_head(model.forward_features(clip()), pre_logits=True)
    model.reset_classifier(0)
    torch.testing.assert_close(model(clip()), expected)
    model.reset_classifier(7, "")
    assert model(clip()).shape == (2, 7)
    assert model.num_classes == 7


@pytest.mark.parametrize("indices", [5, [4], [-5], 0])
def test_a_block_that_is_not_there_is_refused(indices: Any) -> None:
    with pytest.raises(ValueError, match=r"indices = .* is out of range .*Cure: numbers from 0 to 3"):
        classifier().forward_intermediates(clip(), indices=indices)
    with pytest.raises(ValueError, match="output_fmt = 'NHWC', expected NCHW or NLC"):
        classifier().forward_intermediates(clip(), output_fmt="NHWC")
