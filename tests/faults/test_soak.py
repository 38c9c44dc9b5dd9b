"""Unattended for long: whatever is killed, each run ends as it should and leaves nothing behind.

`make soak` does it with 20 canaries of the real chain; the other test with five of a stage that counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from canary_site import init, make_canary
from postgres_cluster import Cluster, cluster
from toy_deployment import deploy, make_toy

from pipeline.operations.postgres import prepare
from tests.faults.soak import CANCEL_EVERY, Record, Soak

pytestmark = pytest.mark.slow


@pytest.fixture
def database() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


def judge(done: Record, runs: int) -> str:
    """Each run ended as it was to end, nothing is left of any, and nothing grew; the figures as a sentence."""
    wanted = ["Cancelled" if n % CANCEL_EVERY == CANCEL_EVERY - 1 else "Completed" for n in range(runs)]
    assert [done.ended.get(n) for n in range(runs)] == wanted
    assert done.left == []
    grown = {what: done.growth(what) for what in ("server", "worker")}
    # A process that was started a moment ago is smaller than one that has served for a minute.
    assert all(memory < 1.5 and files < 2 for memory, files in grown.values()), grown
    faults = ", ".join(f"{count} {what}" for what, count in sorted(done.faults.items()))
    sizes = ", ".join(f"{what} {memory:.2f} and {files:.2f}" for what, (memory, files) in grown.items())
    sizes = f"memory and descriptors, last third by first: {sizes}"
    return f"{faults}; {done.crashed} submitted again; {sizes}; {done.seconds:.0f} s"


def test_five_runs_end_as_they_should_while_everything_around_them_is_killed(
    root: Path, database: Cluster, tmp_path: Path, record: Callable[..., None]
) -> None:
    site = make_toy(root, tmp_path / "project")
    site.environment |= prepare(database.address)
    try:
        site.start_server()
        deploy(site)
        done = Soak(site, database, lambda number: site.submit(120 + number)).run(5)
    finally:
        site.end()
    record(30, "5 short runs, everything around them killed", 5, 0, judge(done, 5))


@pytest.mark.skipif("EVEREST_SOAK" not in os.environ, reason="takes half an hour: make soak")
def test_canaries_of_the_whole_chain_end_as_they_should_while_everything_around_them_is_killed(
    root: Path, database: Cluster, tmp_path: Path, record: Callable[..., None]
) -> None:
    runs = int(os.environ["EVEREST_SOAK"])
    site = make_canary(root, tmp_path / "project", **prepare(database.address))
    try:
        site.start_server()
        init(site)
        done = Soak(site, database, site.submit, limit=600).run(runs)
    finally:
        site.end()
    record(31, f"{runs} canaries of the chain, everything around them killed", runs, 0, judge(done, runs))
