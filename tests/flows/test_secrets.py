"""A stage fails with secrets in its words: they are in nothing that Prefect or DVC keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect_site import until
from toy_deployment import Toy, deploy, make_toy

from flows.chain import repro
from flows.chain.guard import Children
from flows.chain.repro import StageFailed, workspace

PLANTED = ("sesame-login", "sesame-query", "sesame-variable", "AKIAABCDEFGHIJKLMNOP")
FAILS = """
import os, sys
sys.exit("error: GET https://me:sesame-login@host/bucket?X-Amz-Signature=sesame-query answers 403, "
         "password=" + os.environ["TOY_PASSWORD"] + " key AKIAABCDEFGHIJKLMNOP")
"""


@pytest.fixture
def toy(root: Path, tmp_path: Path) -> Iterator[Toy]:
    toy = make_toy(root, tmp_path / "project")
    toy.environment["TOY_PASSWORD"] = "sesame-variable"
    (toy.root / "train.py").write_text(FAILS)
    (toy.root / "steps").write_text("1")
    try:
        yield toy
    finally:
        toy.end()


def test_the_message_of_a_failed_stage_hides_them(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_PASSWORD", "sesame-variable")
    where = workspace(toy.root, "run", toy.environment)
    with pytest.raises(StageFailed) as caught:
        repro.repro("pretrain", where, Children())
    assert "[hidden]" in str(caught.value)
    assert not [planted for planted in PLANTED if planted in str(caught.value)]
    lock = toy.root / "dvc.lock"
    assert not lock.exists() or not [planted for planted in PLANTED if planted in lock.read_text()]


@pytest.mark.slow
def test_prefects_database_holds_none_of_them(toy: Toy) -> None:
    toy.start_server()
    deploy(toy)
    toy.start_worker()
    run = toy.submit(1)
    until(lambda: toy.state(run) == "Failed", 90, "the run has failed")
    assert "answers 403" in toy.ask(f"flow_runs/{run}")["state"]["message"]
    until(lambda: "answers 403" in toy.lines(run), 30, "its log is on the page")
    kept = [path for path in (toy.root / ".work" / "prefect").rglob("*") if path.is_file()]
    assert [path.name for path in kept if path.name.startswith("prefect.db")]
    for path in kept:
        content = path.read_bytes()
        assert not [planted for planted in PLANTED if planted.encode() in content], path
