"""Models handed on: each format against the original, and the card against what the tracking store knows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from models.weights import load_model
from pipeline.cli import app
from pipeline.errors import InputError
from pipeline.inference.export import TOLERANCE
from pipeline.model_folder import sha256
from pipeline.serving.handover import export
from pipeline.tracking import names


@pytest.fixture(scope="module")
def tested(registered: str, model: Path) -> str:
    """The registered model with a run that trained it and one that tested it."""
    from pipeline.tracking.store import Store

    store = Store()
    trained = store.create_run("serving", "trained", "finetune three-ways", 0, {"git.commit": "a" * 40})
    store.tags(trained, {"everest.weights_sha256": sha256(model)})
    store.metrics(trained, [(names.WALL_SECONDS, 123.0, 0, 0), (names.PEAK_MEMORY_GIB, 1.5, 0, 0)])
    store.inputs(trained, {"manifest.parquet": "d41d8cd98f00b204e9800998ecf8427e"})
    run = store.create_run("serving", "tested", "evaluate three-ways", 0, {"git.commit": "b" * 40})
    values = {names.EVAL_TOP1: 0.75, names.EVAL_TOP1_LOW: 0.6, names.EVAL_TOP1_HIGH: 0.85, names.EVAL_VIDEOS_OK: 60.0}
    store.metrics(run, [(name, value, 0, 0) for name, value in values.items()])
    store.params(run, {"evaluate.split": "test"})
    store.models.register(run, "k2", model, "three-ways", {"score": "0.9", "sha256": sha256(model)}, ["best"])
    return registered


def test_the_card_says_data_splits_metrics_cost_licence_and_lineage(tested: str, tmp_path: Path) -> None:
    result = export(tested, str(tmp_path), ["pt2"], licence="cc-by-nc-4.0", runs=1)
    assert result["files"] == [str(tmp_path / name) for name in ("model.pt2", "model.json", "README.md")]
    text = (tmp_path / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert (head["license"], head["datasets"]) == ("cc-by-nc-4.0", ["three-ways"])
    assert "| top-1 | 0.7500 | 0.6000 to 0.8500 |" in text
    assert "Tested on: split test of it." in text
    assert "| manifest.parquet | `d41d8cd98f00b204e9800998ecf8427e` |" in text
    assert "| finetune three-ways | 123 s wall time; 1.5 GiB peak memory |" in text
    assert "models:/three-ways/1, models:/three-ways/2" in text
    assert f"commit `{'b' * 12}`" in text
    assert f"commit `{'a' * 12}`" in text
    assert "falls, rises, turns" in text
    assert "x 10^9 multiply-adds over" in text


def test_a_model_that_no_run_knows_has_a_card_that_says_so(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    export(str(model), "out", ["pt2"], runs=1)
    text = Path("out/README.md").read_text()
    assert 'license: "unknown"' in text
    assert "Unknown: there is no tracking store" in text
    assert not Path("mlflow.db").exists()


@pytest.mark.parametrize("name", ["README.md", "model.json", "model.pt2"])
def test_files_of_others_are_not_written_over_and_those_of_an_export_are(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path(name).write_text('{"name": "mine"}\n')
    with pytest.raises(InputError, match=rf"{name} is no.* would be lost. Cure: another --out"):
        export(str(model), ".", ["pt2"], runs=1)
    assert Path(name).read_text() == '{"name": "mine"}\n'
    assert list(Path().iterdir()) == [Path(name)], "nothing was written before it was refused"
    Path(name).unlink()
    first, again = (export(str(model), ".", ["pt2"], runs=1)["files"] for _ in range(2))
    assert first == again


def test_the_record_of_another_model_is_not_written_over(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "other")
    with pytest.raises(InputError, match=r"other/model.json is not of `everest export`, and would be lost"):
        export(str(model), str(tmp_path / "other"), ["pt2"], runs=1)


def test_huggingface_gives_the_logits_of_all_tokens(model: Path, tmp_path: Path) -> None:
    videomae = pytest.importorskip("transformers.models.videomae")
    line = ["export", "--model", str(model), "--out", str(tmp_path), "--to", "huggingface", "--json"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["parity"]["huggingface"] <= TOLERANCE
    folder = tmp_path / "huggingface"
    names_of = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in folder.iterdir()) == names_of
    assert "library_name: transformers" in (folder / "README.md").read_text()
    network = videomae.VideoMAEForVideoClassification.from_pretrained(folder, local_files_only=True).eval()
    original = load_model(model, strategy="none").eval()
    clip = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (network(clip.transpose(1, 2)).logits - original(clip)).abs().max() <= TOLERANCE
    assert [network.config.id2label[number] for number in range(3)] == ["falls", "rises", "turns"]
    assert CliRunner().invoke(app, line).exit_code == 0, "again, over what is there"


def test_its_processor_makes_our_pixels(model: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from pipeline import api

    export(str(model), str(tmp_path), ["huggingface"], runs=1)
    processor = transformers.VideoMAEImageProcessor.from_pretrained(tmp_path / "huggingface")
    frames = np.random.default_rng(0).integers(0, 256, (8, 48, 48, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    theirs = processor(list(frames), return_tensors="pt")["pixel_values"][0].transpose(0, 1)
    ours = api.load(model, device="cpu").pixels(frames[None])[0]
    # One grey level of 255, over the smallest deviation.
    assert (theirs - ours).abs().max() <= 1.01 / 255 / 0.224


def test_what_cannot_be_handed_on_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="licence = 'my own!'"):
        export(str(model), str(tmp_path), ["pt2"], licence="my own!")
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface/thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds other files"):
        export(str(model), str(tmp_path), ["huggingface"])
    assert (tmp_path / "huggingface/thesis.tex").read_text() == "years of work"
    with pytest.raises(InputError, match="thesis.tex/out: .*Cure: name a folder that can be written to"):
        export(str(model), str(tmp_path / "huggingface/thesis.tex/out"), ["pt2"])
