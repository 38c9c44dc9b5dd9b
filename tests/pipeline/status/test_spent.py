"""A real pre-training whose budget runs out: saved, its own exit code, continued with a higher budget."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from pipeline.budget.ledger import Execution, ledger, read_executions, write_execution
from pipeline.params import load_params
from pipeline.params.write import write_overrides
from pipeline.status.look import Looker
from tests.pipeline.status.conftest import Project

pytestmark = pytest.mark.slow


def test_it_saves_and_ends_with_code_3_and_continues_when_the_budget_is_raised(project: Project) -> None:
    write_overrides(Path("params.yaml"), {"compute.budget": {"hours": 10.0}})
    project.start()
    project.wait_for(lambda: list(project.root.glob(".work/pretrain/all/*/checkpoints/*")) != [])
    ranks, folder, now = project.ranks(), ledger(load_params()), time.time()
    # Another stage of the run has taken ten hours meanwhile.
    write_execution(folder / "1.000-1.json", Execution("preprocess", now - 40_000, now - 3_900, 0, None))
    assert project.training.wait(120) == 3
    assert not any(rank.is_running() for rank in ranks)
    text = (project.root / "words.log").read_text().splitlines()[-1]
    (stage,) = Looker().look().checkouts[0].stages
    step = stage.training.step
    assert stage.state == "stopped"
    assert stage.training.checkpoint.step == step
    assert text.startswith("budget spent: compute.budget.hours = 10 h, and this run has taken 10")
    assert f"; pretrain was stopped after step {step}; saved. Cure: raise it, and the same command continues" in text

    project.start()
    assert project.training.wait(120) == 3
    assert "pretrain was not started" in (project.root / "words.log").read_text().splitlines()[-1]

    write_overrides(Path("params.yaml"), {"compute.budget.hours": 20.0})
    project.start()

    def went_on() -> bool:
        figures = Looker().look().checkouts[0].stages[0].training
        return figures is not None and figures.step > step

    project.wait_for(went_on)
    assert len(list(project.root.glob(".work/pretrain/all/*"))) == 1
    project.end(signal.SIGKILL)
    assert len(read_executions(folder)) == 3
