"""What a stage really reads, what DVC watches and what names its work are the same keys."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.params import Params, PretrainParams, declared, load_params, records

HERE = Path(__file__).resolve().parent
STAGES = ("download", "preprocess", "baseline", "corpus", "pretrain", "finetune", "evaluate", "report")


def noted(folder: Path, root: Path, store: str, source: str) -> dict[str, set[str]]:
    """Stage -> `read <key>` and `dump <key>` of all its processes, over real videos and trainings."""
    logs = folder / "logs"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE / "reads"), str(root / "tests" / "kit"), str(root)]),
        "MLFLOW_TRACKING_URI": store,
        "EVEREST_QUIET": "1",
    }
    command = [sys.executable, str(HERE / "chain_that_reads.py"), str(logs), source]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        stage: {line for path in (logs / stage).iterdir() for line in path.read_text().splitlines()} for stage in STAGES
    }


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory, root: Path, tracking_store: str) -> dict[str, set[str]]:
    """Clips come from the videos, which asks for all that the cache does, and for the pixels' size."""
    return noted(tmp_path_factory.mktemp("reads"), root, tracking_store, "videos")


def covers(key: str, entry: str) -> bool:
    pattern = re.escape(entry).replace(r"\*", "[^.]+")
    return re.fullmatch(rf"{pattern}(\..+)?", key) is not None


def keys(lines: set[str], *kinds: str) -> set[str]:
    return {key for kind, key in (line.split(" ", 1) for line in lines) if kind in kinds}


def stage(name: str) -> declared.Stage:
    return declared.declared(name, None if name in ("pretrain", "report") else "small")


def strays(name: str, lines: set[str]) -> set[str]:
    entries = (*stage(name).params, *declared.MACHINE)
    return {key for key in keys(lines, "read", "dump") if not any(covers(key, entry) for entry in entries)}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_reads_no_key_that_it_does_not_declare(name: str, reads: dict[str, set[str]]) -> None:
    assert strays(name, reads[name]) == set(), f"{name} reads what DVC does not know of"


@pytest.mark.slow
def test_nor_does_one_that_reads_clips_from_the_cache(tmp_path: Path, root: Path, tracking_store: str) -> None:
    result = noted(tmp_path, root, tracking_store, "cache")
    assert {name: strays(name, lines) for name, lines in result.items()} == {name: set() for name in STAGES}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_declares_no_key_that_it_does_not_read(name: str, reads: dict[str, set[str]]) -> None:
    read = keys(reads[name], "read")
    idle = {entry for entry in stage(name).params if not any(covers(key, entry) for key in read)}
    # A benchmark's own values are laid over the group as a whole.
    dumped = {entry for entry in idle if any(covers(key, entry) for key in keys(reads[name], "dump"))}
    assert idle - dumped == set()


def test_ranks_are_noted_too(reads: dict[str, set[str]]) -> None:
    assert "read pretrain.visible_ratio" in reads["pretrain"], "only the ranks build the model"
    assert "read pretrain.size" in reads["finetune"]


def test_the_comparison_declares_what_its_trainings_do(root: Path) -> None:
    own = declared.declared("compare", None)
    for name in ("pretrain", "finetune", "evaluate"):
        part = declared.declared(name, "motion" if name != "pretrain" else None)
        assert not [key for key in part.params if not any(covers(key, entry) for entry in own.params)], name
        assert set(part.versions) <= set(own.versions)


def test_dvc_watches_the_same_keys_and_keeps_the_record(root: Path) -> None:
    from dvc.repo import Repo

    from pipeline.layout import record_file

    raw = load_params(root / "params.yaml").model_dump(mode="json")
    with Repo(str(root)) as repo:
        watched: dict[str, Any] = {}
        for result in repo.index.stages:
            files = {Path(str(dep)).name: sorted(dep.params) for dep in result.deps if hasattr(dep, "params")}
            outs = {Path(out.fs_path).relative_to(root).as_posix() for out in result.outs}
            watched[result.name] = (files, outs)
    assert {entry.address for entry in declared.stages(raw)} == set(watched)
    for entry in declared.stages(raw):
        files, outs = watched[entry.address]
        assert files.get("params.yaml", []) == sorted(entry.params), entry.address
        assert files.get("versions.yaml", []) == sorted(entry.versions), entry.address
        assert record_file(entry.name, entry.key).as_posix() in outs, entry.address


