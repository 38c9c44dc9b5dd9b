"""How each rank ended, as a record in a small file that outlives its process: exit codes tell too little.

    ends/rank-<n>.json          written by the rank itself or, where it died without a word, by what started it
    ends/rank-<n>-node-<m>.json  the same on another machine than the first
    status.json, status-node-<m>.json   what a machine's launcher made of them

Whether ranks are started again is decided by these records alone, never by the words of a message.
"""

from __future__ import annotations

import json
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pipeline.distributed.nodes import Node
from pipeline.errors import EverestError, InputError, Interrupted
from pipeline.system.files import read_json, write_json
from pipeline.system.redact import redact
from pipeline.system.text import visible

#: `killed`: by a signal, without a word. `silent`: with an exit code of its own, without a word.
State = Literal["done", "interrupted", "failed", "stalled", "killed", "silent"]
#: Why a rank failed: the user's input; something that its message explains; a lost connection to other ranks; a bug.
Cause = Literal["", "input", "explained", "peer", "bug"]
FOLDER = "ends"


class PeerLost(EverestError):
    """Another rank could not be reached, or did not answer, in an exchange between ranks."""


@dataclass(frozen=True)
class RankEnd:
    """One rank's end: `step` is the last one that it began, `at` the time in seconds since 1970."""

    state: State
    rank: int = -1
    step: int = 0
    at: float = 0.0
    cause: Cause = ""
    type: str = ""
    message: str = ""
    traceback: str = ""

    @property
    def retry(self) -> bool:
        """Whether the fault lies with a process or the network rather than with the run itself."""
        return self.state in ("stalled", "killed") or self.cause == "peer"

    @classmethod
    def of(cls, rank: int, step: int, error: BaseException | None) -> RankEnd:
        """The end of a rank that tells it itself."""
        if error is None:
            return cls("done", rank, step, time.time())
        state: State = "interrupted" if isinstance(error, Interrupted) else "failed"
        text = redact("".join(traceback.format_exception(error)))
        return cls(state, rank, step, time.time(), _cause(error), type(error).__name__, redact(str(error)), text)

    @classmethod
    def without_a_word(cls, rank: int, code: int) -> RankEnd:
        """The end of a process that left no record, by its exit code (negative: the signal that killed it)."""
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            message = f"rank {rank} was killed by {name} without an account of it: from outside, or out of memory."
            return cls("killed", rank, at=time.time(), message=f"{message} Cure: see `dmesg`; start again to continue.")
        message = f"rank {rank} ended with exit code {code} before it could say why; its words are above."
        return cls("silent", rank, at=time.time(), message=message)

    def as_dict(self) -> dict[str, object]:
        return asdict(self) | {"retry": self.retry}


def _cause(error: BaseException) -> Cause:
    if isinstance(error, Interrupted):
        return ""
    if isinstance(error, PeerLost):
        return "peer"
    if isinstance(error, InputError):
        return "input"
    return "explained" if isinstance(error, EverestError) else "bug"


def record(work: Path, end: RankEnd, node: Node | None = None) -> None:
    """Write the record of the end of one of a node's ranks."""
    write_json(file(work, end.rank, node), asdict(end))


def record_or_say(work: Path, end: RankEnd, node: Node) -> OSError | None:
    """As :func:`record`; where the disk takes no record, the end is said on stderr. Returns why it took none."""
    try:
        record(work, end, node)
    except OSError as error:
        said = f"rank {end.rank} {end.state}: {end.message} ({error}: its end is not recorded)"
        sys.stderr.write(f"{visible(said)}\n")
        return error
    return None


def file(work: Path, rank: int, node: Node | None = None) -> Path:
    """Where the end of a rank stands; which node has which ranks is drawn by torchrun."""
    return work / FOLDER / (node or Node()).named(f"rank-{rank}.json")


def find(work: Path, rank: int) -> Path:
    """The record of a rank, on whichever node it was."""
    return next((work / FOLDER).glob(f"rank-{rank}[.-]*json"), work / FOLDER)


def forget(work: Path, node: Node) -> None:
    """Remove what the ranks of a node left in an earlier start; the first node does so for those that are no more."""
    for path in (work / FOLDER).glob("rank-*.json"):
        if (number := _node_of(path)) == node.rank or (node.main and number >= node.count):
            path.unlink(missing_ok=True)


def count(work: Path, node: int) -> int:
    """How many ranks of a node have ended."""
    return sum(_node_of(path) == node for path in (work / FOLDER).glob("rank-*.json"))


def _node_of(record: Path) -> int:
    return int(record.stem.partition("-node-")[2] or 0)


def of_nodes(work: Path) -> RankEnd | None:
    """The end that counts among those that the launchers of all nodes stated; None where none stated any."""
    stated = []
    for path in work.glob("status*.json"):
        known = {key: value for key, value in read_json(path).items() if key in RankEnd.__dataclass_fields__}
        stated.append(RankEnd(**known))
    stated.sort(key=lambda end: end.at)
    failed = decisive([end for end in stated if end.state != "stalled"])
    if failed is not None or not stated:
        return failed
    others = [end for end in stated if end.state != "done"]
    return others[0] if others else stated[0]


def forget_stated(work: Path) -> None:
    """Remove what the launchers of all nodes stated of an earlier start."""
    for path in work.glob("status*.json"):
        path.unlink(missing_ok=True)


def read_all(work: Path) -> list[RankEnd]:
    """The records that there are, the earliest first."""
    ends = []
    for path in (work / FOLDER).glob("rank-*.json"):
        try:
            ends.append(RankEnd(**json.loads(path.read_text(encoding="utf-8"))))
        except FileNotFoundError:  # another node starts its ranks again
            continue
    return sorted(ends, key=lambda end: end.at)


def decisive(ends: Sequence[RankEnd]) -> RankEnd | None:
    """The end that the others followed from; None where no rank failed.

    What an error explains is nobody's echo. A rank that was killed has pulled the others down, whatever they say: with
    Gloo they say RuntimeError. A lost connection is an echo of another's end.
    """
    failed = [end for end in ends if end.state in ("failed", "killed", "silent")]
    return min(failed, key=lambda end: (_ORDER.index(end.cause or end.state), end.at), default=None)


_ORDER = ("input", "explained", "killed", "bug", "silent", "peer")
