"""Running one DVC stage as a child process and reading what DVC did with it."""

from __future__ import annotations

import enum
import itertools
import logging
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from flows.chain.devices import heard
from flows.chain.guard import Children
from flows.chain.lines import told_lines_of
from pipeline.errors import BudgetSpentError, EverestError, Interrupted
from pipeline.experiments.workspace import Workspace
from pipeline.params.records import misrecorded
from pipeline.system.redact import redact

log = logging.getLogger(__name__)


class Outcome(enum.Enum):
    """What `dvc repro` did: ran the command, took the result from its cache, or found nothing to do."""

    RAN = "ran"
    RESTORED = "restored"
    UNCHANGED = "unchanged"


class StageFailed(EverestError):
    """A stage ended with an error; the message is the stage's own."""


class StageStopped(Interrupted):
    """A stage saved its state and ended because the flow was told to stop."""


def workspace(folder: Path, name: str, variables: Mapping[str, str], root: Path | None = None) -> Workspace:
    """A workspace whose stages DVC runs, with the code of `folder`, whichever checkout this process runs from.

    Args:
        root: the checkout that a worktree belongs to; `folder` itself if None.
    """
    folder = folder.resolve()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    fixed = {"PATH": path, "PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1"}
    return Workspace(name, folder, (root or folder).resolve(), {**os.environ, **variables, **fixed})


def repro(stage: str, where: Workspace, children: Children, pull: bool = False) -> Outcome:
    """`dvc repro` of one stage, without those it depends on: the flow has run them.

    Where DVC noted other parameters than the outputs were computed with (an edit in the moment between the stage's end
    and DVC's note, perhaps of an earlier run whose result it has just restored), the stage is computed again.

    Args:
        pull: its result may be on DVC's default remote: made there by another checkout.

    Raises:
        StageStopped: the flow was told to stop.
        BudgetSpentError: the stage has saved its state.
        StageFailed: the stage failed; names its log file and repeats its last error.
    """
    outcome = _repro(stage, where, children, *(["--pull"] if pull else []))
    wrong = misrecorded(stage, where.folder)
    if wrong:
        log.warning("%s. It is computed again with what params.yaml says now.", wrong)
        outcome = _repro(stage, where, children, "--force")
        wrong = misrecorded(stage, where.folder)
    if wrong:
        raise StageFailed(f"{wrong}. Cure: let params.yaml rest while stages run, and start again.")
    return outcome


def _repro(stage: str, where: Workspace, children: Children, *options: str) -> Outcome:
    where.logs.mkdir(parents=True, exist_ok=True)
    path = where.logs / f"{stage.rpartition(':')[2].replace('@', '-')}.log"
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", *options, stage]
    with path.open("wb") as file, told_lines_of(path, heard):
        code = children.run(command, where.folder, where.environment, file)
    output = path.read_text(errors="replace")
    if children.stopping:
        raise StageStopped(f"{stage} was stopped and has saved its state. Cure: start again to continue.")
    if code and (sentence := budget_spent(output)):
        raise BudgetSpentError(sentence)
    if code:
        # The message goes to Prefect's page and its database; the stage's own words keep secrets, DVC's do not.
        raise StageFailed(redact(f"{stage} {failure(code, output)}\nIts log: {path}"))
    return read_outcome(output)


def read_outcome(output: str) -> Outcome:
    """What DVC says that it did."""
    if re.search(r"^Stage '.*' is cached - skipping run", output, re.MULTILINE):
        return Outcome.RESTORED
    if re.search(r"^Stage '.*' didn't change, skipping", output, re.MULTILINE):
        return Outcome.UNCHANGED
    return Outcome.RAN


def budget_spent(output: str) -> str:
    """What a stage says that has spent its run's budget; empty where it ended otherwise."""
    ended = re.search(rf"failed to run: .*, exited with {BudgetSpentError.exit_code}$", output, re.MULTILINE)
    message = re.findall(r"^budget spent: (?!.* says above by what).*$", output, re.MULTILINE)
    return message[-1] if ended and message else ""


def failure(code: int, output: str) -> str:
    """What happened to a stage, with the cure: its own last error, or in one line the signal that ended it.

    Args:
        code: of the process `dvc repro`, negative for a signal.
        output: of DVC and the stage.
    """
    ended = re.findall(r"failed to run: .*, exited with -(\d+)$", output, re.MULTILINE)
    if code < 0 or ended:
        who = "was killed" if ended else "was ended, its dvc process being killed"
        name = signal.Signals(int(ended[-1]) if ended else -code).name
        return (
            f"{who} by {name}: by hand, or for want of memory (`dmesg` says so). "
            "Cure: the same command continues; what is finished is kept."
        )
    return f"failed: {_last_error(output) or f'exit code {code}.'}"


def _last_error(output: str) -> str:
    lines = output.splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith(("error:", "ERROR:"))]
    causes = [n for n in errors if "failed to reproduce" not in lines[n] and "failed to run" not in lines[n]]
    if not errors:
        return ""
    last = (causes or errors)[-1]
    # Who keeps DVC's lock stands on the lines after it, up to an empty one; so do all but the first of our faults.
    more = itertools.takewhile(lambda line: line.startswith((" ", "params.yaml:")), lines[last + 1 :])
    return "\n".join([lines[last], *more])
