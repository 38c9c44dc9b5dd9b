"""Whatever params, manifests and the machine already tell is said before the first stage, and nothing is written."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from models.weights import save_state
from pipeline import layout, preflight
from pipeline.data import manifest
from pipeline.errors import EverestError, InputError
from pipeline.params import Params, check_params
from pipeline.preflight import machine, places


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVEREST_DATA", raising=False)
    monkeypatch.setattr(machine, "visible_gpus", lambda: 0)
    return tmp_path


def demo(root: Path, **overrides: Any) -> Params:
    raw = yaml.safe_load((root / "recipes" / "drawn.yaml").read_text())
    for dotted, value in overrides.items():
        *groups, last = dotted.split("__")
        node = raw
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return check_params(raw)


def said(params: Params, **more: Any) -> str:
    return "\n".join(map(str, preflight.problems(preflight.chain_scope(params, **more))))


def own(root: Path, folder: Path, rows: list[str], **overrides: Any) -> Params:
    """The demo's numbers with videos of one's own, listed in a table."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.csv").write_text("\n".join(["path,label,split", *rows]) + "\n", encoding="utf-8")
    source = {"kind": "folder", "path": str(folder), "annotations": "mine.csv"}
    data = {"dataset": "folder", "split": 1, "classes": 2, "frame_step": 1, "source": source}
    mine = {"mine": {"data": data, "finetune": {}, "evaluate": {}}}
    small = {"pretrain__corpus": ["mine"], "pretrain__batch": 2, "finetune__batch": 2, "compute__ranks": 1}
    return demo(root, benchmarks=mine, compare__benchmarks=None, **{**small, **overrides})


def rows(*splits: str) -> list[str]:
    return [f"{split}/{n}.mp4,{'cat' if n % 2 else 'dog'},{split}" for split in splits for n in range(4)]


def test_the_committed_recipes_have_nothing_in_their_way_on_their_machine(
    root: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.params import load_params

    monkeypatch.setattr(machine, "visible_gpus", lambda: 8)
    monkeypatch.setattr(places, "_profile", lambda *_: iter(()))
    for path in sorted((root / "recipes").glob("*.yaml")):
        began = time.monotonic()
        assert said(load_params(path)) == "", path
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            {"finetune__mixup": 0.8, "finetune__batch": 6},
            ["finetune.mixup = 0.8 mixes pairs", "3 at a time", "multiple of 4"],
        ),
        (
            {"finetune__cutmix": 1.0, "finetune__batch": 2, "finetune__repeated_augmentation": 2},
            ["finetune.cutmix = 1", "1 at a time, an odd number"],
        ),
        ({"pretrain__batch": 63}, ["pretrain.batch = 63 does not divide into 2 ranks x 1", "62"]),
        ({"compute__ranks": 1, "compute__data_parallel": "fsdp"}, ["compute.data_parallel", "several ranks"]),
        ({"compute__device": "cuda"}, ["compute.device = 'cuda', and no GPU is visible"]),
        (
            {"compute__ranks": 1024, "pretrain__batch": 1024, "finetune__batch": 1024},
            ["compute.ranks = 1024", "memory"],
        ),
        ({"pretrain__visible_ratio": 0.001}, ["pretrain.visible_ratio", "shows 0 and leaves"]),
        ({"pretrain__keep_ratio": 0.203}, ["leaves 0 to reconstruct"]),
        ({"finetune__keep_ratio": 0.001}, ["finetune.keep_ratio = 0.001 keeps none of 128 tokens", "0.00781"]),
        ({"finetune__init": "weights"}, ["finetune.init = 'weights': weights/model.json does not exist"]),
        (
            {"preprocess__map_source": "embedding", "preprocess__map_weights": "weights"},
            ["preprocess.map_weights = 'weights'", "does not exist"],
        ),
        ({"compute__cluster": "tcp://127.0.0.1:9"}, ["compute.cluster = tcp://127.0.0.1:9 does not answer"]),
        ({"compute__cluster": "somewhere"}, ["compute.cluster = 'somewhere' is no address"]),
        ({"finetune__batch": 2000, "compute__ranks": 1}, ["finetune.batch = 2000", "1024 labelled training videos"]),
        ({"finetune__label_fraction": 0.01}, ["finetune.batch = 32", "8 labelled training videos x label_fraction"]),
        ({"pretrain__batch": 4096}, ["pretrain.batch = 4096", "have 2048 training videos"]),
    ],
)
def test_what_the_machine_and_the_values_tell_is_a_line_with_its_cure(
    root: Path, here: Path, overrides: dict[str, Any], words: list[str]
) -> None:
    text = said(demo(root, **overrides))
    for word in [*words, "Cure: "]:
        assert word in text
    assert not list(here.iterdir())


def test_more_ranks_than_gpus_are_refused(root: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "visible_gpus", lambda: 1)
    assert "compute.ranks = 2, and 1 GPU(s) are visible here" in said(demo(root))
    assert said(demo(root, compute__device="cpu")) == ""


