"""`everest ops gc`: what nobody needs any more, by age; never something in use.

    worktrees          of flow runs that ended; .work/worktrees/<run>
    unfinished work    checkpoints and shards that no run has touched; .work/<stage>/<benchmark>/<key>
    caches             of benchmarks that neither params.yaml nor a recipe nor a worktree names; data/cache/<benchmark>
                       with their shards, which are the same bytes; .work/preprocess/<benchmark>/shards
    history            Prefect's flow runs that ended
    deleted runs       that MLflow still keeps, with their artifacts
    dvc                objects that no commit, tag, branch or worktree names; only when asked for, and nothing runs, and
                       the cache lies in the checkout: of another's names nothing is known

Where it cannot be known whether something is used (the Prefect server is away), it stays, and the row says so.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pipeline.errors import EverestError, parted
from pipeline.layout import WORK, WORKTREES, cache_dir, saved_dir
from pipeline.operations import addresses
from pipeline.operations.databases import is_postgres, sqlite_path
from pipeline.operations.postgres import with_driver
from pipeline.operations.server import Server
from pipeline.operations.usage import Usage, usage
from pipeline.system import dvc_locks, worktree
from pipeline.system.locks import held, is_free

DAY = 86400.0
#: Preprocess's store of a benchmark; its cache has links to it.
SHARDS = "shards"


@dataclass(frozen=True)
class Policy:
    """After how many days of rest something goes."""

    worktrees: float = 7
    work: float = 30
    caches: float = 30
    history: float = 90
    deleted: float = 30
    dvc: bool = False


@dataclass(frozen=True)
class Item:
    """One thing that goes, or stays although it is old enough (`kept` says why)."""

    kind: str
    name: str
    days: float
    bytes: int
    why: str
    kept: str = ""
    remove: Callable[[], None] | None = field(default=None, repr=False, compare=False)

    def row(self) -> dict[str, object]:
        """As it is printed."""
        size = f"{self.bytes / 2**20:.1f} MiB" if self.bytes else ""
        return {
            "what": self.kind,
            "name": self.name,
            "days": round(self.days, 1),
            "size": size,
            "why": f"stays: {self.kept}" if self.kept else self.why,
        }


def collect(root: Path, policy: Policy, server: Server | None, now: float | None = None) -> list[Item]:
    """What goes by this policy, and what stays although it is old enough; nothing is touched."""
    now = time.time() if now is None else now
    used = usage(root, server)
    items = [*_worktrees(root, policy, used, now), *_work(root, policy, used, now), *_caches(root, policy, used, now)]
    if server is not None and used.answers:
        items += _history(server, policy, now)
    items += _deleted(root, policy, now)
    return [*items, *_dvc(root, policy, used, now)]


def remove(items: list[Item]) -> list[Item]:
    """Remove what goes; the items as they are now, those that turned out to be in use among the kept."""
    done = []
    for item in items:
        if item.kept or item.remove is None:
            done.append(item)
            continue
        try:
            item.remove()
            done.append(item)
        except (EverestError, OSError) as error:
            done.append(Item(item.kind, item.name, item.days, item.bytes, item.why, kept=str(error)))
    return done


def _worktrees(root: Path, policy: Policy, used: Usage, now: float) -> Iterator[Item]:
    for folder in sorted((root / WORKTREES).glob("*")):
        run = used.runs.get(folder.name)
        days = (now - (run.ended if run and run.ended else _touched(folder))) / DAY
        if days < policy.worktrees:
            continue
        why = f"its run {run.name} ended as {run.state}" if run else "no run of it is known"
        kept = used.keeps(folder, folder.name)
        yield Item("worktree", folder.name, days, _size(folder), why, kept, partial(worktree.remove, root, folder))


def _work(root: Path, policy: Policy, used: Usage, now: float) -> Iterator[Item]:
    for folder in sorted((root / WORK).glob("*/*/*")):
        if folder.is_dir() and re.fullmatch("[0-9a-f]{12}", folder.name):
            touched = _touched(folder)
            days = (now - touched) / DAY
            if days < policy.work:
                continue
            kept = _locked(folder) or used.keeps(folder)
            if not kept and any(run.started and touched >= run.started for run in used.going):
                kept = "touched since a run began that has not ended"
            name = str(folder.relative_to(root / WORK))
            why = "no run went on with it"
            yield Item("unfinished work", name, days, _size(folder), why, kept, partial(_remove_work, folder))


def _remove_work(folder: Path) -> None:
    """Remove a work folder under its own lock, so that no training begins in what goes."""
    with held(folder / "lock", f"{folder} is in use"):
        shutil.rmtree(folder)


def _locked(folder: Path) -> str:
    return "a training or its ranks hold it" if not all(map(is_free, folder.glob("lock*"))) else ""


def _caches(root: Path, policy: Policy, used: Usage, now: float) -> Iterator[Item]:
    stores = root / saved_dir("preprocess", "any", SHARDS).parent.parent
    caches = root / cache_dir("any").parent
    names = {folder.name for folder in caches.glob("*")} | {folder.parent.name for folder in stores.glob(f"*/{SHARDS}")}
    for name in sorted(names - used.benchmarks):
        # Both are hard links to the same bytes.
        folders = [folder for folder in (caches / name, stores / name / SHARDS) if folder.is_dir()]
        days = (now - max(map(_touched, folders), default=math.inf)) / DAY
        if days < policy.caches:
            continue
        why = "no params.yaml and no recipe names this benchmark"
        kept = "preprocess works on it" if _locked(stores / name) else next(filter(None, map(used.keeps, folders)), "")
        yield Item("cache", name, days, _size(*folders), why, kept, partial(_remove_cache, folders, stores / name))


def _remove_cache(folders: list[Path], store: Path) -> None:
    with held(store / "lock", f"the preprocess stage of {store.name} runs"):
        for folder in folders:
            shutil.rmtree(folder)


def _history(server: Server, policy: Policy, now: float) -> Iterator[Item]:
    for run in server.runs(("COMPLETED", "FAILED", "CRASHED", "CANCELLED")):
        at = run.ended or run.started or run.submitted or now
        if now - at >= policy.history * DAY:
            name = f"{run.flow}: {run.name}"
            yield Item(
                "history", name, (now - at) / DAY, 0, f"ended as {run.state}", remove=partial(server.delete_run, run.id)
            )


def _deleted(root: Path, policy: Policy, now: float) -> Iterator[Item]:
    from pipeline.tracking.store import Store, tracking_uri
    from pipeline.tracking.store.deleted import deleted_runs, purge

    try:
        # A server does not tell when a run was deleted, and purges none.
        database = addresses.mlflow(root)
        if not is_postgres(database) and not sqlite_path(database).exists():
            return
        store = Store(with_driver(database, "psycopg"))
        runs = deleted_runs(store, now - policy.deleted * DAY)
    except EverestError as error:
        yield Item("deleted run", "MLflow", 0, 0, "", kept=f"{parted(error)[0]}.")
        return
    for run in runs:
        name = f"{run.name} ({run.id})"
        act = partial(purge, store, run.id, tracking_uri())
        yield Item("deleted run", name, (now - run.deleted) / DAY, 0, "deleted in MLflow", remove=act)


def _dvc(root: Path, policy: Policy, used: Usage, now: float) -> Iterator[Item]:
    if not policy.dvc:
        return
    busy = dvc_locks.holder(root) or dvc_locks.stale(root)
    goes = any(run.in_queue(now) for run in used.going)
    cache = worktree.dvc_cache(root)
    own = cache.resolve().is_relative_to((root / ".dvc").resolve())
    why = f"it lies outside of {root / '.dvc'}; others may use it: dvc gc --all-commits --projects OTHERS"
    shared = "" if own else why
    kept = shared or busy or ("a run goes on" if goes else "") or ("" if used.answers else used.silence)
    yield Item("dvc", str(cache), 0, 0, "what nothing names", kept, partial(_gc_dvc, root))


def _gc_dvc(root: Path) -> None:
    command = [sys.executable, "-m", "dvc", "gc", "--force", "--workspace", "--all-commits"]
    kept = [str(folder) for folder in sorted((root / WORKTREES).glob("[!.]*")) if (folder / ".dvc").is_dir()]
    if kept:
        command += ["--projects", *kept]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EverestError(f"dvc gc failed: {done.stderr.strip()[-400:]}. Cure: see what it names.")


def _touched(folder: Path) -> float:
    """The newest time stamp in a folder; that of a folder which has vanished meanwhile is never old."""
    return max((state.st_mtime for state in _states(folder)), default=math.inf)


def _size(*folders: Path) -> int:
    """What becomes free without these folders: a file that has a name elsewhere stays there."""
    names: Counter[tuple[int, int]] = Counter()
    size = 0
    for state in (state for folder in folders for state in _states(folder) if stat.S_ISREG(state.st_mode)):
        file = (state.st_dev, state.st_ino)
        names[file] += 1
        size += state.st_size if names[file] == state.st_nlink else 0
    return size


def _states(folder: Path) -> Iterator[os.stat_result]:
    """Of a folder and all in it, without what vanishes while this looks: trainings replace their checkpoints."""
    for place, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                yield os.lstat(Path(place, name))
