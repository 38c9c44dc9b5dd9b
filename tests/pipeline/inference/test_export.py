"""Exported classifiers, read again as another program would, against the original."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import models  # noqa: F401
from models.backbone import kept_mask
from models.info import ModelInfo, Pixels, Views
from models.selection import rero_scores
from models.weights import load_model, save_model
from pipeline.errors import EverestError, InputError
from pipeline.inference.export import TOLERANCE, _decided_clips, command

SHAPE = (3, 8, 32, 32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    network = timm.create_model("everest_tiny_patch16_224", img_size=32, num_frames=8, num_classes=3, keep_ratio=0.6)
    info = ModelInfo(
        network.architecture, network.kwargs, "finetune", "three-ways", ("a", "b", "c"), 2, Views(5, 3), Pixels(32, 64)
    )
    save_model(network, folder, info.as_dict())
    return folder


def test_both_formats_take_any_batch_and_give_the_original_logits(model: Path, tmp_path: Path) -> None:
    import onnxruntime

    result = command(str(model), str(tmp_path / "out"), runs=1)
    assert result["files"] == [str(tmp_path / "out" / name) for name in ("model.pt2", "model.onnx", "model.json")]
    assert set(result["parity"]) == {"pt2", "onnx"}
    assert max(result["parity"].values()) <= TOLERANCE
    assert [(row["format"], row["batch"]) for row in result["latency"]] == [
        (name, batch) for name in ("torch", "pt2", "onnx") for batch in (1, 8)
    ]
    assert all(row["milliseconds"] > 0 for row in result["latency"])

    original = load_model(model).eval()
    extra = {"model.json": ""}
    program = torch.export.load(tmp_path / "out" / "model.pt2", extra_files=extra).module()
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    record = (tmp_path / "out" / "model.json").read_text()
    assert json.loads(record) == json.loads((model / "model.json").read_text())
    assert record == extra["model.json"] == session.get_modelmeta().custom_metadata_map["model.json"]
    assert [(i.name, i.shape[1:]) for i in session.get_inputs()] == [("clip", list(SHAPE))]
    for count in (1, 3, 5):  # neither was traced with these
        clip = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(count))
        with torch.inference_mode():
            expected = original(clip).numpy()
            assert np.abs(program(clip).numpy() - expected).max() <= TOLERANCE
        assert np.abs(session.run(None, {"clip": clip.numpy()})[0] - expected).max() <= TOLERANCE


def test_one_format_alone_can_be_chosen_and_unknown_ones_are_refused(model: Path, tmp_path: Path) -> None:
    files = command(str(model), str(tmp_path), ["pt2"], runs=1)["files"]
    assert files == [str(tmp_path / name) for name in ("model.pt2", "model.json")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.pt2"]
    for formats in (["tensorrt"], []):
        with pytest.raises(InputError, match=r"expected some of pt2, onnx"):
            command(str(model), str(tmp_path), formats)


def test_an_export_that_differs_is_not_left_behind(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.inference.export.TOLERANCE", -1.0)
    with pytest.raises(EverestError, match=r"exported models differ from the original: .*pt2"):
        command(str(model), str(tmp_path / "out"), ["pt2"], runs=1)
    assert not list((tmp_path / "out").iterdir())


def test_models_are_compared_on_clips_of_which_rounding_does_not_choose_the_tokens() -> None:
    shape, left_out = (3, 16, 64, 64), 0
    for seed in range(6):
        torch.manual_seed(seed)
        network: Any = timm.create_model("everest_tiny_patch16_224", img_size=64, num_frames=16, keep_ratio=0.6)
        network.eval()
        with torch.inference_mode():
            clips = _decided_clips(network, shape, 8)
            first = torch.randn(1, *shape, generator=torch.Generator().manual_seed(8))
            left_out += not torch.equal(clips[:1], first)
            kept = kept_mask(network.embed_kept(clips))
            embedded_BND = network.patch_embed(network.cut(clips)[0])
            ordered_BN = rero_scores(embedded_BND, 8).sort(descending=True).values
            last = int(kept[0].sum()) - 1
            assert (ordered_BN[:, last] > ordered_BN[:, last + 1]).all()  # slot 0 scores as slot 1 does
            assert torch.equal(kept_mask(network.double().embed_kept(clips.double())), kept)
        assert clips.shape == (8, *shape)
    assert left_out < 6  # clear cases are the rule


@pytest.mark.parametrize(
    ("kind", "lacks"), [("onnx", "onnx, onnxscript, onnxruntime"), ("huggingface", "transformers")]
)
def test_packages_that_an_export_lacks_come_from_the_checkout(
    kind: str, lacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No registry has this project: its name with [dev] would install nothing, or a stranger's."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=rf"needs {lacks}\. Cure: `make install` in the checkout, or `pip install '\.\["
    ):
        command(str(tmp_path), str(tmp_path / "out"), [kind])
