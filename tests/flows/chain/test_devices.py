"""What a stage says of its GPUs is told on Prefect's page, with a table of who has which."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from flows.chain import devices
from flows.chain.lines import told_lines_of
from pipeline.distributed.device_table import DeviceTable, HeldDevice, WaitingStage
from pipeline.system.locks import Holder

HOLDER = Holder(7, "id", "brave|crow", "pretrain", "/a/project", time.time())


def test_the_table_has_a_row_for_each_device_and_each_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, str]] = []
    monkeypatch.setattr(devices, "create_markdown_artifact", lambda **named: made.append(named))
    waits = Holder(8, "no flow", "everest", "finetune@motion", "/b", time.time())
    devices.publish_devices(
        DeviceTable((HeldDevice("GPU-1", HOLDER), HeldDevice("GPU-2", None)), (WaitingStage(2, waits),))
    )
    (artifact,) = made
    assert artifact["key"] == "gpus"
    assert artifact["description"].startswith("As of 2")
    lines = artifact["markdown"].splitlines()
    assert lines[2].startswith("| GPU-1 | pretrain of run brave\\|crow, process 7 | /a/project | 2")
    assert lines[3] == "| GPU-2 | a process that does not say who it is | – | – |"
    assert lines[-1] == "| finetune\\@motion | 2 GPU(s) |"


def test_outside_of_a_flow_a_line_goes_to_the_terminal_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "stage.log"
    log.write_text("ranks: pretrain has GPU-1\nnothing\n")
    with told_lines_of(log, devices.heard):
        pass
    said = capsys.readouterr().err
    assert said.count("ranks: pretrain has GPU-1") == 1
    assert "nothing" not in said
