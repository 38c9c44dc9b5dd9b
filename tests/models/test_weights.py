"""Saved models and the encoder's way from pre-training to fine-tuning."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from models.weights import init_from, load_encoder, load_model, read_info, save_model

PRETRAIN = "everest_pretrain_tiny_patch16_224"
CLASSIFIER = "everest_tiny_patch16_224"


def test_a_saved_model_comes_back_bit_for_bit_with_its_arguments(tmp_path: Path) -> None:
    model = timm.create_model(PRETRAIN, img_size=64, keep_ratio=0.5, strategy="everest")
    save_model(model, tmp_path / "m", {"stage": "pretrain", "clip": {"frames": 16}})
    again = load_model(tmp_path / "m")
    assert again.keep_ratio == 0.5
    assert read_info(tmp_path / "m")["clip"] == {"frames": 16}
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"model.json", "model.safetensors"}


def test_a_classifier_starts_from_the_pretrained_encoder_with_a_fresh_head(tmp_path: Path) -> None:
    pretrained = timm.create_model(PRETRAIN, img_size=64)
    save_model(pretrained, tmp_path)
    model = timm.create_model(CLASSIFIER, img_size=64, num_classes=3)
    assert init_from(model, tmp_path) == ["fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"]
    for name, value in pretrained.encoder.blocks.state_dict().items():
        assert torch.equal(model.blocks.state_dict()[name], value)
    assert torch.equal(model.patch_embed.proj.weight, pretrained.encoder.patch_embed.proj.weight)


def test_a_checkpoint_of_another_size_is_refused_naming_shapes() -> None:
    small = timm.create_model("everest_pretrain_tiny_patch16_224", img_size=64, embed_dim=48)
    model = timm.create_model(CLASSIFIER, img_size=64)
    with pytest.raises(ValueError, match=r"shape \(48, 1536\), expected \(96, 1536\).*Cure: choose the size"):
        load_encoder(model, small.state_dict())


def test_missing_and_unknown_keys_are_named() -> None:
    state = timm.create_model(PRETRAIN, img_size=64).state_dict()
    state["encoder.blocks.9.extra"] = state.pop("encoder.blocks.2.norm1.bias")
    with pytest.raises(ValueError, match=r"missing blocks\.2\.norm1\.bias; unknown blocks\.9\.extra"):
        load_encoder(timm.create_model(CLASSIFIER, img_size=64), state)


def test_missing_and_broken_files_are_refused_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.json does not exist.*Cure"):
        load_model(tmp_path)
    save_model(timm.create_model(CLASSIFIER, img_size=64), tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ValueError, match='lacks "architecture"'):
        load_model(tmp_path)


def test_a_model_without_a_name_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Linear does not know its timm name"):
        save_model(torch.nn.Linear(1, 1), tmp_path)
