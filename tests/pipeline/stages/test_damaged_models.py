"""One flipped byte of a model, its time stamp kept: every path that reads weights refuses them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from predictions import command as predict
from small_training import ready

from models.info import ModelInfo, Pixels, Views
from models.weights import save_model
from pipeline import doctor, layout, model_folder
from pipeline.distributed.groups import Ranks
from pipeline.errors import EverestError, InputError
from pipeline.evaluation.files import read_predictions, write_predictions
from pipeline.experiments.restore import check_files
from pipeline.inference import models
from pipeline.inference.export import command as export
from pipeline.pictures.look import show
from pipeline.stages import evaluate, finetune, preprocess
from pipeline.system.files import sha256_of
from pipeline.tracking.store import StoreError
from pipeline.tracking.upload import _check_held
from pipeline.training import tasks

MODEL = Path("outputs/finetune/small")
REFUSED = r"model\.safetensors is not what was written: its SHA-256.*Cure"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with videos, cache and a classifier, and what it was evaluated to."""
    folder = tmp_path_factory.mktemp("project")
    here = Path.cwd()
    os.chdir(folder)
    try:
        params = ready(finetune__init=str(MODEL))
        arguments = tasks.classifier_arguments(params.finetune_of("small"), params.clip, 8)
        model = timm.create_model("everest_tiny_patch16_224", **arguments)
        names = tuple(f"motion {n}" for n in range(8))
        pixels = Pixels(params.clip.resolution, params.preprocess.short_side)
        info = ModelInfo(model.architecture, arguments, "finetune", "small", names, 1, Views(), pixels)
        save_model(model, MODEL, info.as_dict())
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def params(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its parameters, in a copy of it."""
    shutil.copytree(prepared, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    import small_benchmark

    return small_benchmark.params(finetune__init=str(MODEL), finetune__validate_split="test", compute__ranks=1)


def flip(path: Path, place: int = -100) -> None:
    """Invert one bit, with the time stamp kept."""
    stamp, content = path.stat(), bytearray(path.read_bytes())
    content[place] ^= 1
    path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


PATHS: dict[str, Callable[[Any], Any]] = {
    "fine-tuning": lambda params: finetune.run(params, "small"),
    "a rank of fine-tuning": lambda params: tasks.FinetuneTask(params, "small", Ranks(0, 1, 0, _cpu())),
    "evaluation": lambda params: evaluate.run(params, "small"),
    "prediction": lambda _: predict([str(layout.raw_dir("small"))], str(MODEL)),
    "export": lambda _: export(str(MODEL), "out"),
    "pictures": lambda _: show(layout.raw_dir("small") / "v000.mp4", MODEL, Path("pictures")),
    "registration": lambda _: models.prepare(MODEL, Path("registered"), model_folder.describe(MODEL)),
    "a name": lambda _: models.load(str(MODEL)),
}


def _cpu() -> Any:
    import torch

    return torch.device("cpu")


@pytest.mark.parametrize("path", PATHS)
def test_a_flipped_byte_is_refused_by(path: str, params: Any) -> None:
    flip(MODEL / "model.safetensors")
    with pytest.raises(InputError, match=REFUSED):
        PATHS[path](params)
    assert not Path("outputs/evaluate").exists()


def test_a_flipped_byte_is_refused_as_the_source_of_distance_maps(params: Any) -> None:
    import small_benchmark

    flip(MODEL / "model.safetensors")
    settings = small_benchmark.params(preprocess__map_source="embedding", preprocess__map_weights=str(MODEL))
    with pytest.raises(InputError, match=rf"preprocess\.map_weights.*{REFUSED}"):
        preprocess.run(settings, "small")


@pytest.mark.usefixtures("params")
def test_what_changed_between_evaluation_and_sending_is_not_registered() -> None:
    held = models.prepare(MODEL, Path("held"), model_folder.describe(MODEL))
    _check_held(held, model_folder.sha256(held))
    expected = model_folder.sha256(held)
    flip(held / "model.safetensors")
    with pytest.raises(StoreError, match=r"not what was to be registered.*Cure: `everest evaluate`"):
        _check_held(held, expected)


class Registry:
    """A store that hands out one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = self

    def download(self, _: Any, target: Path) -> Path:
        return Path(shutil.copytree(self.folder, target))


@pytest.mark.usefixtures("params")
def test_a_registered_model_is_compared_with_its_tag_also_when_it_was_fetched_before() -> None:
    version = {"name": "m", "version": "1", "source": "x", "tags": {"sha256": model_folder.sha256(MODEL)}}
    store: Any = Registry(MODEL)
    fetched = models._fetch(store, version)
    flip(fetched / "model.safetensors")
    assert model_folder.sha256(models._fetch(store, version)) == version["tags"]["sha256"]  # fetched once more
    flip(fetched / "model.safetensors")
    flip(MODEL / "model.safetensors")
    with pytest.raises(EverestError, match=r"version 1 of m are not those that were registered.*Cure"):
        models._fetch(store, version)


@pytest.mark.usefixtures("params")
def test_a_model_that_was_registered_before_hashes_were_recorded_is_known_by_its_tag() -> None:
    path = MODEL / "model.json"
    digest = model_folder.sha256(MODEL)
    former = {key: value for key, value in json.loads(path.read_text()).items() if not key.endswith("_sha256")}
    path.write_text(json.dumps(former))
    store: Any = Registry(MODEL)
    version = {"name": "m", "version": "1", "source": "x", "tags": {"sha256": digest}}
    assert models.load(str(models._fetch(store, version)))[1].classes == tuple(former["classes"])
    with pytest.raises(EverestError, match="not those that were registered"):
        models._fetch(store, version | {"version": "2", "tags": {"sha256": "0" * 64}})
    with pytest.raises(EverestError, match=r"records no SHA-256"):
        models._fetch(store, version | {"version": "3", "tags": {}})


@pytest.mark.usefixtures("params")
def test_reproducing_refuses_weights_that_are_no_longer_those_of_the_run() -> None:
    name = str(MODEL / "model.safetensors")
    digest = sha256_of(Path(name))
    flip(Path(name))
    with pytest.raises(InputError, match=rf"{name} with SHA-256 {digest[:12]}.*replaced since the run"):
        check_files({name: digest}, Path("elsewhere"), Path.cwd())


def test_predictions_that_changed_are_not_compared(tmp_path: Path) -> None:
    from pipeline.evaluation.benchmark import TestSet
    from pipeline.evaluation.inference import Answer

    folder = tmp_path / "small"
    folder.mkdir()
    tests = TestSet(["a", "b"], ["a.mp4", "b.mp4"], [0, 1], {})
    write_predictions(folder / "predictions.parquet", tests, [Answer(None, "bad"), Answer(None, "worse")])
    assert read_predictions(folder / "predictions.parquet")["video_id"] == []
    flip(folder / "predictions.parquet", 60)
    with pytest.raises(InputError, match=r"predictions\.parquet is damaged.*Cure: `everest evaluate small`"):
        read_predictions(folder / "predictions.parquet")


@pytest.mark.usefixtures("params")
def test_the_doctor_looks_at_models_manifests_and_caches() -> None:
    looks: dict[Path, Callable[[], str]] = {
        MODEL / "model.safetensors": lambda: doctor._look_at_model(MODEL),
        layout.manifest_dir("small") / "manifest.parquet": lambda: doctor._look_at_manifest("small"),
        next(layout.cache_dir("small").glob("frames-*")): lambda: doctor._look_at_cache("small"),
    }
    for path, look in looks.items():
        assert doctor._whole("it", look)["status"] == "ok"
        flip(path, 2000)
        check = doctor._whole("it", look)
        assert (check["status"], bool(check["cure"])) == ("fail", True)
        assert str(path) in check["found"]
