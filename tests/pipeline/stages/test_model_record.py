"""What a trained model carries: its own classes, wherever it is used and whatever became of the data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from predictions import command
from small_training import ready, small_benchmark

from models.convert import to_official
from models.weights import read_info, write_info
from pipeline import layout
from pipeline.data import manifest
from pipeline.errors import DamagedError, EverestError, InputError
from pipeline.inference.convert import convert
from pipeline.preflight.videos import known
from pipeline.stages import evaluate, finetune, pretrain

TRAINED = ["jump", "lift", "mow", "nod", "open", "push", "quit", "run"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def named(video: Path, model: Path) -> tuple[int, str]:
    """What a video is predicted as: number and name."""
    (row,) = command([str(video)], str(model))["predictions"]
    return row["predicted"], row["class"]


def test_a_model_prints_what_it_was_trained_on_after_a_class_was_added_and_from_elsewhere(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = ready(
        finetune__init="scratch",
        finetune__epochs=1,
        finetune__warmup_epochs=0.0,
        evaluate__bootstrap=100,
        evaluate__segments=2,
    )
    small_benchmark.name_classes(TRAINED)
    finetune.run(params, "small")
    model, video = here / "outputs/finetune/small", here / "data/raw/small/v003.mp4"
    about = read_info(model)
    assert (about["classes"], about["dataset"], about["frame_step"]) == (TRAINED, "small", 1)
    assert (about["kwargs"]["strategy"], about["kwargs"]["keep_ratio"]) == ("everest", params.finetune.keep_ratio)
    assert about["views"] == {"segments": 1, "crops": 1, "grid": 1}
    assert (about["pixels"]["resolution"], about["pixels"]["short_side"]) == (32, 64)
    number, name = named(video, model)
    assert name == TRAINED[number]

    small_benchmark.name_classes(["climb", *TRAINED])
    assert named(video, model) == (number, name)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert named(video, model) == (number, name)
    monkeypatch.chdir(here)

    with pytest.raises(InputError, match=r"names 9 classes, expected data\.classes = 8.*Cure"):
        evaluate.run(params, "small")
    small_benchmark.name_classes(["climb", *TRAINED[:-1]])
    with pytest.raises(InputError, match=r"class 0 was trained as 'jump', the manifest's is 'climb'.*Cure"):
        evaluate.run(params, "small")
    small_benchmark.name_classes(TRAINED)
    evaluate.run(params, "small")
    table = (layout.output_dir("evaluate", "small") / "confusion.csv").read_text()
    assert table.startswith("actual," + ",".join(TRAINED) + "\n")
    (registered,) = Path(".work/evaluate").rglob("registered/model.json")
    about = json.loads(registered.read_text())
    assert (about["classes"], about["views"]["segments"], about["recipe"]) == (TRAINED, 2, params.recipe)


def test_classes_that_do_not_fit_are_refused_before_the_first_step(here: Path) -> None:
    params = ready(finetune__init="scratch")
    for names, message in (
        (TRAINED[:-1], r"classes\.json names 7 classes, expected data\.classes = 8"),
        ([*TRAINED[:-1], "jump"], "names the class 'jump' more than once"),
        ([*TRAINED[:-1], ""], "expected a list of names"),
    ):
        small_benchmark.name_classes(names)
        with pytest.raises(InputError, match=rf"{message}.*Cure"):
            finetune.run(params, "small")
    (layout.manifest_dir("small") / "classes.json").unlink()
    with pytest.raises(InputError, match=r"classes\.json does not exist.*everest download small"):
        finetune.run(params, "small")
    assert not Path("outputs").exists()
    assert not Path(".work/finetune").exists()


def test_a_flipped_byte_of_the_list_of_classes_is_refused_wherever_it_is_read(here: Path) -> None:
    params = ready(finetune__init="scratch")
    small_benchmark.name_classes(TRAINED)
    path = layout.manifest_dir("small") / "classes.json"
    written = path.read_bytes()
    for place in range(len(written)):
        path.write_bytes(written[:place] + bytes([written[place] ^ 1]) + written[place + 1 :])
        with pytest.raises(EverestError, match=r"classes\.json is (not what was written|no list of classes)"):
            manifest.read_classes(path)
    path.write_bytes(written.replace(b"jump", b"junp", 1))
    state = timm.create_model("everest_tiny_patch16_224", num_classes=8).state_dict()
    torch.save({"model": to_official(state)}, here / "model.pth")
    for read in (
        lambda: finetune.run(params, "small"),
        lambda: manifest.class_names(path.parent, 8),
        lambda: known(params, "small", chain=False),
        lambda: convert(here / "model.pth", here / "out", classes=path),
    ):
        with pytest.raises(DamagedError, match=r"classes\.json is not what was written.*Cure: `everest download"):
            read()
    path.write_text(json.dumps({"classes": TRAINED, "problems": []}))  # as a former version wrote it
    assert manifest.class_names(path.parent, 8) == TRAINED


def test_a_model_of_other_clips_or_pixels_is_not_evaluated(here: Path) -> None:
    params = ready(finetune__init="scratch", finetune__epochs=1, finetune__warmup_epochs=0.0)
    finetune.run(params, "small")
    path = layout.output_dir("finetune", "small") / "model.json"
    full = json.loads(path.read_text())
    for change, message in (
        ({"frame_step": 3}, "frame_step = 3, expected 1 of params.yaml"),
        ({"pixels": {**full["pixels"], "short_side": 48}}, "short_side = 48, expected 64 of the cache"),
        ({"classes": full["classes"][:-1]}, "classes has 7 names, expected num_classes = 8"),
        ({"classes": None}, "names no classes"),
    ):
        write_info(path.parent, {**full, **change})
        with pytest.raises(InputError, match=message):
            evaluate.run(params, "small")
    write_info(path.parent, {key: value for key, value in full.items() if key != "version"})
    with pytest.raises(InputError, match="version 1 of model.json.*Cure"):
        command([str(layout.raw_dir("small") / "v000.mp4")], str(path.parent))


def test_a_pretraining_says_what_it_saw(here: Path) -> None:
    pretrain.run(ready(pretrain__epochs=1, pretrain__warmup_epochs=0.0), None)
    about = read_info(Path("outputs/pretrain"))
    assert (about["stage"], about["dataset"], about["frame_step"]) == ("pretrain", ["small"], {"small": 1})
    assert {"strategy", "keep_ratio", "visible_ratio"} <= about["kwargs"].keys()
    assert (about["classes"], about["pixels"]["short_side"]) == (None, 64)