@pytest.mark.parametrize(
    ("lines", "overrides", "words"),
    [
        (rows("train"), {}, ["finetune.validate_split = 'val', and mine.csv has no labelled video", "(4 in train)"]),
        (rows("train", "test"), {}, ["finetune.validate_split = 'val'", "or set finetune.validate_split to test"]),
        (rows("train", "val"), {}, ["evaluate.split = 'test'", "(4 in train, 4 in val)", "evaluate.split to val"]),
        (rows("val", "test"), {}, ["benchmarks.mine: mine.csv has no labelled video in the split 'train'"]),
        (["a.mp4,,train", *rows("val", "test")], {}, ["no labelled video in the split 'train'"]),
        ([*rows("train", "val", "test"), "x.mp4,cow,train"], {}, ["classes = 2", "name 3 classes", "classes to 3"]),
        (["a.mp4,1,train", "b.mp4,2,val"], {}, ["numbered from 1", "subtract 1 from every label", "set classes to 2"]),
        (["a.mp4,0,train", "b.mp4,2,val", "c.mp4,0,test"], {}, ["no video has 1", "0 to 1 without a gap", "to 2"]),
        (["a.mp4,Walk,train", "b.mp4,walk,val"], {}, ["differ only by case", "'Walk' and 'walk'"]),
        (["a.mp4,walk,train", "b.mp4,walk ,val"], {}, ["differ only by case, blanks", "'walk' and 'walk '"]),
        (["a.mp4,caf\u00e9,train", "b.mp4,cafe\u0301,val"], {}, ["Unicode form", r"'cafe\u0301' and 'caf\xe9'"]),
        (["a.mp4,walk,train", "b.mp4,wa\u200blk,val"], {}, ["differ only by", r"\u200b"]),
        (["a\0b.mp4,cat,train"], {}, ["row 2: path = 'a\\x00b.mp4' is no file's name"]),
        ([f"{'x' * 300}.mp4,cat,train"], {}, ["is no file's name"]),
    ],
)  # fmt: skip
def test_what_a_table_of_ones_own_lacks_is_said_before_the_pretraining(
    root: Path, here: Path, lines: list[str], overrides: dict[str, Any], words: list[str]
) -> None:
    text = said(own(root, here / "videos", lines, **overrides))
    for word in [*words, "Cure: "]:
        assert word in text, text


def test_classes_in_two_spellings_of_folders_are_refused(root: Path, here: Path) -> None:
    for name in ("train/Run/a.mp4", "train/run/b.mp4"):
        (here / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "videos" / name).touch()
    params = own(root, here / "videos", [], benchmarks__mine__data__source__annotations=None)
    assert "'Run' and 'run'" in said(params)


def test_a_class_without_a_training_video_is_only_a_warning(root: Path, here: Path) -> None:
    lines = [*rows("val", "test"), "a.mp4,cat,train", "b.mp4,cat,train"]
    warnings = preflight.require(preflight.chain_scope(own(root, here / "videos", lines)))
    assert ["have no training video: 'dog'" in str(warning) for warning in warnings] == [True]


def test_a_split_that_no_publisher_gives_is_said_before_the_download(root: Path, here: Path) -> None:
    data = {"dataset": "ucf101", "split": 1, "classes": 101, "frame_step": 4, "source": {"kind": "official"}}
    ucf = {"ucf": {"data": data, "finetune": {}, "evaluate": {}}}
    text = said(demo(root, benchmarks=ucf, pretrain__corpus=["ucf"], compare__benchmarks=None))
    assert "finetune.validate_split = 'val', and ucf101 publishes labels of train and test only" in text


