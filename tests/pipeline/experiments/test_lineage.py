"""Where a file, a model or a run comes from: dvc.lock and a real SQLite store asked together."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import InputError
from pipeline.experiments.lineage import command
from pipeline.experiments.lineage_text import describe
from pipeline.system.files import sha256_of
from pipeline.tracking.store import Store


def stage(command: str, reads: dict[str, str], writes: dict[str, str], **params: Any) -> dict[str, Any]:
    def entries(paths: dict[str, str]) -> list[dict[str, str]]:
        return [{"path": path, "hash": "md5", "md5": digest} for path, digest in paths.items()]

    return {"cmd": command, "deps": entries(reads), "params": {"params.yaml": params}, "outs": entries(writes)}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking_store: str) -> Path:
    """A checkout after pre-training, fine-tuning and a test: files, DVC's listings and lock, but no runs yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_store)
    hashes = {}
    for name, file in (
        ("outputs/pretrain", "model.safetensors"),
        ("outputs/finetune/motion", "model.safetensors"),
        ("outputs/evaluate/motion", "predictions.parquet"),
    ):
        (tmp_path / name).mkdir(parents=True)
        content = f"{tmp_path} {name}".encode()
        (tmp_path / name / file).write_bytes(content)
        listing = json.dumps([{"md5": hashlib.md5(content).hexdigest(), "relpath": file}])
        hashes[name] = hashlib.md5(listing.encode()).hexdigest() + ".dir"
        place = tmp_path / ".dvc/cache/files/md5" / hashes[name][:2] / hashes[name][2:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(listing)
    (tmp_path / "metrics/evaluate").mkdir(parents=True)
    (tmp_path / "metrics/evaluate/motion.json").write_text('{"eval/top1": 0.5}')
    score = {"metrics/evaluate/motion.json": hashlib.md5(b'{"eval/top1": 0.5}').hexdigest()}
    tuned, pre = {"outputs/finetune/motion": hashes["outputs/finetune/motion"]}, hashes["outputs/pretrain"]
    cache = {"data/cache/motion": "c" * 32 + ".dir"}
    stages = {
        "preprocess@motion": stage("everest preprocess motion", {}, cache),
        "pretrain": stage("everest pretrain", {}, {"outputs/pretrain": pre}, pretrain={"epochs": 6}),
        "finetune@motion": stage("everest finetune motion", {**cache, "outputs/pretrain": pre}, tuned, seed=3),
        "evaluate@motion": stage(
            "everest evaluate motion",
            {**cache, **tuned},
            {**score, "outputs/evaluate/motion": hashes["outputs/evaluate/motion"]},
        ),
    }
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    return tmp_path


@pytest.fixture
def runs(project: Path) -> dict[str, str]:
    """The runs that made those files: stage -> id."""
    store = Store()
    parent = store.create_run("lineage", f"{project}-p", "demo 1", 0, {})
    result = {"parent": parent}
    reads = {"pretrain": [], "finetune": ["outputs/pretrain"], "evaluate": ["outputs/finetune/motion"]}
    for name, tag, file in (
        ("pretrain", "weights", "outputs/pretrain/model.safetensors"),
        ("finetune", "weights", "outputs/finetune/motion/model.safetensors"),
        ("evaluate", "predictions", "outputs/evaluate/motion/predictions.parquet"),
    ):
        files = {f"{folder}/model.safetensors": sha256_of(Path(folder, "model.safetensors")) for folder in reads[name]}
        tags = {
            "dvc.stage": name, "git.commit": "abc", "git.branch": "main", "git.dirty": "true",
            "mlflow.parentRunId": parent, f"everest.{tag}_sha256": sha256_of(Path(file)),
            "everest.inputs": json.dumps(files),
        }  # fmt: skip
        result[name] = store.create_run("lineage", f"{project}-{name}", name, 0, tags)
        store.inputs(result[name], {"data/cache/motion": "c" * 32 + ".dir"})
        store.params(result[name], {"seed": "3"})
        store.metrics(result[name], [("eval/top1", 0.5, 1, 0)])
    return result


def test_a_checkpoint_leads_to_its_run_its_data_and_the_run_before(project: Path, runs: dict[str, str]) -> None:
    result = command("outputs/finetune/motion/model.safetensors")
    assert result["unchanged"] is True
    assert [entry["stage"] for entry in result["stages"]] == ["finetune@motion", "preprocess@motion", "pretrain"]
    assert result["stages"][0]["params"] == {"seed": 3}
    assert result["stages"][2]["params"] == {"pretrain": {"epochs": 6}}
    run = result["run"]
    assert run["id"] == runs["finetune"]
    assert run["parent"] == {"id": runs["parent"], "name": "demo 1"}
    assert run["code"] == {"git.commit": "abc", "git.branch": "main", "git.dirty": "true"}
    assert run["data"] == {"data/cache/motion": "c" * 32 + ".dir"}
    assert run["weights_from"] == [{"id": runs["pretrain"], "name": "pretrain"}]
    assert command("outputs/pretrain")["run"]["id"] == runs["pretrain"]


def test_a_score_file_leads_to_the_evaluation_and_its_model(project: Path, runs: dict[str, str]) -> None:
    for path in ("metrics/evaluate/motion.json", "outputs/evaluate/motion/predictions.parquet"):
        result = command(path)
        assert result["unchanged"] is True
        assert [entry["stage"] for entry in result["stages"]][:2] == ["evaluate@motion", "preprocess@motion"]
        assert result["run"]["id"] == runs["evaluate"]
        assert result["run"]["weights_from"] == [{"id": runs["finetune"], "name": "finetune"}]
        assert result["run"]["metrics"] == {"eval/top1": 0.5}
    text = describe(result)
    for part in (runs["evaluate"], "demo 1", "abc (main, with uncommitted changes)", "cccccccccccc", "seed=3", "= 0.5"):
        assert part in text


def test_a_run_is_traced_by_its_id(project: Path, runs: dict[str, str]) -> None:
    result = command(runs["evaluate"])
    assert result["run"]["params"] == {"seed": "3"}
    assert "stages" not in result


def test_a_file_that_was_changed_by_hand_is_told_apart(project: Path, runs: dict[str, str]) -> None:
    Path("metrics/evaluate/motion.json").write_text('{"eval/top1": 0.99}')
    Path("outputs/finetune/motion/model.safetensors").write_bytes(b"other")
    result = command("metrics/evaluate/motion.json")
    assert result["unchanged"] is False
    assert "CHANGED" in describe(result)
    changed = command("outputs/finetune/motion/model.safetensors")
    assert (changed["unchanged"], changed["run"]) == (False, {})


def test_without_a_store_dvc_still_tells_and_the_reason_is_said(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    result = command("outputs/pretrain/model.safetensors")
    assert [entry["stage"] for entry in result["stages"]] == ["pretrain"]
    assert "no tracking store" in result["run_unknown"]
    assert "no tracking store" in describe(result)
    assert not Path("mlflow.db").exists()


def test_what_nobody_knows_is_refused(project: Path) -> None:
    Path("notes.txt").touch()
    for target, message in (
        ("notes.txt", r"nothing is known of notes\.txt"),
        ("nope", r"'nope' is no file here, and no run's id"),
        ("0" * 32, r"'0{32}' is no run of sqlite"),
        ("models:/nope@best", r"'nope' has no version or alias 'best'"),
    ):
        with pytest.raises(InputError, match=message):
            command(target)
