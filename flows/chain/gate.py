"""One training at a time on a machine: two would halve each other's memory.

The real guard is a lock file in the checkout, which the kernel releases however a process ends. A deployment also
takes a slot of Prefect's concurrency limit `gpu`, if the server has one (`python -m flows.deploy` makes it), so that
the page shows who waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.concurrency.sync import concurrency

from pipeline.experiments.workspace import Workspace
from pipeline.system.locks import locked

LIMIT = "gpu"


@contextmanager
def training_turn(where: Workspace) -> Iterator[None]:
    """Wait until no other flow run of this machine's checkout trains."""
    lock = locked(where.root / ".work" / "training.lock", "training", wait=True)
    # Not strict: a server without the limit (the demo's embedded one) lets everybody in, and a lost lease does not
    # stop a training that the lock file guards anyway.
    with concurrency(LIMIT, occupy=1, strict=False, raise_on_lease_renewal_failure=False), lock:
        yield
