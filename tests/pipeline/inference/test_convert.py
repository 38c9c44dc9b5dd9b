"""Checkpoint files: what is recognised, written and refused."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from models.convert import to_official
from models.weights import init_from, load_model, read_info, read_state, save_model
from pipeline.data.cache.maps import trained_embedding
from pipeline.errors import InputError
from pipeline.inference.convert import convert
from pipeline.inference.models import load

LFS = b"version https://git-lfs.github.com/spec/v1"
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
    arguments = argparse.Namespace(
        mask_type="motion-centric", motion_centric_masking_ratio=0.7, mask_ratio=0.9, model="pretrain_videomae_tiny"
    )
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


def test_class_names_and_frame_step_go_with_a_model_through_every_format(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(7)]
    torch.save({"module": to_official(timm.create_model(CLASSIFIER, num_classes=7).state_dict())}, tmp_path / "t.pth")
    convert(tmp_path / "t.pth", tmp_path / "plain")
    assert read_info(tmp_path / "plain")["classes"] is None
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    convert(tmp_path / "plain", tmp_path / "ours", classes=tmp_path / "names.txt", frame_step=4, short_side=256)
    convert(tmp_path / "ours", tmp_path / "again", strategy="everest")
    about = read_info(tmp_path / "again")
    assert (about["classes"], about["frame_step"], about["pixels"]["short_side"]) == (names, 4, 256)
    assert (about["kwargs"]["strategy"], about["kwargs"]["keep_ratio"]) == ("everest", 0.6)
    convert(tmp_path / "ours", tmp_path / "hf", "huggingface")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["id2label"]["6"] == "class 6"
    convert(tmp_path / "hf", tmp_path / "back")
    assert read_info(tmp_path / "back")["classes"] == names
    convert(tmp_path / "plain", tmp_path / "nameless", "huggingface")
    convert(tmp_path / "nameless", tmp_path / "nameless-back")
    assert read_info(tmp_path / "nameless-back")["classes"] is None


def test_names_that_are_too_few_or_no_names_are_refused(tmp_path: Path) -> None:
    save_model(timm.create_model(CLASSIFIER, num_classes=3), tmp_path / "m")
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "list.json").write_text('{"names": []}')
    for name, message in (
        ("two.txt", "classes has 2 names, expected num_classes = 3"),
        ("binary.txt", "no list of class names in UTF-8"),
        ("list.json", "no list of class names"),
        ("absent.txt", "No such file"),
    ):
        with pytest.raises(InputError, match=message):
            convert(tmp_path / "m", tmp_path / "out", classes=tmp_path / name)
    assert not (tmp_path / "out").exists()


def test_a_model_of_an_earlier_version_gets_its_record_by_conversion(tmp_path: Path) -> None:
    old = {"benchmark": "mine", "classes": ["a", "b", "c"], "frame_step": 2, "short_side": 96, "views": {"segments": 5}}
    save_model(timm.create_model(CLASSIFIER, num_classes=3), tmp_path / "old", old)
    convert(tmp_path / "old", tmp_path / "new")
    about = read_info(tmp_path / "new")
    assert (about["version"], about["dataset"], about["classes"]) == (2, "mine", ["a", "b", "c"])
    assert (about["frame_step"], about["pixels"]["short_side"], about["views"]["segments"]) == (2, 96, 5)


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
        (b"", r"x\.pth is empty"),
        (b"hello\n", r"is text \('hello'\), not a checkpoint"),
        (b'{"error": "Entry not found"}', r"is text \('\{.error"),
        (b"<!DOCTYPE html><html><head><title>Google Drive -\nQuota</title>", r"a web page \('Google Drive - Quota'\)"),
        (b"\xef\xbb\xbf\n\n<html>" + b"x" * 9000, "is a web page, not a checkpoint"),
        ("<html>caf\u00e9</html>".encode("utf-16"), "is a web page"),
        (
            LFS + b"\noid sha256:4d7a\nsize 377513\n",
            "is a Git LFS pointer, which stands for a file of 377513 bytes.*git lfs",
        ),
        (b"\x1f\x8b\x08\x00rest", "is a gzip archive, not a checkpoint.*unpack"),
        (b"\x89PNG\r\n\x1a\n", "is a picture"),
        ((64).to_bytes(8, "little") + b'{"a":{"dtype":"F32"' + b" " * 60, "is a safetensors file.*give its folder"),
        (b"\x80\x02(K\x01u.", "cannot be read"),
        (pickle.dumps({"a": 1})[:-4], "cannot be read"),
        (bytes(range(200, 256)) * 90, "cannot be read"),
    ],
)
def test_files_that_are_no_checkpoint_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(InputError, match=message):
        convert(tmp_path / "x.pth", tmp_path / "out")


def test_a_zip_of_something_else_and_one_that_is_cut_or_damaged_are_named(official: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme.txt", "weights are elsewhere")
    with pytest.raises(InputError, match=r"other\.pth is a zip of something else: it holds readme\.txt, no data\.pkl"):
        convert(tmp_path / "other.pth", tmp_path / "out")
    content = official.read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "cut.pth").write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match=r"cut\.pth begins as a zip but has no end: cut short at \d+ bytes"):
            convert(tmp_path / "cut.pth", tmp_path / "out")
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    (tmp_path / "flipped.pth").write_bytes(flipped)
    with pytest.raises(InputError, match=r"flipped\.pth is damaged: the checksum of .*/data/\d+"):
        convert(tmp_path / "flipped.pth", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_of_torch_before_its_zips_is_read_and_named_when_cut(official: Path, tmp_path: Path) -> None:
    content = torch.load(official, weights_only=False)
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert convert(tmp_path / "old.pth", tmp_path / "out")["kwargs"]["strategy"] == "everest"
    result = (tmp_path / "old.pth").read_bytes()
    for share in (0.01, 0.5, 0.99):
        (tmp_path / "cut.pth").write_bytes(result[: int(share * len(result))])
        with pytest.raises(InputError, match=r"cut\.pth .*(cut short|damaged).*Cure"):
            convert(tmp_path / "cut.pth", tmp_path / "other")


def test_a_folder_of_hugging_face_with_a_pointer_for_weights_is_named(official: Path, tmp_path: Path) -> None:
    convert(official, tmp_path / "hf", "huggingface")
    (tmp_path / "hf" / "model.safetensors").write_bytes(LFS + b"\nsize 9\n")
    with pytest.raises(InputError, match=r"model\.safetensors is a Git LFS pointer"):
        convert(tmp_path / "hf", tmp_path / "out")


PRETRAINED = {"mask_type": "motion-centric", "motion_centric_masking_ratio": 0.7, "mask_ratio": 0.9}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (PRETRAINED, ("everest", 0.3, 0.1)),
        (PRETRAINED | {"motion_centric_masking_ratio": 0.8}, ("everest", 0.2, 0.1)),
        (PRETRAINED | {"mask_type": "tube", "mask_ratio": 0.75}, ("tube", None, 0.25)),
        ({"mask_type": "tube", "mask_ratio": 0.9}, ("tube", None, 0.1)),
        (PRETRAINED | {"mask_type": "random"}, ("random", None, 0.1)),
        ({}, ("tube", None, 0.1)),  # what the model takes is written out
    ],
)
def test_a_pretraining_file_is_used_with_the_tokens_its_flags_name(
    flags: dict[str, Any], expected: tuple[str, float | None, float | None], tmp_path: Path
) -> None:
    state = to_official(timm.create_model(PRETRAIN, decoder_depth=2).state_dict())
    torch.save({"model": state, "args": argparse.Namespace(**flags)}, tmp_path / "x.pth")
    kwargs = convert(tmp_path / "x.pth", tmp_path / "out")["kwargs"]
    assert (kwargs["strategy"], kwargs.get("keep_ratio"), kwargs.get("visible_ratio")) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"mcm": True, "mcm_ratio": 0.4}, ("everest", 0.6)),
        ({"mcm": True, "mcm_ratio": 0.3}, ("everest", 0.7)),
        ({"mcm": False, "mcm_ratio": 0.4}, ("none", None)),
        ({"mixup": 0.8}, ("none", None)),
    ],
)
def test_a_fine_tuned_file_is_used_with_the_tokens_its_flags_name(
    flags: dict[str, Any], expected: tuple[str, float | None], tmp_path: Path
) -> None:
    state = to_official(timm.create_model(CLASSIFIER, num_classes=3).state_dict())
    torch.save({"module": state, "args": argparse.Namespace(**flags)}, tmp_path / "x.pth")
    kwargs = convert(tmp_path / "x.pth", tmp_path / "out")["kwargs"]
    assert (kwargs["strategy"], kwargs.get("keep_ratio")) == expected


def test_flags_that_say_nothing_clear_are_refused_unless_the_user_says_it(official: Path, tmp_path: Path) -> None:
    content = torch.load(official, weights_only=False)
    for flags, message in (
        ({"mask_type": "agnostic"}, r"args\.mask_type = 'agnostic', expected one of motion-centric"),
        ({"mask_type": "motion-centric", "mask_ratio": 0.9}, r"args\.motion_centric_masking_ratio = None"),
        (PRETRAINED | {"mask_ratio": 1.5}, r"args\.mask_ratio = 1\.5"),
    ):
        torch.save({**content, "args": argparse.Namespace(**flags)}, tmp_path / "x.pth")
        with pytest.raises(InputError, match=message):
            convert(tmp_path / "x.pth", tmp_path / "out")
        assert convert(tmp_path / "x.pth", tmp_path / "said", strategy="tube")["kwargs"]["strategy"] == "tube"
    state = to_official(timm.create_model(CLASSIFIER, num_classes=3).state_dict())
    torch.save({"module": state, "args": argparse.Namespace(mcm_ratio=0.4)}, tmp_path / "tuned.pth")
    with pytest.raises(InputError, match=r"args\.mcm = None, expected true or false.*--strategy"):
        convert(tmp_path / "tuned.pth", tmp_path / "out")


@pytest.mark.parametrize("prefix", ["encoder.", "module.encoder.", "backbone.", ""])
def test_an_encoder_alone_can_be_fine_tuned_from_and_nothing_else(prefix: str, official: Path, tmp_path: Path) -> None:
    full = torch.load(official, weights_only=False)["model"]
    encoder = {key.removeprefix("encoder."): value for key, value in full.items() if key.startswith("encoder.")}
    if prefix == "backbone.":
        encoder = {key: value for key, value in encoder.items() if not key.startswith("norm.")}
    torch.save({"model": {prefix + key: value for key, value in encoder.items()}}, tmp_path / "encoder.pth")
    result = convert(tmp_path / "encoder.pth", tmp_path / "ours")
    assert (result["part"], result["architecture"]) == ("encoder", PRETRAIN)
    model = timm.create_model(CLASSIFIER, num_classes=3)
    init_from(model, tmp_path / "ours")
    assert torch.equal(model.patch_embed.proj.weight, encoder["patch_embed.proj.weight"].flatten(1))
    assert torch.equal(model.blocks.state_dict()["3.mlp.fc2.bias"], encoder["blocks.3.mlp.fc2.bias"])
    assert trained_embedding(tmp_path / "ours").shape == (1536, 96)
    with pytest.raises(ValueError, match=r"holds an encoder only.*finetune\.init"):
        load_model(tmp_path / "ours")
    with pytest.raises(InputError, match=r"holds an encoder only.*finetune\.init"):
        load(str(tmp_path / "ours"))
    with pytest.raises(InputError, match="encoder only, which none of Hugging Face's models"):
        convert(tmp_path / "ours", tmp_path / "hf", "huggingface")
    with pytest.raises(InputError, match=r"encoder only, which chooses no tokens"):
        convert(tmp_path / "encoder.pth", tmp_path / "other", strategy="everest")
    convert(tmp_path / "ours", tmp_path / "back.pth", "official")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert {key.removeprefix("encoder.") for key in back} == encoder.keys()
    assert convert(tmp_path / "ours", tmp_path / "copy")["part"] == "encoder"


def test_an_encoder_that_lacks_a_weight_is_named(official: Path, tmp_path: Path) -> None:
    full = torch.load(official, weights_only=False)["model"]
    encoder = {key: value for key, value in full.items() if key.startswith("encoder.")}
    del encoder["encoder.blocks.1.attn.v_bias"]
    torch.save({"model": encoder}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"missing encoder\.blocks\.1\.attn\.v_bias"):
        convert(tmp_path / "x.pth", tmp_path / "out")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", ["encoder.blocks.2.mlp.fc1.weight", "mask_token"])
def test_weights_that_are_not_finite_are_refused_naming_the_tensor(
    key: str, value: float, official: Path, tmp_path: Path
) -> None:
    content = torch.load(official, weights_only=False)
    content["model"][key].view(-1)[3] = value
    torch.save(content, official)
    counts = "1 NaN and 0 infinite" if value != value else "0 NaN and 1 infinite"
    with pytest.raises(InputError, match=rf"{key} holds {counts} of \d+ values.*Cure"):
        convert(official, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("encoder.patch_embed.proj.weight", torch.zeros(96, 3, 16, 16), r"proj\.weight has shape \(96, 3, 16, 16\)"),
        ("encoder.patch_embed.proj.weight", torch.zeros(()), r"proj\.weight has shape \(\)"),
        ("encoder.patch_embed.proj.weight", torch.zeros(96, 3, 2, 14, 14), r"\(96, 1176\), expected \(96, 1536\)"),
        ("encoder.blocks.0.norm1.bias", torch.zeros(97), r"norm1\.bias has shape \(97,\), expected \(96,\)"),
        ("encoder.blocks.0.norm1.bias", torch.zeros(96, dtype=torch.int64), r"norm1\.bias holds int64"),
    ],
)
def test_shapes_and_types_that_do_not_fit_are_named(
    key: str, value: torch.Tensor, message: str, official: Path, tmp_path: Path
) -> None:
    content = torch.load(official, weights_only=False)
    content["model"][key] = value
    torch.save(content, official)
    with pytest.raises(InputError, match=message):
        convert(official, tmp_path / "out")


def test_a_folder_of_a_former_version_is_taken_as_it_is_only_when_asked(tmp_path: Path) -> None:
    about = {"frame_step": 4, "classes": ["a", "b", "c"]}
    save_model(timm.create_model(CLASSIFIER, num_classes=3), tmp_path / "old", about)
    path = tmp_path / "old" / "model.json"
    former = {key: value for key, value in json.loads(path.read_text()).items() if not key.endswith("_sha256")}
    path.write_text(json.dumps(former))
    with pytest.raises(InputError, match=r"records no SHA-256.*--unverified"):
        convert(tmp_path / "old", tmp_path / "new")
    convert(tmp_path / "old", tmp_path / "new", verify=False)
    assert read_info(tmp_path / "new").items() >= about.items()
    load_model(tmp_path / "new")


def test_a_strategy_that_the_model_does_not_know_is_refused(official: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"strategy = 'none', expected one of .*everest, .*tube.*Cure"):
        convert(official, tmp_path / "out", strategy="none")
    assert not (tmp_path / "out").exists()


def test_a_file_without_weights_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(InputError, match="no weights under 'model', .*, only epoch"):
        convert(tmp_path / "empty.pth", tmp_path / "out")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        convert(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(InputError, match="expected one of ours, official, huggingface"):
        convert(tmp_path / "empty.pth", tmp_path / "out", "onnx")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [CLASSIFIER, PRETRAIN])
def test_a_model_of_differences_stays_ours(tmp_path: Path, name: str) -> None:
    save_model(timm.create_model(name, img_size=32, clip_input="difference"), tmp_path / "m")
    convert(tmp_path / "m", tmp_path / "copy")
    assert load_model(tmp_path / "copy").clip_input == "difference"
    for other in ("huggingface", "official"):
        with pytest.raises(InputError, match=r"clip_input = difference, which has no counterpart.*Cure"):
            convert(tmp_path / "m", tmp_path / other, other)


@pytest.mark.parametrize("head", ["attentive", "places"])
def test_a_head_of_ours_stays_ours(tmp_path: Path, head: str) -> None:
    save_model(timm.create_model(CLASSIFIER, num_classes=3, head=head), tmp_path / "m")
    convert(tmp_path / "m", tmp_path / "copy")
    assert load_model(tmp_path / "copy").kwargs["head"] == head
    with pytest.raises(InputError, match=rf"head '{head}' has no counterpart.*Cure"):
        convert(tmp_path / "m", tmp_path / "hf", "huggingface")


@pytest.mark.parametrize("prefix", ["module.", "module.module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_what_training_programs_put_around_weights_changes_nothing(
    prefix: str, key: str, official: Path, tmp_path: Path
) -> None:
    content = torch.load(official, weights_only=False)
    state = {f"{prefix}{name}": value for name, value in content.pop("model").items()}
    torch.save({**content, key: state}, tmp_path / "wrapped.pth")
    kwargs = convert(tmp_path / "wrapped.pth", tmp_path / "out")["kwargs"]
    assert (kwargs["strategy"], kwargs["keep_ratio"], kwargs["visible_ratio"]) == ("everest", 0.3, 0.1)
    plain = convert(official, tmp_path / "plain")
    assert read_state(tmp_path / "out").keys() == read_state(tmp_path / "plain").keys()
    assert plain["kwargs"] == kwargs


def test_weights_that_are_there_twice_are_refused(official: Path, tmp_path: Path) -> None:
    state = torch.load(official, weights_only=False)["model"]
    torch.save(
        {"model": {**state, **{f"module.{name}": value + 1 for name, value in state.items()}}}, tmp_path / "x.pth"
    )
    with pytest.raises(InputError, match=r"twice, with and without `module\.`.*Cure"):
        convert(tmp_path / "x.pth", tmp_path / "out")


def test_arguments_are_read_from_a_dictionary_too_and_nothing_else(official: Path, tmp_path: Path) -> None:
    content = torch.load(official, weights_only=False)
    torch.save({**content, "args": vars(content["args"])}, tmp_path / "x.pth")
    assert convert(tmp_path / "x.pth", tmp_path / "out")["kwargs"]["strategy"] == "everest"
    torch.save({**content, "args": ["--mask_type", "motion-centric"]}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"args is a list, expected arguments by name.*Cure"):
        convert(tmp_path / "x.pth", tmp_path / "out")


def test_numbers_of_numpy_which_official_training_leaves_in_its_optimizer_are_read(
    official: Path, tmp_path: Path
) -> None:
    content = torch.load(official, weights_only=False)
    content["optimizer"] = {"state": {}, "param_groups": [{"lr": np.float64(1e-3), "step": np.int64(3)}]}
    content["args"].mask_ratio = np.float32(0.9)
    torch.save(content, tmp_path / "x.pth")
    assert convert(tmp_path / "x.pth", tmp_path / "out")["kwargs"]["visible_ratio"] == 0.1
    # NumPy 1 had its modules elsewhere. Same length of the name's prefix, so the pickle stays whole.
    old = tmp_path / "old.pth"
    with zipfile.ZipFile(tmp_path / "x.pth") as new, zipfile.ZipFile(old, "w") as former:
        for entry in new.infolist():
            data = new.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"cnumpy._core.multiarray\nscalar" in data
                data = data.replace(b"cnumpy._core.multiarray\nscalar", b"cnumpy.core.multiarray\nscalar")
            former.writestr(entry.filename, data)
    assert convert(old, tmp_path / "again")["kwargs"]["visible_ratio"] == 0.1


def test_size_length_and_frame_step_come_from_the_arguments_where_they_stand(tmp_path: Path) -> None:
    state = to_official(timm.create_model(CLASSIFIER, num_classes=3).state_dict())
    arguments = argparse.Namespace(mcm=False, mcm_ratio=0.4, input_size=112, num_frames=32, sampling_rate=2)
    torch.save({"module": state, "args": arguments}, tmp_path / "x.pth")
    kwargs = convert(tmp_path / "x.pth", tmp_path / "out")["kwargs"]
    assert (kwargs["img_size"], kwargs["num_frames"]) == (112, 32)
    assert read_info(tmp_path / "out")["frame_step"] == 2
    text = convert(tmp_path / "x.pth", tmp_path / "said", num_frames=8, frame_step=4)["kwargs"]
    assert (text["img_size"], text["num_frames"]) == (112, 8)
    assert read_info(tmp_path / "said")["frame_step"] == 4
    arguments.num_frames = "32"
    torch.save({"module": state, "args": arguments}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"args\.num_frames = '32', expected a whole number"):
        convert(tmp_path / "x.pth", tmp_path / "out")


@pytest.mark.parametrize("change", [lambda value: value.to_sparse(), lambda value: value.to("meta")])
def test_weights_that_are_no_plain_numbers_are_refused(change: Any, official: Path, tmp_path: Path) -> None:
    content = torch.load(official, weights_only=False)
    content["model"]["mask_token"] = change(content["model"]["mask_token"])
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"mask_token is (sparse|without values).*Cure"):
        convert(tmp_path / "x.pth", tmp_path / "out")


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_hugging_face_folder_of_several_files_is_read_whole_or_refused(suffix: str, tmp_path: Path) -> None:
    torch.save({"model": to_official(timm.create_model(CLASSIFIER, num_classes=3).state_dict())}, tmp_path / "x.pth")
    convert(tmp_path / "x.pth", tmp_path / "one", to="huggingface")
    state = safetensors.torch.load_file(tmp_path / "one/model.safetensors")
    folder, stem = tmp_path / "parts", {"safetensors": "model", "bin": "pytorch_model"}[suffix]
    folder.mkdir()
    shutil.copy(tmp_path / "one/config.json", folder)
    place: dict[str, str] = {}
    for number in (1, 2):
        name = f"{stem}-{number}-of-2.{suffix}"
        part = {key: value for place_, (key, value) in enumerate(state.items()) if place_ % 2 == number - 1}
        place |= dict.fromkeys(part, name)
        safetensors.torch.save_file(part, folder / name) if suffix == "safetensors" else torch.save(part, folder / name)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"weight_map": place}))
    convert(folder, tmp_path / "out")
    convert(tmp_path / "one", tmp_path / "expected")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (tmp_path / "expected/model.safetensors").read_bytes()
    index.write_text(json.dumps({"weight_map": {**place, "classifier.weight": "../x.pth"}}))
    with pytest.raises(InputError, match=r"names '\.\./x\.pth', which is no file beside it.*Cure"):
        convert(folder, tmp_path / "out")
    index.write_text(json.dumps({"weight_map": {**place, "more.weight": f"{stem}-1-of-2.{suffix}"}}))
    with pytest.raises(InputError, match=r"lacks more\.weight, which .* says it holds.*Cure"):
        convert(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", "holds a list"),
        (b"\xff\xfe{", "is not valid JSON"),
        (b'{"image_size": "224"}', "image_size = '224', expected a whole number"),
        (b'{"image_size": [224, 224]}', r"image_size = \[224, 224\], expected a whole number"),
    ],
)
def test_a_configuration_of_other_entries_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    torch.save({"model": to_official(timm.create_model(CLASSIFIER, num_classes=3).state_dict())}, tmp_path / "x.pth")
    convert(tmp_path / "x.pth", tmp_path / "one", to="huggingface")
    (tmp_path / "one/config.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"config\.json.*{message}.*Cure"):
        convert(tmp_path / "one", tmp_path / "out")
