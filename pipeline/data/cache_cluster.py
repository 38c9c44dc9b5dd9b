"""Preprocessing over a Dask cluster that the user runs: EVEREST_DASK names its scheduler.

Its workers must see the videos and the project's folder under the same paths and have this project installed.
A task is one shard unit, which is made whole or not at all, so a worker that dies costs one unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import cast

from pipeline.errors import InputError

VARIABLE = "EVEREST_DASK"


@contextmanager
def cluster(address: str | None) -> Iterator[Executor | None]:
    """An executor on the cluster at `address`; None gives None, which builds on this machine.

    Raises:
        InputError: Dask is not installed or no scheduler answers.
    """
    if not address:
        yield None
        return
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            f"{VARIABLE} = {address}: Dask is not installed here. Cure: pip install 'dask[distributed]', "
            f"or unset {VARIABLE} to preprocess on this machine."
        ) from None
    try:
        client = Client(address, timeout="20s")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{VARIABLE} = {address}: no scheduler answers ({error}). Cure: start one with "
            f"`dask scheduler`, or unset {VARIABLE}."
        ) from None
    with client:
        # pure=False: a unit is made again when it is asked for again.
        yield cast(Executor, client.get_executor(pure=False))
