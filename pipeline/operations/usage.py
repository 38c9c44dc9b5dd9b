"""What is in use: by runs that have not ended, by processes, by who has the training's turn."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.errors import EverestError, parted
from pipeline.layout import RUN_VARIABLE, TRAINING_LOCK, WORKTREES
from pipeline.operations.server import Run, Server
from pipeline.params.file import read_mapping
from pipeline.preflight.orchestrator import GOING
from pipeline.system.locks import Holder, turn_holder


@dataclass(frozen=True)
class Usage:
    """Who uses what.

    Attributes:
        runs: id -> flow run, of those that have a worktree here.
        going: all runs of the server that have not ended.
        answers: whether the server could be asked; without one of its own there is nothing to ask.
        silence: why it could not.
        turn: who trains.
        processes: number -> (working folder, flow run) of this machine's processes.
        benchmarks: those that params.yaml, a recipe or a worktree names.
    """

    runs: dict[str, Run]
    going: tuple[Run, ...]
    answers: bool
    silence: str
    turn: Holder | None
    processes: dict[int, tuple[Path, str]]
    benchmarks: frozenset[str]

    def keeps(self, folder: Path, run: str = "") -> str:
        """Why a folder (the worktree of a run, where one is given) must stay; empty where nothing uses it."""
        folder = folder.resolve()
        for pid, (place, of) in self.processes.items():
            if place == folder or folder in place.parents or (run and of == run):
                return f"process {pid} works there"
        if not run:
            return ""
        if self.turn and self.turn.run == run:
            return f"it trains: process {self.turn.pid}"
        if not self.answers:
            return self.silence
        known = self.runs.get(run)
        return f"its run is {known.state}" if known and known.going else ""


def usage(root: Path, server: Server | None) -> Usage:
    """Look at the server, the locks, the processes and the params files."""
    names = [folder.name for folder in (root / WORKTREES).glob("*")]
    runs: dict[str, Run] = {}
    going: tuple[Run, ...] = ()
    silence = ""
    if server is None:
        silence = "PREFECT_API_URL names no server that could say whether its run has ended"
    else:
        try:
            runs = {run.id: run for run in server.runs_of(names)}
            going = tuple(server.runs(GOING))
        except EverestError as error:
            silence = f"{parted(error)[0]}."
    turn = turn_holder(root / TRAINING_LOCK)
    return Usage(runs, going, not silence, silence, turn, processes(), benchmarks(root))


def processes() -> dict[int, tuple[Path, str]]:
    """Number -> (working folder, flow run) of every process that this user may look into."""
    places = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            places[process.pid] = (Path(process.cwd()), process.environ().get(RUN_VARIABLE, ""))
    return places


def benchmarks(root: Path) -> frozenset[str]:
    """Every benchmark that params.yaml, a recipe or the params.yaml of a worktree names.

    Raises:
        EverestError: one of these files cannot be read, so that nobody knows what it names.
    """
    files = [root / "params.yaml", *(root / "recipes").glob("*.yaml")]
    files += (root / WORKTREES).glob("*/params.yaml")
    names: set[str] = set()
    for path in files:
        if path.exists():
            content = read_mapping(path)
            for named in (content.get("benchmarks"), (content.get("pretrain") or {}).get("corpus")):
                names |= set(named or ())
    return frozenset(names)
