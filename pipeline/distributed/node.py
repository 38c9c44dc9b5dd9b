"""One machine's ranks of a training that several share: `python -m pipeline.distributed.node --work DIR ... MODULE`.

What `srun` starts on each node of a job. The machine's number and address come from SLURM.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.distributed.launch import Watch, launch, locked
from pipeline.distributed.slurm import client
from pipeline.errors import EverestError, Interrupted
from pipeline.system.redact import guard_output, redact
from pipeline.system.text import visible


@dataclass(frozen=True)
class Plan:
    """What each machine runs, as one command line.

    Args:
        ranks: of each machine.
        threads: CPU threads of a rank; None shares the cores out.
    """

    module: str
    arguments: tuple[str, ...]
    work: Path
    ranks: int
    threads: int | None
    watch: Watch

    def command(self) -> list[str]:
        return [
            sys.executable, "-m", "pipeline.distributed.node", f"--work={self.work}", f"--ranks={self.ranks}",
            *([f"--threads={self.threads}"] if self.threads else []),
            f"--stall-seconds={self.watch.stall_seconds}", f"--max-restarts={self.watch.max_restarts}",
            self.module, *self.arguments,
        ]  # fmt: skip

    @classmethod
    def parse(cls, words: list[str]) -> Plan:
        """The plan of a command line that :meth:`command` made."""
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--work", type=Path, required=True)
        parser.add_argument("--ranks", type=int, required=True)
        parser.add_argument("--threads", type=int)
        parser.add_argument("--stall-seconds", type=float, required=True)
        parser.add_argument("--max-restarts", type=int, required=True)
        parser.add_argument("module")
        parser.add_argument("arguments", nargs=argparse.REMAINDER)
        parsed = parser.parse_args(words)
        watch = Watch(parsed.stall_seconds, parsed.max_restarts)
        return cls(parsed.module, tuple(parsed.arguments), parsed.work, parsed.ranks, parsed.threads, watch)

    def run(self) -> None:
        """Run this machine's ranks to their end; raises as `launch` does."""
        with locked(self.work, "ranks.lock") as lock:
            launch(
                self.module, list(self.arguments), ranks=self.ranks, work=self.work, threads=self.threads, locks=[lock],
                watch=self.watch,
            )  # fmt: skip


def main() -> int:
    """The exit code of this node."""
    guard_output()
    plan = Plan.parse(sys.argv[1:])
    if "SLURM_NODEID" in os.environ:
        os.environ["PET_NODE_RANK"] = os.environ["SLURM_NODEID"]
        os.environ["PET_LOCAL_ADDR"] = client.address(os.environ["SLURMD_NODENAME"])
    try:
        plan.run()
    except EverestError as error:
        kind = "" if isinstance(error, Interrupted) else "error: "
        sys.stderr.write(f"{kind}{visible(redact(str(error)))}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
