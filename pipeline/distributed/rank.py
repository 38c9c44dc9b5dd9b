"""One rank's life: ready for signals before anything slow, an account of its end whatever happens."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.distributed import ends
from pipeline.distributed.heartbeat import Pulse
from pipeline.distributed.nodes import TORCHRUN, this_node
from pipeline.errors import EverestError, Interrupted
from pipeline.system.disk import DiskFullError, is_full
from pipeline.system.processes import StopRequest, die_with_parent, on_stop
from pipeline.system.redact import guard_output

if TYPE_CHECKING:
    from pipeline.distributed.groups import Ranks


def live(work: Path, body: Callable[[Ranks, Pulse, StopRequest], None], device: str = "auto") -> int:
    """Join the other ranks and run `body`; returns the exit code.

    Stop signals are noted from the first moment. SIGUSR2 writes all stacks of this process to
    `stacks/rank-<n>.txt`, even while it spins in C code. The kernel kills this process when its launcher
    ends.
    """
    stop = StopRequest()
    on_stop(stop.note)
    # By its number: a torchrun that ended while this process was still importing is its parent no more.
    torchrun = int(os.environ.get(TORCHRUN, "0")) or None
    die_with_parent(signal.SIGKILL if "TORCHELASTIC_RUN_ID" in os.environ else signal.SIGTERM, torchrun)
    rank, node = int(os.environ.get("RANK", "0")), this_node()
    pulse = Pulse(work / node.named("beats"), int(os.environ.get("LOCAL_RANK", "0")), rank)
    (work / "stacks").mkdir(exist_ok=True)
    guard_output(f"rank {rank}: ")
    with (work / "stacks" / f"rank-{rank}.txt").open("w") as stacks:
        faulthandler.register(signal.SIGUSR2, file=stacks, all_threads=True)
        faulthandler.enable()
        error: BaseException | None = None
        try:
            from pipeline.distributed import groups as distributed

            ranks = distributed.start(device)  # type: ignore[arg-type]
            body(ranks, pulse, stop)
        except BaseException as caught:  # noqa: BLE001 - recorded, and told by the exit code
            error = caught
            if is_full(caught) and not isinstance(caught, EverestError):
                error = DiskFullError(getattr(caught, "filename", None) or work)
        unrecorded = ends.record_or_say(work, ends.RankEnd.of(rank, pulse.step, error), node)
        error = error or unrecorded  # nobody could tell that it is done
        pulse.beat("finished", pulse.step)
        faulthandler.unregister(signal.SIGUSR2)
    return _leave(error)


def _leave(error: BaseException | None) -> int:
    """After an error, end without the interpreter's shutdown: it could wait for peers that never come."""
    if error is None:
        from pipeline.distributed import groups as distributed

        distributed.finish()
        return 0
    if isinstance(error, Interrupted):
        code = 0
    else:
        code = 2 if isinstance(error, ValueError) and isinstance(error, EverestError) else 1
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(code)
