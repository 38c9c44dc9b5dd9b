"""Errors that a user meets: each says what was found, what was expected and the cure.

Exit codes of the command line: 0 ok, 1 failed, 2 bad input, 3 budget spent (state saved), 4 paused,
130 stopped by a signal.
"""

from __future__ import annotations


class EverestError(Exception):
    """A failure with a message written for the user. The command line prints it without a traceback."""

    exit_code = 1


class InputError(EverestError, ValueError):
    """Something the user gave (a parameter, a path, a file) cannot be used. Nothing was written."""

    exit_code = 2


class DamagedError(InputError):
    """Bytes on the disk are not those that were written: they are never used, and nothing takes their place."""


class UnavailableError(EverestError):
    """What every video needs does not work on this machine now: no single video is to blame."""


class BusyError(EverestError):
    """Another process holds what this one needs."""


class Interrupted(EverestError):
    """Work was stopped by a signal after its state was saved; starting again continues."""

    exit_code = 130


class Paused(Interrupted):
    """Work was stopped where it was asked to pause, after its state was saved: others take their turn."""

    exit_code = 4


class BudgetSpentError(Interrupted):
    """The run took what `compute.budget` allows; its state is saved, and with a higher budget it continues."""

    exit_code = 3


def parted(said: object) -> tuple[str, str]:
    """What an error or a message says, without its full stop, and its cure; "" where it names none."""
    what, _, cure = str(said).partition(" Cure: ")
    return what.removesuffix("."), cure
