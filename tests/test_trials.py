"""The trials that docs/science.md reports come from scripts; what they share must stay the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import drawn_trials
    import graph_trials

    yield drawn_trials, graph_trials
    for name in ("drawn_trials", "graph_trials"):
        sys.modules.pop(name, None)


def test_steps_that_a_gpu_would_replay_are_those_of_the_trials_on_a_cpu(scripts: tuple[ModuleType, ModuleType]) -> None:
    drawn, graphs = scripts
    changes = {"clip.resolution": 32, "pretrain.size": "tiny", "pretrain.batch": 8, "pretrain.keep_ratio": 0.5,
               "pretrain.visible_ratio": 0.2}  # fmt: skip
    params = drawn.load_params(drawn.RECIPE, changes)
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (16, 12, 40, 40, 3), dtype=np.uint8))
    videos = drawn.Videos(frames, torch.arange(16) % 8)
    _, last = drawn.pretrained(params, videos, 10)
    found: dict[str, object] = {}
    for _ in graphs.pretrained(params, graphs.Videos.on("cpu", videos), 10, found):
        pass
    # The noise that parts visible tokens from hidden ones is drawn otherwise, and pixels are off by a grey level.
    assert found["steps"] == 10
    assert found["losses"][-1] == pytest.approx(last, abs=0.02)  # type: ignore[index]
