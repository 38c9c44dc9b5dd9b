"""The only place that runs git: what it answers, or why it gave no answer.

No answer is never an empty one: git may be missing, the folder no repository, the repository another user's ("dubious
ownership"), or git may hang.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import EverestError

#: [s] that a question may take; checking out a worktree takes longer.
QUESTION_SECONDS, ACTION_SECONDS = 30.0, 600.0


@dataclass(frozen=True)
class Answer:
    """What git printed; None, with the reason, where it did not answer."""

    text: str | None
    reason: str = ""


def ask(*words: str, root: Path | None = None, seconds: float = QUESTION_SECONDS) -> Answer:
    """Run git in `root` (the current folder by default) and wait for its answer."""
    # Refreshing the index would take git's lock away from a user or a flow that commits at this moment.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            ["git", "-c", "core.quotePath=false", *words],
            cwd=root,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except FileNotFoundError:
        place = root or Path()
        return Answer(None, "git is not installed" if place.is_dir() else f"{place} does not exist")
    except OSError as error:
        return Answer(None, f"git does not start: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Answer(None, f"git {words[0]} did not answer within {seconds:g} s")
    if done.returncode:
        # The first line names the fault; what follows is advice.
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
        return Answer(None, reason.removeprefix("fatal: "))
    return Answer(done.stdout)


def do(*words: str, root: Path | None = None) -> str:
    """Run a git command that has to succeed; what it printed.

    Raises:
        EverestError: git refused, with its reason.
    """
    answer = ask(*words, root=root, seconds=ACTION_SECONDS)
    if answer.text is None:
        raise EverestError(f"git {' '.join(words)}: {answer.reason}. Cure: mend that, then start again.")
    return answer.text
