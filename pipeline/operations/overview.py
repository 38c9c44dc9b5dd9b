"""`everest ops status`: the queue, who holds what, disks, servers, versions, the last canary, and what to do next.

`everest status` is the screen of one's own trainings; this is the operator's view of the machine.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.distributed.device_table import device_table
from pipeline.errors import EverestError, parted
from pipeline.layout import LIMIT, POOL, TRAINING_LOCK, WORK, data_root
from pipeline.operations.server import Run, Server
from pipeline.preflight import orchestrator
from pipeline.preflight.services import mlflow_warning
from pipeline.status.gpus import gpus, held_by
from pipeline.status.records import Gpu
from pipeline.system import dvc_locks
from pipeline.system.locks import Holder, is_free, turn_holder
from pipeline.system.redact import redact

#: The tag of the canary's runs.
CANARY = "canary"
PACKAGES = ("everest-pipeline", "prefect", "mlflow", "dvc", "torch")
#: [share of a disk] below which it is said; and [s] after which a run that no worker took is late.
LEAST_FREE, LATE_SECONDS = 0.10, 120.0
#: [s] a canary may be old.
CANARY_SECONDS = 36 * 3600.0


@dataclass(frozen=True)
class Disk:
    """A place that fills."""

    what: str
    path: str
    free_gib: float
    share: float


@dataclass(frozen=True)
class Service:
    """A server: where, and how it answers."""

    name: str
    where: str
    state: str
    version: str = ""


@dataclass(frozen=True)
class Overview:
    """All that `everest ops status` tells; `next` are sentences with a command each.

    `later` counts runs that are scheduled for another time than now.
    """

    queue: list[Run]
    later: int
    turn: Holder | None
    turn_taken: bool
    slots: tuple[int, int] | None
    claims: list[str]
    workers: list[tuple[str, bool]]
    gpus: list[Gpu]
    disks: list[Disk]
    services: list[Service]
    versions: dict[str, str]
    canary: Run | None
    next: list[str]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def overview(root: Path) -> Overview:
    """Look at everything; a server that is away is a finding, not an error."""
    server = Server.found()
    advice: list[str] = []
    queue: list[Run] = []
    later = 0
    canary: Run | None = None
    slots: tuple[int, int] | None = None
    workers: list[tuple[str, bool]] = []
    services: list[Service] = []
    lock = root / TRAINING_LOCK
    turn, taken = turn_holder(lock), not is_free(lock)
    if server is None:
        services.append(Service("Prefect", "embedded", "no server of its own"))
        advice.append("No Prefect server is named: make ui &; export PREFECT_API_URL=http://127.0.0.1:4200/api")
    else:
        where = redact(server.url)
        try:
            services.append(Service("Prefect", where, "answers", server.version()))
            going = server.runs(orchestrator.GOING)
            queue = [run for run in going if run.in_queue(time.time())]
            later = len(going) - len(queue)
            canary = server.last(CANARY, ("COMPLETED", "FAILED", "CRASHED"))
            slots = server.slots(LIMIT)
            pools = {pool: server.workers(pool) for pool in sorted({POOL, *(run.pool for run in queue if run.pool)})}
            workers = [
                (name if pool == POOL else f"{name} ({pool})", alive) for pool in pools for name, alive in pools[pool]
            ]
            advice += _about_server(server, queue, slots, pools, taken, canary)
        except EverestError as error:
            services.append(Service("Prefect", where, f"{parted(error)[0]}."))
            advice.append(f"Prefect does not answer at {where}: make ui (or start that server)")
    services.append(_mlflow())
    if services[-1].state != "answers":
        advice.append("MLflow does not answer: trainings go on, and their records wait; start it, then everest sync")
    disks = list(_disks(root))
    for disk in disks:
        if disk.share < LEAST_FREE:
            advice.append(f"{disk.what} ({disk.path}) is {1 - disk.share:.0%} full: everest ops gc --dry-run")
    if stale := dvc_locks.stale(root):
        advice.append(stale)
    claims = [f"{run.name} ({run.id}) on {run.turn}" for run in queue if run.turn]
    versions = {name: _version(name) for name in PACKAGES}
    cards = gpus(held_by(device_table()))
    return Overview(
        queue, later, turn, taken, slots, claims, workers, cards, disks, services, versions, canary, advice
    )  # fmt: skip


def _about_server(
    server: Server,
    queue: list[Run],
    slots: tuple[int, int] | None,
    pools: dict[str, list[tuple[str, bool]]],
    taken: bool,
    canary: Run | None,
) -> Iterator[str]:
    now = time.time()
    for pool, workers in pools.items():
        late = [run for run in queue if run.type == "SCHEDULED" and (run.expected or now) < now - LATE_SECONDS]
        waiting = [run for run in late if (run.pool or POOL) == pool]
        whose, command = ("", "") if pool == POOL else (f" in pool {pool}", f" --pool {pool}")
        if not any(online for _, online in workers):
            many = f", and {len(waiting)} runs wait for one" if waiting else ""
            yield f"No worker is there{whose}{many}: everest ops worker{command}"
        elif waiting:
            many = f"{len(waiting)} runs wait over {LATE_SECONDS:.0f} s for a worker{whose}"
            yield f"{many}: is it at its --limit, or frozen?"
    if slots is None:
        yield f"The server has no limit {LIMIT!r}, pool and deployments: everest ops init"
    elif slots[0] and not taken and not any(run.turn for run in queue):
        cure = f"prefect gcl update {LIMIT} --active-slots 0"
        yield f"A slot of {LIMIT!r} is taken by nobody; the next training frees it, or: {cure}"
    if not server.keeps_leases():
        yield (
            "The server keeps its leases in memory and forgets them when it restarts: start it by `everest ui`, or "
            "with PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem"
        )
    for run in queue:
        if run.type == "CANCELLING":
            yield f"{run.name} is being cancelled; where its machine is gone: prefect flow-run delete {run.id}"
    if any(CANARY in run.tags and run.type != "SCHEDULED" for run in queue):
        return
    if canary is None:
        yield "No canary has run yet: prefect deployment run experiment/canary"
    elif canary.type != "COMPLETED":
        yield f"The last canary ended as {canary.state}: prefect flow-run logs {canary.id}"
    elif now - (canary.ended or 0) > CANARY_SECONDS:
        hours = (now - (canary.ended or 0)) / 3600
        yield f"The last canary is {hours:.0f} hours old: prefect deployment run experiment/canary"


def _mlflow() -> Service:
    where = redact(os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"))
    warning = mlflow_warning()
    return Service("MLflow", where, f"{parted(warning)[0]}." if warning else "answers")


def _disks(root: Path) -> Iterator[Disk]:
    """Each place that a run fills, the disk of each once."""
    seen: set[int] = set()
    places = {
        "checkout": root,
        "work": root / WORK,
        "raw videos": data_root(),
        "DVC cache": _dvc_cache(root),
        "Prefect": orchestrator.home(),
        "temporary": Path(os.environ.get("TMPDIR", "/tmp")),
    }
    for what, path in places.items():
        place = path.absolute()
        while not place.exists():
            place = place.parent
        if place.stat().st_dev in seen:
            continue
        seen.add(place.stat().st_dev)
        usage = shutil.disk_usage(place)
        yield Disk(what, str(place), usage.free / 2**30, usage.free / usage.total)


def _dvc_cache(root: Path) -> Path:
    command = [sys.executable, "-m", "dvc", "cache", "dir"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    return Path(root, lines[-1]) if done.returncode == 0 and lines else root


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
