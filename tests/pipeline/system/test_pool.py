"""A pool of processes begins nothing more once its user has ended, and a killed one is an error with a cure."""

from __future__ import annotations

import os
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from pipeline.errors import EverestError
from pipeline.system.disk import DiskFullError
from pipeline.system.processes import worker_pool


def full(place: str) -> None:
    raise DiskFullError(place)


def test_what_waits_is_not_begun_after_ctrl_c() -> None:
    tasks: list[Future[None]] = []

    def stopped() -> None:
        with worker_pool(1) as pool:
            tasks.extend(pool.submit(time.sleep, 0.2) for _ in range(20))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert sum(task.cancelled() for task in tasks) > 15


def test_a_killed_worker_is_an_error_with_a_cure() -> None:
    with pytest.raises(EverestError, match=r"was killed \(for want of memory\?\). Cure: "), worker_pool(1) as pool:
        pool.submit(os._exit, 1).result()


def test_a_full_disk_is_told_once_out_of_a_worker(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError) as caught, worker_pool(1) as pool:
        pool.submit(full, str(tmp_path)).result()
    assert str(caught.value) == str(DiskFullError(tmp_path))
