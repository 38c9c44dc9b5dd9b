"""Starting ranks, watching them, and saying how they ended.

This process imports no torch: it is the parent of those that do. One torchrun child (or, for a single rank, the worker
itself) in a process group of its own, so that a Ctrl-C in the terminal reaches the ranks through here. If this process
dies, torchrun is asked to stop (ranks save), and each rank is killed when torchrun is gone. A rank that holds up the
others is named, its stack is dumped, and the ranks are started again a bounded number of times, from the newest
checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from pipeline.distributed import ends, heartbeat
from pipeline.distributed.ends import RankEnd
from pipeline.distributed.nodes import Node, this_node
from pipeline.errors import EverestError, InputError, Interrupted, Paused, parted
from pipeline.system.disk import DiskFullError, has_room, writing
from pipeline.system.files import write_json
from pipeline.system.locks import held
from pipeline.system.processes import STOP, StopRequest, follow_parent, stop_handled

log = logging.getLogger(__name__)

#: How the ranks ended, in the work folder.
STATUS = "status.json"
#: [s] what ranks get to reach their next step boundary and save, before torchrun kills them.
GRACE_SECONDS = 60
#: [s] after the last rank of this node has ended, until its torchrun stops waiting for those of other nodes.
EXIT_SECONDS = 10
#: [s] between two looks at the ranks.
POLL_SECONDS = 0.1
#: Phases that a rank brings to their end before it listens.
WHOLE = ("validating", "looking", "saving")


@dataclass(frozen=True)
class Watch:
    """When ranks count as stalled, and how often they are started again.

    Attributes:
        stall_seconds: no rank took a step for this long (four times as long before the first step).
        max_restarts: after a stall, a killed process or a lost connection; never after an error of the run
        itself.
    """

    stall_seconds: float = 600.0
    max_restarts: int = 2


@contextlib.contextmanager
def locked(work: Path, name: str = "lock") -> Iterator[int]:
    """Hold a work folder; yields the lock's descriptor, for children to inherit.

    Args:
        name: `lock` of the stage, or `ranks.lock` of the ranks that it runs as a job elsewhere.

    Raises:
        BusyError: another process, or ranks that outlived one, hold it.
    """
    with held(
        work / this_node().named(name), f"{work} is in use, the same training runs already, or its ranks still do"
    ) as lock:
        yield lock


def launch(
    module: str,
    arguments: list[str],
    *,
    ranks: int,
    work: Path,
    threads: int | None = None,
    locks: Sequence[int] = (),
    watch: Watch | None = None,
) -> None:
    """Run `python -m module arguments --work WORK` as `ranks` ranks on this machine, to the end.

    As one of several nodes (see pipeline.distributed.nodes) these ranks join those of the others; `work` is then
    a folder that all nodes share.

    Args:
        threads: CPU threads of each rank; None shares the cores out evenly.
        locks: descriptors from :func:`locked` and of devices, which the ranks' launcher keeps open as long as it lives.

    Raises:
        Interrupted: a signal stopped it after its state was saved.
        InputError, EverestError: a rank said so, or ended without a word too often.
    """
    watch, node = watch or Watch(), this_node()
    signals = _Signals()
    with stop_handled(signals.note):
        for attempt in range(watch.max_restarts + 1):
            end = _attempt(module, arguments, ranks, work, threads, locks, watch, signals, node)
            with contextlib.suppress(DiskFullError), writing(work / node.named(STATUS)):  # `end` says so below
                write_json(work / node.named(STATUS), end.as_dict() | {"attempt": attempt})
            if not end.retry or attempt == watch.max_restarts:
                break
            count = f"{attempt + 1} of {watch.max_restarts}"
            log.warning("ranks: %s. Starting again from the newest checkpoint (%s).", parted(end.message)[0], count)
    raise_end(end, work)


def raise_end(end: RankEnd, work: Path) -> None:
    """Raise what the ranks' end means to the user; nothing where they are done.

    Raises:
        Interrupted: a signal stopped them after their state was saved.
        InputError, EverestError: a rank said so, or ended without a word.
    """
    if end.state == "done":
        return
    if end.state == "interrupted":
        raise (Paused if end.type == Paused.__name__ else Interrupted)(end.message)
    if end.cause == "input":
        raise InputError(end.message)
    if end.cause == "bug":
        raise EverestError(
            f"rank {end.rank} failed at step {end.step}: {end.type}: {end.message}\n"
            f"Its traceback is in {ends.find(work, end.rank)}."
        )
    raise EverestError(end.message)


def _attempt(
    module: str,
    arguments: list[str],
    ranks: int,
    work: Path,
    threads: int | None,
    locks: Sequence[int],
    watch: Watch,
    signals: _Signals,
    node: Node,
) -> RankEnd:
    if signals.signal is not None:
        return RankEnd("interrupted", message=_not_saved(signals.signal))
    ends.forget(work, node)  # what the other nodes wrote is theirs to remove
    if node.count == 1:  # also those of an earlier start with more ranks
        shutil.rmtree(work / ends.FOLDER, ignore_errors=True)
        shutil.rmtree(work / "stacks", ignore_errors=True)
    (work / "stacks").mkdir(parents=True, exist_ok=True)
    beats = work / node.named("beats")
    heartbeat.create(beats, ranks)
    child = subprocess.Popen(
        command(module, [*arguments, "--work", str(work)], ranks, node),
        env=environment(ranks, threads),
        process_group=0,
        pass_fds=locks,
        preexec_fn=follow_parent(signal.SIGTERM, os.getpid()),
    )
    stall: RankEnd | None = None
    left = False
    told: set[int] = set()
    now: list[heartbeat.Beat] = []
    looked = awake = time.monotonic()
    try:
        while child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL_SECONDS)
            if time.monotonic() - looked > watch.stall_seconds / 2:
                awake = time.monotonic()  # all were frozen (Ctrl-Z, a suspended job): the ranks have to get going first
            looked = time.monotonic()
            now = heartbeat.read(beats)
            for beat in heartbeat.gone(now):
                if beat.rank not in told and not ends.file(work, beat.rank, node).exists():
                    told.add(beat.rank)
                    # The others may wait for it a while before they end, and are then started again.
                    log.warning("ranks: rank %d (process %d) is gone at step %d.", beat.rank, beat.pid, beat.step)
            if signals.signal is not None and signals.obeyed(now, ranks):
                break
            if node.count > 1 and heartbeat.finished(now, ranks, EXIT_SECONDS):
                # torchrun would wait minutes for a node that was told to stop and has left.
                left = True
                break
            late = heartbeat.stalled(now, watch.stall_seconds, awake)
            if late:
                stall = _name_stalled(late, work, watch, node)
                break
    finally:
        _end_group(child, heartbeat.read(beats))
    return stall or _outcome(work, 0 if left else child.returncode, signals.signal, node, ranks, now)


def command(module: str, arguments: list[str], ranks: int, node: Node | None = None) -> list[str]:
    """The child's command line: torchrun, or the module alone for one rank on one node."""
    node = node or Node()
    if ranks == 1 and node.count == 1:
        return [sys.executable, "-m", module, *arguments]
    return [
        sys.executable, "-m", "pipeline.distributed.groups", *node.torchrun(), f"--nproc-per-node={ranks}",
        "--max-restarts=0", "--monitor-interval=0.1", f"--shutdown-timeout={GRACE_SECONDS}",
        f"--signals-to-handle={','.join(number.name for number in STOP)}", "-m", module, *arguments,
    ]  # fmt: skip