def test_a_manifest_is_asked_once_the_download_is_on_record(root: Path, here: Path) -> None:
    params = own(root, here / "videos", rows("train", "val", "test"))
    row = dict.fromkeys(manifest.SCHEMA, "") | {name: 0 for name, kind in manifest.SCHEMA.items() if kind != "string"}
    table = manifest.from_rows([{**row, "path": "a.mp4", "split": "train", "label": 0, "status": "ok"}])
    manifest.save(table, layout.manifest_dir("mine") / "manifest.parquet")
    assert said(params) == ""  # the table was mended since: the download will run again
    finetune = preflight.stage_scope(params, "finetune", "mine")
    assert "manifest.parquet has no labelled video in the split 'val'" in "\n".join(
        map(str, preflight.problems(finetune))
    )
    recorded = {"benchmarks.mine.data": params.benchmarks["mine"].data.model_dump(mode="json")}
    lock = {"stages": {"download@mine": {"cmd": "x", "params": {"params.yaml": recorded}}}}
    (here / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert "manifest.parquet has no labelled video in the split 'val'" in said(params)


def test_a_cache_that_the_disk_cannot_hold_is_said_before_anything_is_drawn(
    root: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "free_bytes", lambda _: 1 << 30)
    text = said(demo(root, benchmarks__motion__data__source__train=20_000))
    assert "the caches of motion, state_change take about" in text
    assert f"free in {here}/data/cache" in text
    monkeypatch.setattr(places, "free_bytes", lambda _: 30_000)
    small = {"train": 8, "val": 2, "test": 2}
    sizes = {
        f"benchmarks__{key}__data__source__{split}": n
        for key in ("motion", "state_change")
        for split, n in small.items()
    }
    text = said(demo(root, **sizes))
    assert "take about 6.8 MiB, 256 MiB must stay free beside them, and 29.3 KiB are free in" in text


def test_an_expired_profile_is_said_before_the_download(
    root: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(here / "keys"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(here / "config"))
    data = {"dataset": "oscc", "split": 1, "classes": 2, "frame_step": 4}
    data["source"] = {"kind": "official", "profile": "ego4d"}
    params = demo(root, benchmarks={"oscc": {"data": data, "finetune": {}, "evaluate": {"split": "val"}}},
                  pretrain__corpus=["oscc"], compare__benchmarks=None)  # fmt: skip
    assert "profile = 'ego4d' is no profile" in said(params)
    (here / "keys").write_text("[ego4d]\naws_access_key_id = x\nexpiration = 2020-01-01T00:00:00Z\n")
    assert "profile = 'ego4d' has expired at 2020-01-01" in said(params)
    (here / "keys").write_text("[ego4d]\naws_access_key_id = x\nexpiration = 2999-01-01T00:00:00Z\n")
    assert said(params) == ""


def test_weights_of_another_size_are_refused_by_their_model_json(root: Path, here: Path) -> None:
    (here / "weights").mkdir()
    (here / "weights" / "model.safetensors").touch()
    (here / "weights" / "model.json").write_text('{"architecture": "everest_pretrain_base_patch16_224", "kwargs": {}}')
    assert "holds a model of size base, pretrain.size = tiny" in said(demo(root, finetune__init="weights"))


@pytest.mark.parametrize(("arguments", "words", "kind"), [
    ({"num_frames": 16, "img_size": 64}, "", ""),
    ({"num_frames": 8, "img_size": 64}, "trained on clips of 8 frames at 64 px, and clip has 16 at 64", "warning"),
    ({}, "trained on clips of 16 frames at 224 px, and clip has 16 at 64", "warning"),
    ({"num_frames": 16, "img_size": 64, "clip_input": "difference"}, "on difference clips, clip.input = rgb", "input"),
    ({"num_frames": 16, "img_size": 64, "tubelet_size": 4}, "tubelet_size = 4, expected 2", "input"),
])  # fmt: skip
def test_weights_of_another_shape_are_said_before_the_download(
    root: Path, here: Path, arguments: dict[str, int], words: str, kind: str
) -> None:
    info = {"architecture": "everest_pretrain_tiny_patch16_224", "kwargs": arguments}
    save_state({"a": torch.zeros(1)}, here / "weights", info)
    problems = preflight.problems(preflight.chain_scope(demo(root, finetune__init="weights")), [places.weights])
    assert [problem.kind for problem in problems] == ([kind] if kind else [])
    assert words in "".join(map(str, problems))


def test_weights_that_are_not_what_was_written_are_said_before_the_download(root: Path, here: Path) -> None:
    info = {"architecture": "everest_pretrain_tiny_patch16_224", "kwargs": {"num_frames": 16, "img_size": 64}}
    save_state({"a": torch.zeros(1)}, here / "weights", info)
    content = bytearray((here / "weights/model.safetensors").read_bytes())
    content[-1] ^= 1
    (here / "weights/model.safetensors").write_bytes(content)
    assert "is not what was written: its SHA-256 begins" in said(demo(root, finetune__init="weights"))


def test_input_ends_with_2_and_the_world_with_1(root: Path, here: Path) -> None:
    with pytest.raises(InputError):
        preflight.require(preflight.chain_scope(demo(root, compute__device="cuda")))
    with pytest.raises(EverestError) as caught:
        preflight.require(preflight.chain_scope(demo(root, compute__cluster="tcp://127.0.0.1:9")))
    assert caught.value.exit_code == 1


def everest(folder: Path, *words: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], float]:
    import os

    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=100,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}, **environment},
    )  # fmt: skip
    return done, time.monotonic() - began


@pytest.mark.parametrize(
    "command", [["pipeline.cli", "run"], ["pipeline.cli", "finetune", "mine"], ["pipeline.preflight"]]
)
def test_a_bad_value_starts_no_stage_and_leaves_nothing(root: Path, here: Path, command: list[str]) -> None:
    project = here / "project"
    project.mkdir()
    params = own(root, here / "videos", rows("train"), finetune__mixup=0.8, finetune__batch=3)
    (project / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False))
    done, _ = everest(project, *command, HOME=str(here))
    assert done.returncode == 2, done.stderr
    assert "finetune.mixup = 0.8 mixes pairs of clips" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in project.iterdir()] == ["params.yaml"]


def test_a_warning_is_printed_and_ends_with_0(root: Path, here: Path) -> None:
    project = here / "project"
    project.mkdir()
    lines = [*rows("val", "test"), "a.mp4,cat,train", "b.mp4,cat,train"]
    params = own(root, here / "videos", lines, compute__device="cpu")
    (project / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False))
    done, _ = everest(project, "pipeline.preflight")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("warning: benchmarks.mine: 1 of 2 classes have no training video: 'dog'")
