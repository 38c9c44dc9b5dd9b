"""`everest status` says which stage has which GPU, and who waits for some."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from pipeline.distributed.devices import lock_name, taken
from pipeline.status import look
from pipeline.status.look import Looker
from pipeline.status.records import Gpu, Status, Wait
from pipeline.status.screen import screen


@pytest.fixture(autouse=True)
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices that the driver does not know, with locks of this test's own, and no project."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVEREST_DEVICES", "GPU-11:aa,GPU-22:bb")
    monkeypatch.setenv("EVEREST_DEVICE_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(look, "ours", list)
    monkeypatch.setattr(look, "ask_prefect", lambda roots: None)


def shown(status: Status) -> list[str]:
    return [text for text, _ in screen(status)]


def test_a_device_that_a_stage_has_is_told_with_stage_folder_and_process(tmp_path: Path) -> None:
    assert Looker().look().devices == {}
    with taken([1], "finetune@motion"):
        status = Looker().look()
    ((device, who),) = status.devices.items()
    assert device == lock_name("GPU-22:bb")
    assert who.startswith(f"finetune@motion in {tmp_path} (process {os.getpid()}, since ")
    assert f"device GPU-22_bb  held by {who}" in shown(status)
    assert json.loads(json.dumps(asdict(status)))["devices"] == {device: who}


def test_a_gpu_of_the_driver_has_its_holder_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def cards(held: dict[str, str]) -> list[Gpu]:
        return [
            Gpu(n, "H100", 0.5, 1.0, 80.0, 300.0, [], uuid, held.get(lock_name(uuid), ""))
            for n, uuid in enumerate(("GPU-11:aa", "GPU-22:bb"))
        ]

    monkeypatch.setattr(look, "gpus", cards)
    with taken([0], "pretrain"):
        status = Looker().look()
    assert status.devices == {}
    lines = shown(status)
    first = lines.index("GPU 0 H100  50 % busy  1.0 of 80 GiB  300 W")
    assert lines[first + 1].startswith("      held by pretrain in ")
    assert lines[first + 2].startswith("GPU 1 H100")


def test_who_waits_is_told_in_the_order_of_waiting() -> None:
    status = Status("host", 0.0, [], [], None, {}, [Wait("pretrain in /a (process 3, since 10:00)", "2 GPU(s)")])
    assert "  … pretrain in /a (process 3, since 10:00) waits for 2 GPU(s)" in shown(status)
