"""Checkpoints are whole or absent, and what is read is what was written."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.errors import EverestError
from pipeline.training.checkpoint import Checkpoints, CorruptCheckpoint
from pipeline.training.snapshot import write_tensors
from tests.faults import checkpoint_trials


def _tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(step)
    return {
        "model": {"w": torch.randn(64, 32, generator=generator), "b": torch.zeros(3)},
        "rng": {"0.torch": torch.arange(16, dtype=torch.uint8)},
    }


def _filled(root: Path, steps: tuple[int, ...] = (1, 2, 3)) -> Checkpoints:
    checkpoints = Checkpoints(root)
    for step in steps:
        checkpoints.write(step, _tensors(step), {"step": step})
    return checkpoints


def test_a_file_written_as_a_stream_is_an_ordinary_safetensors_file(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3, 5).to(torch.bfloat16),
        "none": torch.zeros(0, 4),
        "number": torch.tensor(7.0),
        "turned": torch.randn(4, 6).t(),
        "flag": torch.tensor([True, False]),
    }
    write_tensors(tmp_path / "x.safetensors", tensors)
    read = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in tensors.items())


def test_the_newest_comes_back_bit_for_bit(tmp_path: Path) -> None:
    checkpoint = _filled(tmp_path).newest()
    assert checkpoint is not None
    assert checkpoint.step == 3
    assert checkpoint.state == {"step": 3}
    assert torch.equal(checkpoint.tensors["model"]["w"], _tensors(3)["model"]["w"])


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "new").newest() is None


def test_the_last_k_and_the_best_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, score in ((1, 0.3), (2, 0.9), (3, 0.5), (4, 0.9), (5, None)):
        checkpoints.write(step, _tensors(step), {}, score)
    assert checkpoints.steps() == [2, 4, 5]
    assert checkpoints.best() == checkpoints.best_intact() == 2
    for step, left in ((2, 4), (4, None)):
        weights = tmp_path / f"step-{step:09d}" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        assert checkpoints.best_intact() == left


@pytest.mark.parametrize("damage", ["flip", "zero", "truncate", "remove"])
@pytest.mark.parametrize("name", ["model.safetensors", "rng.safetensors", "state.json", "manifest.json"])
def test_damage_is_found_said_and_survived(
    tmp_path: Path, damage: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = _filled(tmp_path)
    path = tmp_path / "step-000000003" / name
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    elif damage == "zero":
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    elif damage == "truncate":
        content = content[:-1]
    path.unlink()
    if damage != "remove":
        path.write_bytes(content)
    checkpoint = checkpoints.newest()
    assert checkpoint is not None
    assert checkpoint.step == 2
    if (damage, name) != ("remove", "manifest.json"):
        assert "Falling back" in caplog.text


def test_a_manifest_from_elsewhere_is_refused(tmp_path: Path) -> None:
    checkpoints = _filled(tmp_path)
    (tmp_path / "step-000000003").rename(tmp_path / "step-000000009")
    with pytest.raises(CorruptCheckpoint, match="of step 3"):
        checkpoints.load(9)


def test_a_full_disk_is_loud_and_the_earlier_copy_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = _filled(tmp_path)

    def full(path: Path, tensors: dict[str, torch.Tensor]) -> str:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.training.checkpoint.write_tensors", full)
    checkpoints.save(4, _tensors(4), {})
    with pytest.raises(EverestError, match=r"No space left.*intact.*Cure: free disk"):
        checkpoints.wait()
    assert checkpoint_trials.newest_step(checkpoints) == 3
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_file_in_the_folders_place_is_loud(tmp_path: Path) -> None:
    checkpoints = _filled(tmp_path)
    (tmp_path / ".step-000000004.tmp").write_text("in the way")
    (tmp_path / ".step-000000004.tmp").chmod(0)
    checkpoints.save(4, _tensors(4), {})
    with pytest.raises(EverestError, match="could not be written"):
        checkpoints.wait()
    assert checkpoint_trials.newest_step(checkpoints) == 3


def test_writing_goes_on_in_the_background(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    big = {"model": {f"w{i}": torch.zeros(1024, 1024) for i in range(8)}}
    began = time.perf_counter()
    checkpoints.save(1, big, {})
    handed_over = time.perf_counter() - began
    checkpoints.wait()
    assert handed_over < (time.perf_counter() - began) / 2
    assert checkpoint_trials.newest_step(checkpoints) == 1


def test_a_crash_while_pruning_leaves_at_least_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _filled(tmp_path, (1, 2, 3))
    checkpoints = Checkpoints(tmp_path, keep=2)

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.training.checkpoint.shutil.rmtree", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoints._prune()
    monkeypatch.undo()
    assert len(Checkpoints(tmp_path).steps()) >= 2
    assert Checkpoints(tmp_path).newest() is not None


def test_keeping_fewer_than_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        Checkpoints(tmp_path, keep=1)


def test_after_kill_9_in_the_middle_of_a_write_the_newest_is_readable(tmp_path: Path) -> None:
    figure = checkpoint_trials.kill_while_writing(tmp_path, trials=8)
    assert (figure.trials, figure.bad) == (8, 0)
    assert len(Checkpoints(tmp_path).steps()) >= 2


def test_random_damage_is_always_found(tmp_path: Path) -> None:
    assert checkpoint_trials.damage(tmp_path / "a", trials=12).bad == 0
    assert checkpoint_trials.incomplete(tmp_path / "b", trials=9).bad == 0


def test_kill_9_while_pruning_leaves_at_least_two(tmp_path: Path) -> None:
    assert checkpoint_trials.crash_while_pruning(tmp_path / "a", trials=2).bad == 0


def test_a_checkpoint_that_carries_code_is_refused_unread(tmp_path: Path) -> None:
    checkpoints = _filled(tmp_path)
    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {mark}",)

    folder = tmp_path / "step-000000003"
    torch.save(Evil(), folder / "model.safetensors")
    assert (checkpoint := checkpoints.newest()) is not None
    assert checkpoint.step == 2
    # Even with a manifest that vouches for it: safetensors holds tensors and nothing else.
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("sha256")
    manifest["files"]["model.safetensors"]["sha256"] = hashlib.sha256(
        (folder / "model.safetensors").read_bytes()
    ).hexdigest()
    text = json.dumps(manifest, sort_keys=True).encode()
    (folder / "manifest.json").write_text(json.dumps({**manifest, "sha256": hashlib.sha256(text).hexdigest()}))
    with pytest.raises(CorruptCheckpoint, match="not a safetensors file"):
        checkpoints.load(3)
    assert not mark.exists()
