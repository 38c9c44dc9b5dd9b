"""Runs through a deployment while its worker, server, flow processes and database are killed at random moments.

Nobody helps but as a guide would say: what was killed is started again, a crashed run is submitted again. In the end
each run has completed, or was cancelled because it was to be, and nothing is left of any of them.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
import urllib.error
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
from postgres_cluster import Cluster
from prefect_site import Site, until

ENDED = ("Completed", "Cancelled", "Crashed", "Failed", "TimedOut")
#: [s] between two faults, on a machine with a core free for it: a worker and a run take some ten seconds to start.
PAUSE = (8.0, 40.0)
#: Runs that are under way or wait at a time.
AT_ONCE = 2
#: Every so many runs one is cancelled.
CANCEL_EVERY = 5


@dataclass
class Record:
    """What a soak did and saw.

    Attributes:
        ended: how each wanted run ended, by its number.
        faults: how often each fault happened.
        crashed: runs that were submitted again after their flow had been killed.
        waits: [s] from submission to the end, of each run that completed.
        left: whatever is still there in the end, as sentences.
        samples: (what, [s] since the beginning, [MiB], open descriptors) of the server and the worker.
    """

    ended: dict[int, str] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    crashed: int = 0
    waits: list[float] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    samples: list[tuple[str, float, float, int]] = field(default_factory=list)
    seconds: float = 0.0

    def growth(self, what: str) -> tuple[float, float]:
        """Largest memory and most descriptors in the last third of the time, over those of the first third."""
        thirds: list[list[tuple[float, int]]] = [[], [], []]
        for name, when, memory, files in self.samples:
            if name == what:
                thirds[min(2, int(3 * when / self.seconds))].append((memory, files))
        first, last = ([max(column) for column in zip(*part, strict=True)] for part in (thirds[0], thirds[2]))
        return last[0] / first[0], last[1] / first[1]


class Soak:
    """Submits runs and breaks things until all have ended.

    Args:
        submit: starts the run of a number; its id.
        limit: [s] for one run to end, faults and all, on a machine with a core free for it.
    """

    def __init__(
        self, site: Site, database: Cluster, submit: Callable[[int], str], seed: int = 0, limit: float = 300
    ) -> None:
        self.site, self.database, self.submit, self.limit = site, database, submit, limit
        self.chance = random.Random(seed)
        self.worker = site.start_worker()
        self.record = Record()
        self._active: dict[str, tuple[int, float]] = {}
        self._to_cancel: set[str] = set()
        self._deck: list[Callable[[], str]] = []

    def run(self, runs: int) -> Record:
        """Until all have ended; then what is left of them is looked for."""
        began, waiting, next_fault = time.monotonic(), list(range(runs)), time.monotonic() + 5
        while waiting or self._active:
            while waiting and len(self._active) < AT_ONCE:
                self._begin(waiting.pop(0))
            for run in list(self._active):
                self._look(run)
            self._measure(time.monotonic() - began)
            if time.monotonic() >= next_fault and self._active:
                self._break()
                next_fault = time.monotonic() + busy() * self.chance.uniform(*PAUSE)
            time.sleep(0.3)
        self._leftovers()
        self.record.seconds = time.monotonic() - began
        return self.record

    def _begin(self, number: int) -> None:
        run = self.submit(number)
        self._active[run] = (number, time.monotonic())
        if number % CANCEL_EVERY == CANCEL_EVERY - 1:
            self._to_cancel.add(run)

    def _look(self, run: str) -> None:
        number, began = self._active[run]
        state = self.site.state(run)
        if state in ENDED:
            del self._active[run]
            self._end(number, run, state, time.monotonic() - began)
            return
        if run in self._to_cancel and state == "Running":
            self.site.cancel(run)
            self._to_cancel.discard(run)
            self.record.faults["cancelled"] += 1
        if time.monotonic() - began > self.limit * busy():
            lines = "\n".join(self.site.lines(run).splitlines()[-10:])
            raise AssertionError(f"run {number} ({run}) is {state} after {time.monotonic() - began:.0f} s:\n{lines}")

    def _end(self, number: int, run: str, state: str, seconds: float) -> None:
        say(f"run {number} {state} after {seconds:.0f} s")
        if state == "Crashed":
            # Its successor has the same inputs and goes on where it was.
            self.record.crashed += 1
            cancel = run in self._to_cancel
            self._to_cancel.discard(run)
            again = self.submit(number)
            self._active[again] = (number, time.monotonic())
            if cancel:
                self._to_cancel.add(again)
            return
        if state == "Completed":
            self.record.waits.append(seconds)
        self.record.ended[number] = state
        if state in ("Failed", "TimedOut"):
            say(f"{self.site.lines(run)}\n{self.site.message(run)}")

    def _measure(self, when: float) -> None:
        for what, process in (("server", self.site.server), ("worker", self.worker)):
            if process is None:
                continue
            try:
                seen = psutil.Process(process.pid)
                tree = [seen, *(child for child in seen.children() if "worker" in " ".join(child.cmdline()))]
                memory = sum(one.memory_info().rss for one in tree) / 2**20
                self.record.samples.append((what, when, memory, sum(one.num_fds() for one in tree)))
            except psutil.Error:
                continue

    # Faults

    def _break(self) -> None:
        if not self._deck:
            self._deck = [
                self._kill_worker,
                self._drain_worker,
                self._kill_server,
                self._kill_database,
                self._kill_flow,
            ]
            self.chance.shuffle(self._deck)
        what = self._deck.pop()()
        if what:
            self.record.faults[what] += 1
            say(what)

    def _kill_worker(self) -> str:
        self.worker.kill()
        self.worker.wait(30)
        time.sleep(self.chance.uniform(0, 3))
        self.worker = self.site.start_worker()
        return "worker killed"

    def _drain_worker(self) -> str:
        self.worker.send_signal(signal.SIGTERM)
        try:
            self.worker.wait(120)
        except subprocess.TimeoutExpired:
            raise AssertionError("a worker that was told to stop is there after 120 s") from None
        self.worker = self.site.start_worker()
        return "worker stopped"

    def _kill_server(self) -> str:
        self.site.stop_server()
        time.sleep(self.chance.uniform(0, 3))
        self.site.start_server()
        return "server killed"

    def _kill_database(self) -> str:
        self.database.kill()
        time.sleep(self.chance.uniform(0, 3))
        self.database.start()
        until(self._asks, 60, "the server answers from its database again")
        return "database killed"

    def _kill_flow(self) -> str:
        for run in self.chance.sample(sorted(self._active), len(self._active)):
            try:
                self.site.flow_process(run).kill()
            except LookupError:
                continue
            return "flow killed"
        return ""

    def _asks(self) -> bool:
        try:
            self.site.slots()
        except (OSError, urllib.error.URLError):
            return False
        return True

    # The end

    def _leftovers(self) -> None:
        """Whatever a run left; each is given a minute to go."""
        for name, look in self.site.checks().items():
            try:
                until(lambda look=look: not look(), 60, f"no {name}")
            except AssertionError:
                self.record.left.append(f"{name}: {look()}")


def busy() -> float:
    """How much longer things take than on a machine with a core free for them."""
    return max(1.0, psutil.getloadavg()[0] / (psutil.cpu_count() or 1))


def say(line: str) -> None:
    sys.stderr.write(f"soak: {line}\n")
