"""A Dask cluster that the user runs, for sets that one machine would decode for days: `compute.cluster` names it.

Its workers must have this project installed and see the videos and the project's folder under the same paths.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from pipeline.errors import InputError

if TYPE_CHECKING:
    from distributed import Client


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """A client of the scheduler at `address`.

    Raises:
        InputError: Dask is not installed or no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            f"compute.cluster = {address!r}: Dask is not installed here. Cure: pip install 'dask[distributed]', "
            "or set compute.cluster to null to work on this machine."
        ) from None
    try:
        client = Client(address, timeout="20s")
    except (OSError, ValueError) as error:
        raise InputError(
            f"compute.cluster = {address!r}: no scheduler answers ({error}). Cure: start one with `dask scheduler` "
            "and give its address, or set compute.cluster to null to work on this machine."
        ) from None
    with client:
        yield client


@contextmanager
def executor(address: str | None) -> Iterator[Executor | None]:
    """An executor on the cluster at `address`; None gives None, which stands for this machine.

    Raises:
        InputError: as :func:`connected`.
    """
    if address is None:
        yield None
        return
    with connected(address) as client:
        # pure=False: a task is done again when it is asked for again.
        yield cast(Executor, client.get_executor(pure=False))
