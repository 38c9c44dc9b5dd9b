"""A wait tells how far its holder is, and ends when the run is to stop."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from flows.chain import gate
from flows.chain.gate import Wait, holder_words
from flows.chain.guard import Children
from flows.chain.repro import StageStopped
from pipeline.system.locks import Holder


def test_a_holder_is_told_with_its_step(tmp_path: Path) -> None:
    who = Holder(4711, "b5d6", "demo: finetune.epochs=2", "finetune@motion", str(tmp_path), time.time())
    assert holder_words(who).endswith(", b5d6)")
    (tmp_path / ".work" / "progress").mkdir(parents=True)
    (tmp_path / ".work" / "progress" / "finetune-motion").write_text("motion ━━━── 340/768  loss 0.5  12.3 steps/s")
    assert holder_words(who).endswith(", b5d6), step 340 of 768")
    assert holder_words(None) == "another training, which has just begun or ended"


def test_a_wait_speaks_once_a_minute_and_ends_within_a_second_of_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(gate, "tell", lines.append)
    monkeypatch.setattr(gate, "POLL_SECONDS", 0.05)
    children = Children()
    wait = Wait("pretrain", children)
    for _ in range(3):
        wait(lambda: "run a")
    assert lines == ["pretrain: waits for run a"]
    children.stop(signal.SIGTERM)
    with pytest.raises(StageStopped, match="pretrain was stopped while it waited"):
        wait(lambda: "run a")
