from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.distributed.heartbeat import Pulse, create
from pipeline.status.history import POINTS, evenly, read_history
from pipeline.status.training import heartbeats
from pipeline.tracking.names import TRAIN_LOSS


def test_a_long_trainings_curve_gives_each_stretch_of_steps_as_much_room(tmp_path: Path) -> None:
    steps = 100_000
    rows = "".join(f"{step},0,{step / steps:.5f},0.1\n" for step in range(1, steps + 1))
    (tmp_path / "history.csv").write_text(f"step,epoch,loss,seconds\n{rows}")
    history = read_history(tmp_path / "history.csv")
    assert history is not None
    curve = evenly(history.curves[TRAIN_LOSS])
    assert POINTS - 2 <= len(curve) <= POINTS
    assert curve == pytest.approx(np.linspace(0.5 / POINTS, 1 - 0.5 / POINTS, len(curve)).tolist(), abs=0.02)
    assert evenly([(1, 0.5), (9, 0.25)]) == [0.5, 0.25]


def test_signs_of_life_of_other_machines_are_not_held_against_this_ones_clock(tmp_path: Path) -> None:
    create(tmp_path / "beats", 1)
    Pulse(tmp_path / "beats", 0, 0).beat("forward", 3)
    assert [beat.step for beat in heartbeats(tmp_path)] == [3]
    create(tmp_path / "beats-node-1", 1)
    assert heartbeats(tmp_path) == []
