"""Who a process is, for messages that name the holder of a lock."""

from __future__ import annotations

import time


def describe(pid: int) -> str:
    """`process 123 (dvc repro, since 14:03)`; without the brackets where it is gone or belongs to somebody else."""
    import psutil

    try:
        process = psutil.Process(pid)
        words, began = process.cmdline() or [process.name()], process.create_time()
    except psutil.Error:
        return f"process {pid}"
    day = "%H:%M" if time.time() - began < 12 * 3600 else "%Y-%m-%d %H:%M"
    return f"process {pid} ({_short(words)}, since {time.strftime(day, time.localtime(began))})"


def is_program(pid: int, name: str) -> bool:
    """Whether a process lives whose command names `name`; a number may have gone to another program since."""
    import psutil

    try:
        return any(name in word for word in psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # somebody else's: it lives
        return True


def _short(words: list[str]) -> str:
    """A command without the interpreter's and the folder's names."""
    shown = [word.rsplit("/", 1)[-1] for word in words[:6]]
    if shown and shown[0].startswith("python"):
        shown = shown[1:]
    return " ".join(word for word in shown if word not in ("-m", "-I", "-u"))[:80]
