"""A rank without torch, for tests of the launcher: `python -m tests.pipeline.training.puppet HOW --work DIR`."""

import os
import signal
import sys
from pathlib import Path

from pipeline.distributed import ends
from pipeline.errors import InputError

how, work = sys.argv[1], Path(sys.argv[3])
with (work / "starts").open("a") as starts:
    starts.write("x")
if how == "die":
    os.kill(os.getpid(), signal.SIGKILL)
errors = {"fail": RuntimeError("a bug"), "mistake": InputError("x = 1. Cure: 2."), "done": None}
if how in errors:
    ends.record(work, ends.RankEnd.of(0, 4, errors[how]))
