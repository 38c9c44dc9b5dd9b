"""The classifier: which tokens it keeps, its heads, its layer-wise groups."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor

from models import EverestClassifier
from models.classifier import CELLS, POOLS

NAME = "everest_tiny_patch16_224"


def make(**kwargs: object) -> EverestClassifier:
    torch.manual_seed(0)
    return timm.create_model(NAME, **{"img_size": 64, "num_classes": 5, "init_scale": 1.0, **kwargs}).eval()


def clip(frames: int = 16, size: int = 64) -> Tensor:
    return torch.randn(3, 3, frames, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("head", POOLS)
@pytest.mark.parametrize(("strategy", "kept"), [("everest", 76), ("none", 128)])
def test_logits_come_from_the_kept_tokens(head: str, strategy: str, kept: int) -> None:
    model = make(head=head, strategy=strategy)
    logits = model(clip())
    assert logits.shape == (3, 5)
    tubelets, grid = model.cut(clip())
    assert model.select(model.patch_embed(tubelets), grid)[0].shape == (3, kept)


def test_keeping_all_tokens_is_the_same_as_not_selecting() -> None:
    every, none = make(keep_ratio=1.0), make(strategy="none")
    none.load_state_dict(every.state_dict())
    torch.testing.assert_close(every(clip()), none(clip()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", POOLS)
def test_an_adaptive_budget_gives_each_clip_what_it_would_get_alone(head: str) -> None:
    model, x = make(score_share=0.4, head=head), clip()
    x[0] = x[0, :, :1]
    alone = torch.cat([model(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(model(x), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("frames", "size"), [(8, 64), (32, 96)])
def test_clips_of_other_lengths_and_sizes_work(frames: int, size: int) -> None:
    assert torch.isfinite(make()(clip(frames, size))).all()


def test_the_fresh_head_is_scaled_down() -> None:
    assert make(init_scale=0.001).head.weight.abs().max() < 1e-4
    assert float(make().head.weight.detach().std()) == pytest.approx(0.02, rel=0.2)


def test_dropout_and_drop_path_act_in_training_only() -> None:
    model = make(fc_drop_rate=0.5, drop_path_rate=0.3)
    assert torch.equal(model(clip()), model(clip()))
    model.train()
    assert not torch.equal(model(clip()), model(clip()))


def test_a_frozen_encoder_leaves_only_pool_norm_and_head_to_learn() -> None:
    model = make(head="attentive")
    model.freeze_encoder()
    learning = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"pool", "fc_norm", "head"}


def test_the_head_places_sees_each_cells_mean_of_the_tokens_that_are_kept() -> None:
    """By hand: every token at its place, zeros for what is dropped, and the mean of each third by third and slot."""
    model, x = make(head="places", img_size=96, num_frames=8, keep_ratio=0.5), clip(8, 96)
    kept = model.embed_kept(x)
    tokens_BKD = model.blocks(kept.tokens_BKD)
    maps_BND = torch.zeros(3, 4 * 6 * 6, 96)
    for number in range(3):
        maps_BND[number, kept.kept_BK[number]] = model.pool.norm(tokens_BKD)[number].detach()
    cells = maps_BND.view(3, 4, CELLS, 2, CELLS, 2, 96).mean((3, 5)).flatten(1)
    seen = model.forward_head(tokens_BKD, pre_logits=True, kept=kept)
    torch.testing.assert_close(seen, cells, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model(x), model.head(seen))


def test_the_head_places_tells_a_clip_from_its_mirrored_and_its_reversed_one() -> None:
    """Of the same tokens at mirrored places, or in reversed order; a mean over all of them cannot."""
    told = {}
    for head in ("mean", "places"):
        model, x = make(head=head, strategy="none"), clip(16, 64)
        tokens_BND = model.forward_features(x)
        grid_BSHWD = tokens_BND.view(3, 8, 4, 4, 96)
        with torch.no_grad():
            moved = [model.forward_head(grid_BSHWD.flip(axis).flatten(1, 3)) for axis in (1, 3)]
            told[head] = [float((other - model.forward_head(tokens_BND)).abs().max()) for other in moved]
    assert max(told["mean"]) < 1e-5
    assert min(told["places"]) > 1e-2


def test_the_head_places_asks_which_tokens_it_is_given() -> None:
    model = make(head="places")
    with pytest.raises(ValueError, match="got 76 tokens of 128, and not which.*Cure"):
        model.forward_head(model.forward_features(clip()))


def test_layers_decay_from_the_head_to_the_embedding() -> None:
    model = make()
    groups = param_groups_layer_decay(
        model, 0.05, no_weight_decay_list=tuple(model.no_weight_decay()), layer_decay=0.75
    )
    names = {id(p): name for name, p in model.named_parameters()}
    scale = {names[id(p)]: g["lr_scale"] for g in groups for p in g["params"]}
    decay = {names[id(p)]: g["weight_decay"] for g in groups for p in g["params"]}
    assert scale["patch_embed.proj.weight"] == pytest.approx(0.75**5)
    assert scale["blocks.0.attn.qkv.weight"] == pytest.approx(0.75**4)
    assert scale["blocks.3.mlp.fc2.bias"] == pytest.approx(0.75)
    assert scale["head.weight"] == scale["fc_norm.weight"] == 1
    assert decay["blocks.0.attn.q_bias"] == decay["fc_norm.weight"] == 0
    assert decay["head.weight"] == 0.05


@pytest.mark.parametrize("head", POOLS)
def test_a_new_number_of_classes_gets_a_fresh_head(head: str) -> None:
    model = make(head=head)
    model.reset_classifier(11)
    assert model(clip()).shape == (3, 11)


@pytest.mark.parametrize("head", ["mean", "places"])
def test_the_graph_has_no_break(head: str) -> None:
    model = make(depth=1, head=head).train()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(clip()), model(clip()))
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"strategy": "tube"}, "expected one of everest, none"),
        ({"head": "cls"}, "expected one of mean, attentive, places"),
        ({"head": "places", "strategy": "tome"}, "merged and have no place"),
        ({"keep_ratio": 0.0}, "above 0 and at most 1"),
    ],
)
def test_impossible_settings_are_refused_with_a_cure(kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message}.*Cure"):
        make(**kwargs)


def test_nan_pixels_are_refused() -> None:
    x = clip()
    x[2] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite pixels"):
        make()(x)
