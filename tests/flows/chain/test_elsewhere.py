"""Data that another run makes: this side's mark, and who takes it away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Completed, Failed, Running, Scheduled

from flows.chain import elsewhere
from flows.chain.elsewhere import Elsewhere, made_for
from flows.chain.guard import Children
from flows.chain.repro import StageFailed
from pipeline.errors import InputError

RUN = "0b5d6f0e-8a4c-4f5e-9d43-3a0f3a4b7c11"


class Prefect:
    """What a server does with submissions: one run for a key, begun by a worker when it is looked at."""

    def __init__(self) -> None:
        self.runs: dict[str, FlowRun] = {}
        self.begin: Callable[[], None] = lambda: None

    def submit(self, name: str, *, idempotency_key: str, flow_run_name: str, **_: object) -> FlowRun:
        new = FlowRun(id=uuid4(), flow_id=uuid4(), name=flow_run_name, state=Scheduled())
        return self.runs.setdefault(idempotency_key, new).model_copy()

    def look(self, identity: UUID) -> FlowRun:
        run = next(run for run in self.runs.values() if run.id == identity)
        if not run.state.is_final():
            self.begin()
            run.state = Completed()
        return run.model_copy()


@pytest.fixture
def prefect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prefect:
    """A run with `data_on`, in a checkout without a remote; each checkout has the cache that its folder names."""
    server = Prefect()
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", RUN)
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__NAME", "demo")
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__RUN_COUNT", "2")
    monkeypatch.setattr(elsewhere, "_deployed", lambda name: SimpleNamespace(work_pool_name="everest-cpu"))
    monkeypatch.setattr(elsewhere, "has_remote", lambda root: root.name == "remote")
    monkeypatch.setattr(elsewhere, "dvc_cache", lambda root: tmp_path / f"cache of {root.name}")
    monkeypatch.setattr(elsewhere, "run_deployment", server.submit)
    monkeypatch.setattr(elsewhere, "run_of", server.look)
    monkeypatch.setattr(elsewhere, "tell", lambda line: None)
    monkeypatch.setattr(elsewhere.Wait, "__call__", lambda self, what: None)
    return server


def made_in(root: Path) -> None:
    with made_for(RUN, root):
        pass


def test_a_resumed_run_takes_the_data_that_came_through_the_shared_cache(prefect: Prefect, tmp_path: Path) -> None:
    here = tmp_path / "shared"
    mark = tmp_path / "cache of shared" / "everest" / f"data-for-{RUN}"
    prefect.begin = lambda: made_in(here)
    Elsewhere("data/cpu", None, {}, here).make(Children())
    assert not mark.exists()
    # Its training was stopped, and the run resumes: the server knows the data's run, which is Completed.
    Elsewhere("data/cpu", None, {}, here).make(Children())
    assert (len(prefect.runs), mark.exists()) == (1, False)


def test_a_run_that_resumes_between_the_others_last_step_and_its_end_takes_the_data_too(
    prefect: Prefect, tmp_path: Path
) -> None:
    here = tmp_path / "shared"
    one = Elsewhere("data/cpu", None, {}, here)
    one._submit("")
    made_in(here)
    next(iter(prefect.runs.values())).state = Running()
    Elsewhere("data/cpu", None, {}, here).make(Children())
    assert len(prefect.runs) == 1


def test_data_that_went_to_a_remote_of_its_own_is_missed_at_each_try(
    prefect: Prefect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elsewhere, "_push", lambda where, stages: None)
    prefect.begin = lambda: made_in(tmp_path / "remote")
    for _ in range(2):
        # --local: a run's worktree has the commit's .dvc/config, and config.local as it is here.
        with pytest.raises(StageFailed, match=r"its results are on a remote of its own.*`dvc remote add --local "):
            Elsewhere("data/cpu", None, {}, tmp_path / "shared").make(Children())


def test_without_a_remote_and_a_shared_cache_the_cure_is_one_that_worktrees_have_too(
    prefect: Prefect, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="Cure: `dvc remote add --local --default NAME URL` in both"):
        made_in(tmp_path / "alone")


def test_data_that_failed_are_asked_for_anew_with_a_mark(prefect: Prefect, tmp_path: Path) -> None:
    here = tmp_path / "shared"
    Elsewhere("data/cpu", None, {}, here)._submit("")
    next(iter(prefect.runs.values())).state = Failed()
    prefect.begin = lambda: made_in(here)  # refused where there is no mark: this checkout has no remote
    Elsewhere("data/cpu", None, {}, here).make(Children())
    assert list(prefect.runs) == [f"data of {RUN}", f"data of {RUN} at attempt 2"]
