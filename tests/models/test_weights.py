"""Saved models and the encoder's way from pre-training to fine-tuning."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pytest
import timm
import torch

from models.weights import init_from, load_encoder, load_model, read_info, read_state, save_model, verified_sha256

PRETRAIN = "everest_pretrain_tiny_patch16_224"
CLASSIFIER = "everest_tiny_patch16_224"


def flip(path: Path, place: int) -> None:
    """Invert one bit, with the time stamp kept."""
    stamp, content = path.stat(), bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


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


def test_weights_that_saw_differences_are_refused_by_a_model_of_pictures(tmp_path: Path) -> None:
    save_model(timm.create_model(PRETRAIN, img_size=64, clip_input="difference"), tmp_path)
    assert init_from(timm.create_model(CLASSIFIER, img_size=64, clip_input="difference"), tmp_path)
    with pytest.raises(ValueError, match="trained on difference clips, the model takes rgb. Cure: set clip.input"):
        init_from(timm.create_model(CLASSIFIER, img_size=64), tmp_path)


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
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"model\.safetensors is not what was written: its SHA-256.*Cure"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors does not exist.*Cure"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ValueError, match='lacks "architecture"'):
        load_model(tmp_path)


@pytest.mark.parametrize("place", [0, 9, 200, 5000, -1])
def test_a_flipped_byte_of_the_weights_is_refused_by_every_way_to_read_them(place: int, tmp_path: Path) -> None:
    save_model(timm.create_model(CLASSIFIER, img_size=64), tmp_path)
    flip(tmp_path / "model.safetensors", place)
    fresh = timm.create_model(CLASSIFIER, img_size=64)
    for read in (load_model, read_state, verified_sha256, lambda folder: init_from(fresh, folder)):
        with pytest.raises(ValueError, match=r"model\.safetensors is not what was written.*Cure: put the model back"):
            read(tmp_path)


def test_every_flipped_byte_of_a_description_is_refused(tmp_path: Path) -> None:
    save_model(timm.create_model(CLASSIFIER, img_size=64, keep_ratio=0.5), tmp_path, {"classes": ["jump", "climb"]})
    content = (tmp_path / "model.json").read_bytes()
    kept = read_info(tmp_path)
    for place in range(len(content)):
        (tmp_path / "model.json").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with contextlib.suppress(ValueError):
            assert read_info(tmp_path) == kept, place  # a blank became another one


def test_a_model_of_a_former_version_is_refused_unless_it_is_taken_as_it_is(tmp_path: Path) -> None:
    save_model(timm.create_model(CLASSIFIER, img_size=64), tmp_path)
    about = json.loads((tmp_path / "model.json").read_text())
    former = {key: value for key, value in about.items() if not key.endswith("_sha256")}
    (tmp_path / "model.json").write_text(json.dumps(former))
    with pytest.raises(ValueError, match=r"records no SHA-256.*former version.*--unverified"):
        load_model(tmp_path)
    assert read_info(tmp_path, verify=False) == former
    assert len(read_state(tmp_path, verify=False)) > 50


def test_a_model_without_a_name_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Linear does not know its timm name"):
        save_model(torch.nn.Linear(1, 1), tmp_path)


@pytest.mark.parametrize("mask", [0o002, 0o027, 0o077])
def test_weights_have_the_mode_of_the_files_beside_them(tmp_path: Path, mask: int) -> None:
    from pipeline.inference.convert import convert

    before = os.umask(mask)
    try:
        save_model(timm.create_model("everest_tiny_patch16_224", img_size=32, num_classes=3), tmp_path / "model")
        convert(tmp_path / "model", tmp_path / "hf", "huggingface")
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path): path.stat().st_mode for path in tmp_path.rglob("*") if path.is_file()}
    assert len(modes) == 5
    assert set(modes.values()) == {0o100666 & ~mask}, modes