def environment(ranks: int, threads: int | None) -> dict[str, str]:
    """The child's environment: threads shared out, no noise from torchrun about what it does not find."""
    cores = len(os.sched_getaffinity(0))
    each = str(threads or max(1, cores // ranks))
    variables = dict(os.environ) | {"OMP_NUM_THREADS": each, "MKL_NUM_THREADS": each}
    variables.setdefault("TORCHELASTIC_ERROR_FILE", os.devnull)
    variables.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    variables.setdefault("LOGLEVEL", "CRITICAL")
    return variables


def _name_stalled(late: list[heartbeat.Beat], work: Path, watch: Watch, node: Node) -> RankEnd:
    """Ask the ranks that hold up the rest for their stacks, and say who they are."""
    for beat in late:
        with contextlib.suppress(ProcessLookupError):
            os.kill(beat.pid, signal.SIGUSR2)
    time.sleep(0.5)
    who = ", ".join(f"rank {b.rank} (process {b.pid}) in {b.phase!r} at step {b.step}" for b in late)
    if node.count > 1:
        who += f" on node {node.rank} (see the other nodes' words too: theirs may wait for another)"
    message = (
        f"no rank moved for {watch.stall_seconds:g} s; held up by {who}. Stacks are in {work}/stacks. "
        "Cure: see what the stack waits for; start again to continue."
    )
    return RankEnd("stalled", late[0].rank, late[0].step, time.time(), message=message)


def _outcome(
    work: Path, code: int, stopped: str | None, node: Node, ranks: int, beats: Sequence[heartbeat.Beat]
) -> RankEnd:
    """What the ranks' records say together, and where they say nothing, their launcher's exit code."""
    records = ends.read_all(work)
    if not records and code and not has_room(work):
        return RankEnd.of(-1, 0, DiskFullError(work))
    if not records and stopped is None and ranks == 1 and node.count == 1 and code:
        records = [RankEnd.without_a_word(0, code)]
    decisive = ends.decisive(records)
    if decisive is not None and node.count > 1 and decisive.cause in ("bug", "peer"):
        decisive = _hear_other_nodes(work, node, ranks) or decisive
    if decisive is not None and not (stopped is not None and decisive.retry):
        return decisive
    if code == 0 and records and all(end.state == "done" for end in records):
        return records[0]
    saved = [end for end in records if end.state == "interrupted"]
    if saved:
        return saved[0]
    if stopped is not None:
        return RankEnd("interrupted", message=_not_saved(stopped, beats))
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    message = f"the ranks' launcher ended {how} without an account of it: killed from outside, or out of memory."
    return RankEnd("killed", at=time.time(), message=f"{message} Cure: see `dmesg`; start again to continue.")


def _hear_other_nodes(work: Path, node: Node, ranks: int) -> RankEnd | None:
    """The decisive end among all nodes' ranks; one of which no record comes was killed, or starts again already."""
    until = time.monotonic() + EXIT_SECONDS
    while True:
        silent = [other for other in range(node.count) if other != node.rank and ends.count(work, other) < ranks]
        if not silent:
            return ends.decisive(ends.read_all(work))
        if time.monotonic() > until:
            names = ", ".join(map(str, silent))
            message = f"the ranks of node {names} ended without an account of it."
            return RankEnd("killed", at=time.time(), message=f"{message} Cure: start again to continue.")
        time.sleep(POLL_SECONDS)


def _not_saved(name: str, beats: Sequence[heartbeat.Beat] = ()) -> str:
    if any(beat.step for beat in beats):
        what = f"the ranks did not save within {GRACE_SECONDS} s; the steps since the newest checkpoint are lost"
    else:
        what = "before a step was done; earlier checkpoints stand"
    return f"stopped by {name}: {what}. Start again to continue."


def _end_group(child: subprocess.Popen[bytes], beats: list[heartbeat.Beat]) -> None:
    """Leave no process behind: the launcher's group, and each rank (they have sessions of their own)."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        # Ranks follow their launcher by the kernel's hand; a rank that is stopped (SIGSTOP) dies of SIGKILL
        # too.
        for beat in beats:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(beat.pid, signal.SIGKILL)


class _Signals(StopRequest):
    """Notes the first stop signal and brings it to the ranks themselves.

    Not by way of torchrun: while that still imports, it loses a signal, and a second one it takes as 'now'. A rank that
    has given a sign of life listens, and ends by itself after saving, however often the signal is repeated.
    """

    def __init__(self) -> None:
        super().__init__()
        self._since = 0.0
        self._said = 0.0

    def note(self, number: int, _frame: FrameType | None = None) -> None:
        if self.signal is None:
            self._since = time.monotonic()
        super().note(number)

    def obeyed(self, beats: list[heartbeat.Beat], ranks: int) -> bool:
        """Tell the ranks (again each second); whether to end them now: none has begun yet, or their time is up.

        Validations, looks and writing are not broken off: while a rank moves in one, its time does not run out.
        """
        now = time.monotonic()
        busy = any(beat.phase in WHOLE and now - beat.at < GRACE_SECONDS for beat in beats)
        if not beats or (now - self._since > GRACE_SECONDS and not busy):
            return True
        # Until all are there, those that are would wait for the others in vain.
        if len(beats) == ranks and time.monotonic() - self._said > 1.0:
            self._said = time.monotonic()
            for beat in beats:
                if beat.phase != "finished":
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(beat.pid, signal.Signals[str(self.signal)])
        return False
