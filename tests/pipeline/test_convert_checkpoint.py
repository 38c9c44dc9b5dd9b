"""Checkpoint files: what is recognised, written and refused."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from pathlib import Path

import pytest
import timm
import torch

from models.convert import to_official
from models.weights import load_model, read_info, read_state, save_model
from pipeline.convert import convert
from pipeline.errors import InputError

PRETRAIN, CLASSIFIER = "everest_pretrain_tiny_patch16_224", "everest_tiny_patch16_224"


class Payload:
    """A pickle that would run a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A pre-training file as EVEREST writes one: weights, a Namespace, an optimizer state."""
    state = to_official(timm.create_model(PRETRAIN, decoder_depth=2).state_dict())
    arguments = argparse.Namespace(mcm_ratio=0.7, mask_ratio=0.9, model="pretrain_videomae_tiny")
    path = tmp_path / "checkpoint-3199.pth"
    torch.save({"model": state, "args": arguments, "epoch": 3199, "optimizer": {"state": {}}}, path)
    return path


def test_an_official_file_becomes_a_model_with_the_ratios_it_was_trained_with(official: Path, tmp_path: Path) -> None:
    result = convert(official, tmp_path / "ours")
    assert result["source_format"] == "official"
    assert result["architecture"] == PRETRAIN
    model = load_model(tmp_path / "ours")
    assert (model.strategy, model.keep_ratio, model.visible_ratio) == ("everest", 0.3, 0.1)
    assert result["parameters"] == sum(p.numel() for p in model.parameters())


def test_every_way_round_ends_in_the_same_bits(official: Path, tmp_path: Path) -> None:
    convert(official, tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "hf", "huggingface")
    convert(tmp_path / "hf", tmp_path / "b.pth", "official")
    convert(tmp_path / "b.pth", tmp_path / "c")
    first, last = read_state(tmp_path / "a"), read_state(tmp_path / "c")
    assert first.keys() == last.keys()
    assert all(torch.equal(first[key], last[key]) for key in first)
    start = torch.load(official, weights_only=False)["model"]
    end = torch.load(tmp_path / "b.pth", weights_only=True)["model"]
    assert start.keys() == end.keys()
    assert all(torch.equal(start[key], end[key]) for key in start)


def test_a_fine_tuned_file_keeps_its_classes_and_gets_all_tokens(tmp_path: Path) -> None:
    model = timm.create_model(CLASSIFIER, num_classes=7)
    torch.save({"module": to_official(model.state_dict())}, tmp_path / "tuned.pth")
    convert(tmp_path / "tuned.pth", tmp_path / "ours", img_size=64)
    assert read_info(tmp_path / "ours")["kwargs"] == {
        "img_size": 64,
        "num_frames": 16,
        "num_classes": 7,
        "strategy": "none",
    }
    convert(tmp_path / "tuned.pth", tmp_path / "hf", "huggingface", labels=[f"class {i}" for i in range(7)])
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["id2label"]["6"] == "class 6"


def test_a_file_that_carries_code_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"model": {"a": torch.zeros(1)}, "args": Payload(mark)}, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=r"bad\.pth holds more than weights and is refused.*Cure"):
        convert(tmp_path / "bad.pth", tmp_path / "out")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(InputError):
        convert(tmp_path / "raw.pth", tmp_path / "out")
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_missing_keys_are_listed_and_nothing_is_written(official: Path, tmp_path: Path) -> None:
    content = torch.load(official, weights_only=False)
    del content["model"]["encoder.norm.weight"]
    content["model"]["encoder.cls_token"] = torch.zeros(1)
    torch.save(content, official)
    with pytest.raises(InputError, match=r"missing encoder\.norm\.weight; unknown encoder\.cls_token"):
        convert(official, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a checkpoint", "refused|cannot be read"),
        (b"", "cannot be read"),
        (b"hello\n", "cannot be read as a torch checkpoint: KeyError"),
        (b"\x80\x02(K\x01u.", "cannot be read"),
    ],
)
def test_files_that_are_no_checkpoint_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "x.pth", tmp_path / "out")


def test_a_strategy_that_the_model_does_not_know_is_refused(official: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"strategy = 'none', expected one of everest, tube.*Cure"):
        convert(official, tmp_path / "out", strategy="none")
    assert not (tmp_path / "out").exists()


def test_a_file_without_weights_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(InputError, match="no weights under 'model' or 'module', only epoch"):
        convert(tmp_path / "empty.pth", tmp_path / "out")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        convert(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(InputError, match="expected one of ours, official, huggingface"):
        convert(tmp_path / "empty.pth", tmp_path / "out", "onnx")  # type: ignore[arg-type]


def test_an_attentive_head_stays_ours(tmp_path: Path) -> None:
    save_model(timm.create_model(CLASSIFIER, num_classes=3, head="attentive"), tmp_path / "m")
    convert(tmp_path / "m", tmp_path / "copy")
    assert load_model(tmp_path / "copy").pool is not None
    with pytest.raises(InputError, match=r"attentive head has no counterpart.*Cure"):
        convert(tmp_path / "m", tmp_path / "hf", "huggingface")