def test_every_version_belongs_to_a_stage(root: Path) -> None:
    raw = load_params(root / "params.yaml").model_dump(mode="json")
    assert {part for entry in declared.stages(raw) for part in entry.versions} == set(declared.versions())


def test_settings_of_the_machine_are_declared_by_no_stage(root: Path) -> None:
    raw = load_params(root / "params.yaml").model_dump(mode="json")
    for entry in declared.stages(raw):
        assert not [key for key in entry.params if any(covers(key, machine) for machine in declared.MACHINE)]


@pytest.mark.parametrize("name", ["pretrain", "compare"])
def test_all_of_pretraining_is_declared_but_what_only_looks_at_it(name: str) -> None:
    entries = declared.declared(name, None).params
    listed = {entry.removeprefix("pretrain.") for entry in entries if entry.startswith("pretrain.")}
    assert listed == PretrainParams.model_fields.keys() - {"monitor"}


def changed(root: Path, **values: Any) -> Params:
    return load_params(
        root / "recipes" / "drawn.yaml", {key.replace("__", "."): value for key, value in values.items()}
    )


@pytest.mark.parametrize(("key", "value", "stages"), [
    ("pretrain__size", "small", {"pretrain", "finetune"}),
    ("finetune__epochs", 3, {"finetune"}),
    ("finetune__precision", "bf16", {"finetune", "evaluate"}),
    ("seed", 4, {"baseline", "pretrain", "finetune", "evaluate"}),
    ("ingest__failure_budget", 0.1, {"download", "preprocess"}),
    ("benchmarks__motion__data__frame_step", 2, set(STAGES) - {"pretrain", "report"}),
    ("benchmarks__state_change__finetune__epochs", 2, set()),
    ("compute__ranks", 7, set()),
    ("preprocess__workers", 7, set()),
])  # fmt: skip
def test_unfinished_work_is_named_by_what_its_stage_declares(
    root: Path, key: str, value: Any, stages: set[str]
) -> None:
    before, after = changed(root), changed(root, **{key: value})
    names = {name: None if name == "pretrain" else "motion" for name in STAGES if name != "report"}
    moved = {n for n, b in names.items() if declared.work_key(n, b, before) != declared.work_key(n, b, after)}
    assert moved == stages


def with_weights(root: Path) -> Params:
    return changed(root, preprocess__map_source="embedding", preprocess__map_weights="weights")


def test_other_weights_for_the_maps_are_other_work_and_no_finished_cache(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params, file = with_weights(root), tmp_path / "weights" / "model.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"first")
    before = declared.work_key("preprocess", "motion", params)
    values = declared.values("preprocess", "motion", params)
    records.write_record("preprocess", "motion", values)
    noted = {key: value for key, value in values.items() if not key.endswith(".sha256")}
    versions = {key.removeprefix("versions."): noted.pop(key) for key in list(noted) if key.startswith("versions.")}
    entry = {"params": {"params.yaml": noted, "versions.yaml": versions}}
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"preprocess@motion": entry}}))
    assert records.misrecorded("preprocess@motion", tmp_path) is None
    file.write_bytes(b"second")
    assert declared.work_key("preprocess", "motion", params) != before
    text = records.misrecorded("preprocess@motion", tmp_path)
    assert text is not None
    assert "preprocess@motion was computed with preprocess.map_weights.sha256 = " in text


def test_weights_that_no_map_is_made_with_are_not_looked_at(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "weights" / "model.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"first")
    assert declared.weights({"preprocess.map_weights": "weights", "preprocess.map_source": "pixels"}) == {}
    assert declared.weights({"preprocess.map_weights": None, "preprocess.map_source": "embedding"}) == {}
