"""Stop signals, children that save when this process is told to stop, and none that outlives its parent.

`STOP` is the one set of signals that ask a process to stop: Ctrl-C, `kill` and a preemption, a closed terminal, SLURM's
word before its time is up. What each process does on one, and what the kernel sends it when its parent dies:

    process                      on a stop signal                                            parent dies
    everest run, demo, repeat    run_child: SIGINT to its child, waits for it to save        -
    everest ops worker           freezes Prefect's worker, SIGTERM to each of its flows      -
    flow                         flows/chain/guard: SIGINT to each dvc's group, no further   SIGTERM; a worker's
                                 stage begins; then ends of the signal itself, or (of a      goes on
                                 deployment) as flows/chain/orders settles it
    dvc                          ignores SIGINT and waits for its stage                      SIGTERM
    stage, compare               without ranks KeyboardInterrupt on SIGINT, others end it;   SIGINT
                                 with ranks StopRequest: distributed/launch tells the ranks, or
                                 distributed/slurm/follow the job, which outlives the stage
    job of SLURM                 distributed/slurm/batch has a table of its own              -
    torchrun                     hands it on to its ranks, which have it from the stage      SIGTERM
    rank                         StopRequest: all save after the same step and end           SIGKILL of torchrun,
                                                                                             SIGTERM of the stage
    everest ui, its servers      as Ctrl-C: ends both servers                                SIGTERM
    decoders, workers of pools,  none of their own: whoever started them ends them           SIGKILL
    unpackers, bench parts

SIGUSR2 stops nothing: a rank writes its stacks. The background jobs of a script (`nohup everest compare &`) ignore
SIGINT, and would hand that on to all below; children of ours hear it all the same (`follow_parent`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pipeline.errors import EverestError

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

#: linux/prctl.h
_PR_SET_PDEATHSIG = 1
#: The descriptor itself: `sys.stderr` may have been replaced.
STDERR = 2
#: In the place of a signal's name: nobody sent one.
PAUSE = "PAUSE"
#: Variable: the share of a training's steps after which it pauses.
PAUSE_AT = "EVEREST_PAUSE_AT"
STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
#: Parts of the commands that start stages.
OURS = ("dvc", "everest", "pipeline.cli", "flows.")
#: What a child that was told to stop ends with.
STOPPED = (130, *(-number for number in STOP))


#: What `signal.signal` takes: a function of the signal's number, or the kernel's or Python's own way.
Handler = Callable[[int, FrameType | None], object] | signal.Handlers | int | None


def pause_step(share: float, steps: int) -> int:
    """The step of a training after which it pauses at a share of them."""
    return max(2, round(share * steps))


class StopRequest:
    """Remembers the first stop signal; listen before anything slow: a signal during imports counts too."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def note(self, number: int, _frame: FrameType | None = None) -> None:
        self.signal = self.signal or signal.Signals(number).name

    def pause(self) -> None:
        """Stop as on a signal, of this process's own accord."""
        self.signal = self.signal or PAUSE


def on_stop(handler: Handler) -> dict[signal.Signals, Handler]:
    """Let `handler` have the stop signals from now on; returns those that had them.

    What `nohup` set aside stays so: a closed terminal does not stop such a process.
    """
    numbers = [n for n in STOP if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in numbers}


@contextlib.contextmanager
def stop_handled(handler: Handler, keep: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Let `handler` have the stop signals within the block. Python gives them to the main thread alone.

    Args:
        keep: asked at the block's end: whether the handler stays.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = on_stop(handler)
    try:
        yield
    finally:
        if not keep():
            for number, before in previous.items():
                signal.signal(number, before)


def die_with_parent(how: signal.Signals, parent: int | None = None) -> None:
    """Ask the kernel (Linux) to send `how` to this process when its parent ends, however it ends.

    Args:
        parent: the expected parent; if it is gone already, this process ends now.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(how), 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), how)


@contextlib.contextmanager
def worker_pool(workers: int | None) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this one, side by side; what they have not begun when the block ends is not begun.

    Raises:
        EverestError: one of them was killed.
    """
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    pool = ProcessPoolExecutor(workers, initializer=die_with_parent, initargs=(signal.SIGKILL,))
    try:
        yield pool
    except BrokenProcessPool:
        raise EverestError(
            "a worker process was killed (for want of memory?). Cure: free memory; starting again continues."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def save_with_parent() -> None:
    """Ask the kernel for SIGINT when DVC, or whoever started this stage, is killed: it saves, and trains on for nobody.

    A shell's end is no such order where `nohup` said so.
    """
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN or any(is_program(os.getppid(), name) for name in OURS):
        die_with_parent(signal.SIGINT)


def follow_parent(how: signal.Signals, parent: int | None = None) -> Callable[[], None]:
    """What a child of ours does before its program starts, for `preexec_fn`: it hears SIGINT, and ends with its parent.

    Args:
        how, parent: as of :func:`die_with_parent`.
    """

    def prepare() -> None:
        # What is ignored stays so in the program, what is handled does not.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        die_with_parent(how, parent)

    return prepare


def run_child(
    command: Sequence[str],
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    at_our_death: signal.Signals = signal.SIGTERM,
    shares_stdout: bool = False,
) -> int:
    """Run a command to its end and return its exit code.

    It has a process group of its own: a Ctrl-C in the terminal comes to this process alone, which hands it on and
    waits for the child to save. `at_our_death` is what the kernel sends it if this process ends without a word. What it
    prints goes to stderr, since stdout is for our own result, unless it `shares_stdout`.
    """
    child = subprocess.Popen(
        command,
        cwd=folder,
        stdout=None if shares_stdout else STDERR,
        env=None if environment is None else dict(environment),
        process_group=0,
        preexec_fn=follow_parent(at_our_death),
    )
    with stop_handled(lambda *_: child.send_signal(signal.SIGINT)):
        code = child.wait()
        if code < 0:  # a killed one leaves behind what it started, such as Prefect's embedded server
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
        return code


def describe(pid: int) -> str:
    """Who a process is, for messages that name the holder of a lock: `process 123 (dvc repro, since 14:03)`.

    Without the brackets where it is gone or belongs to another user.
    """
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
    except psutil.Error:  # another user's: it lives
        return True


def with_variable(name: str, value: str) -> list[int]:
    """The processes of this machine, other than this one, that were started with a variable of that value.

    Another user's, whose environment cannot be read, are not found.
    """
    import psutil

    pids = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(name) == value:
                pids.append(process.pid)
    return pids


def _short(words: list[str]) -> str:
    """A command without the interpreter's and the folder's names."""
    shown = [word.rsplit("/", 1)[-1] for word in words[:6]]
    if shown and shown[0].startswith("python"):
        shown = shown[1:]
    return " ".join(word for word in shown if word not in ("-m", "-I", "-u"))[:80]
