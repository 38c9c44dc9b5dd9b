"""Weight conversion: names, shapes, bit-identical round trips, and parity with Hugging Face's own forward."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from models.convert import (
    describe,
    from_huggingface,
    from_official,
    huggingface_config,
    to_huggingface,
    to_official,
)
from models.selection import Grid, TokenSplit
from models.tokens import cut_tubelets
from models.weights import load_strict

PRETRAIN, CLASSIFIER = "everest_pretrain_tiny_patch16_224", "everest_tiny_patch16_224"


def ours(name: str) -> nn.Module:
    """A model whose every weight differs from its initial value, biases and norms too."""
    torch.manual_seed(0)
    kwargs = {"decoder_depth": 2, "strategy": "tube"} if "pretrain" in name else {"num_classes": 7, "strategy": "none"}
    model = timm.create_model(name, img_size=64, num_frames=16, **kwargs).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def theirs(name: str, **changes: object) -> nn.Module:
    """Hugging Face's model from a configuration; nothing is downloaded."""
    videomae = pytest.importorskip("transformers.models.videomae")
    kwargs = {"img_size": 64, "num_frames": 16, "num_classes": 7, "decoder_depth": 2}
    config = {**huggingface_config(name, kwargs), **changes}
    made = getattr(videomae, config.pop("architectures")[0])
    return made(videomae.VideoMAEConfig(**config)).eval()


