"""The classifier: which tokens it keeps, its heads, its layer-wise groups."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor

from models import EverestClassifier

NAME = "everest_tiny_patch16_224"


def make(**kwargs: object) -> EverestClassifier:
    torch.manual_seed(0)
    return timm.create_model(NAME, **{"img_size": 64, "num_classes": 5, "init_scale": 1.0, **kwargs}).eval()


def clip(frames: int = 16, size: int = 64) -> Tensor:
    return torch.randn(3, 3, frames, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("head", ["mean", "attentive"])
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


@pytest.mark.parametrize("head", ["mean", "attentive"])
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


def test_a_new_number_of_classes_gets_a_fresh_head() -> None:
    model = make()
    model.reset_classifier(11)
    assert model(clip()).shape == (3, 11)


def test_the_graph_has_no_break() -> None:
    model = make(depth=1).train()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(clip()), model(clip()))
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"strategy": "tube"}, "expected one of everest, none"),
        ({"head": "cls"}, "expected one of mean, attentive"),
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