def load_into(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """As transformers loads a file of the hub: q_bias is today's query.bias."""
    renamed = {k.replace("q_bias", "query.bias").replace("v_bias", "value.bias"): v for k, v in state.items()}
    model.load_state_dict(renamed, strict=True)
    return model


def clip() -> Tensor:
    return torch.randn(2, 3, 16, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [PRETRAIN, CLASSIFIER])
def test_round_trips_are_bit_identical(name: str) -> None:
    state = ours(name).state_dict()
    for there, back in ((to_official, from_official), (to_huggingface, from_huggingface)):
        again = back(there(state))
        assert again.keys() == state.keys()
        assert all(torch.equal(again[key], value) for key, value in state.items())


def test_official_names_and_shapes_are_the_published_ones() -> None:
    pretrain = to_official(ours(PRETRAIN).state_dict())
    assert pretrain["encoder.patch_embed.proj.weight"].shape == (96, 3, 2, 16, 16)
    block = {key.removeprefix("encoder.blocks.0.") for key in pretrain if key.startswith("encoder.blocks.0.")}
    assert {"attn.qkv.weight", "attn.q_bias", "attn.v_bias", "attn.proj.weight", "mlp.fc1.bias"} <= block
    assert {
        "encoder.norm.weight",
        "decoder.norm.bias",
        "decoder.head.weight",
        "mask_token",
    } <= pretrain.keys()
    assert {"encoder_to_decoder.weight", "decoder.blocks.1.mlp.fc2.weight"} <= pretrain.keys()
    tuned = to_official(ours(CLASSIFIER).state_dict())
    assert {"patch_embed.proj.bias", "fc_norm.weight", "head.bias", "blocks.3.norm2.bias"} <= tuned.keys()


def test_a_backbone_or_module_prefix_is_stripped() -> None:
    state = to_official(ours(CLASSIFIER).state_dict())
    wrapped = {f"module.backbone.{key}": value for key, value in state.items()}
    assert from_official(wrapped).keys() == ours(CLASSIFIER).state_dict().keys()


@pytest.mark.parametrize("changes", [{}, {"layer_norm_eps": 1e-12}], ids=["our_eps", "its_own_eps"])
def test_pretraining_agrees_with_hugging_face_on_the_same_weights_and_mask(
    changes: dict[str, object],
) -> None:
    model, x = ours(PRETRAIN), clip()
    other = load_into(theirs(PRETRAIN, **changes), to_huggingface(model.state_dict()))
    masked = torch.ones(2, 128, dtype=torch.bool)
    for row in range(2):
        masked[row, torch.randperm(128, generator=torch.Generator().manual_seed(row))[:13]] = False
    index = torch.arange(128).expand(2, -1)
    split = TokenSplit(index[~masked].view(2, -1), index[masked].view(2, -1))
    with torch.no_grad():
        expected = other(x.transpose(1, 2), bool_masked_pos=masked)
        grid = Grid(8, 4, 4)
        tubelets = cut_tubelets(x, grid, 16, 2)
        embedded = model.encoder.patch_embed(tubelets)
        prediction = model.decode(model.encode(tubelets, embedded, split), split, grid)
        assert (prediction - expected.logits).abs().max() <= 1e-4
        from models.autoencoder import reconstruction_loss
        from models.tokens import normalised_targets, take

        target = normalised_targets(take(cut_tubelets(x, grid, 16, 2), split.reconstruct_BR))
        assert abs(float(reconstruction_loss(prediction, target) - expected.loss)) <= 1e-4


@pytest.mark.parametrize("changes", [{}, {"layer_norm_eps": 1e-12}], ids=["our_eps", "its_own_eps"])
def test_classification_agrees_with_hugging_face_on_the_same_weights(changes: dict[str, object]) -> None:
    model, x = ours(CLASSIFIER), clip()
    other = load_into(theirs(CLASSIFIER, **changes), to_huggingface(model.state_dict()))
    with torch.no_grad():
        assert (model(x) - other(x.transpose(1, 2)).logits).abs().max() <= 1e-4


def test_weights_of_hugging_face_work_in_our_model() -> None:
    other, model = theirs(CLASSIFIER), ours(CLASSIFIER)
    load_strict(model, from_huggingface(other.state_dict()), "hf")
    with torch.no_grad():
        assert (model(clip()) - other(clip().transpose(1, 2)).logits).abs().max() <= 1e-4


def test_from_pretrained_reads_what_we_write(tmp_path: Path) -> None:
    videomae = pytest.importorskip("transformers.models.videomae")
    from models.weights import save_model
    from pipeline.inference.convert import convert

    model = ours(CLASSIFIER)
    save_model(model, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "hf", "huggingface")
    other = videomae.VideoMAEForVideoClassification.from_pretrained(tmp_path / "hf", local_files_only=True).eval()
    with torch.no_grad():
        assert (model(clip()) - other(clip().transpose(1, 2)).logits).abs().max() <= 1e-4


def test_the_size_and_depths_are_read_from_the_weights() -> None:
    assert describe(ours(PRETRAIN).state_dict(), 64) == (
        PRETRAIN,
        {"img_size": 64, "num_frames": 16, "decoder_depth": 2},
    )
    assert describe(ours(CLASSIFIER).state_dict(), 64)[1]["num_classes"] == 7


def test_missing_and_unknown_keys_are_listed() -> None:
    state = dict(ours(PRETRAIN).state_dict())
    state["decoder.extra"] = state.pop("encoder.blocks.1.attn.q_bias")
    with pytest.raises(ValueError, match=r"missing encoder\.blocks\.1\.attn\.q_bias; unknown decoder\.extra"):
        describe(state)
    hub = to_huggingface(ours(CLASSIFIER).state_dict())
    del hub["videomae.encoder.layer.0.attention.attention.key.weight"]
    with pytest.raises(ValueError, match="lacks one of query, key, value"):
        from_huggingface(hub)
    hub = to_huggingface(ours(CLASSIFIER).state_dict())
    hub["videomae.layernorm.weight"] = torch.zeros(96)
    with pytest.raises(ValueError, match=r"without a counterpart: videomae.layernorm.weight"):
        from_huggingface(hub)


def test_another_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no patch_embed\.proj\.weight among 1 keys, such as conv1"):
        describe({"conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="width 5 with 0 blocks is no size"):
        describe({"patch_embed.proj.weight": torch.zeros(5, 1536)})
