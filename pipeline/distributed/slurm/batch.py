"""What runs in a job on its first node: starts the nodes' ranks, and decides what becomes of the job when they end.

    python -m pipeline.distributed.slurm.batch --work DIR -- COMMAND...

    signal     from                                               ranks    then
    SIGUSR1    SLURM, before the turn's time is up (--signal=B:)  save     the job goes back into the queue, if the turn
                                                                           got on at all
    SIGINT     the stage that submitted the job, told to stop     save     the job ends as cancelled
    SIGTERM    SLURM: preemption, `scontrol requeue`, `scancel`   save     SLURM does as it said

SLURM itself sends its SIGTERM to the ranks, too; the other two are passed on to them from here.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from pipeline.distributed import ends
from pipeline.distributed.slurm import client
from pipeline.distributed.slurm.follow import newest_state
from pipeline.errors import EverestError, Interrupted
from pipeline.system.processes import StopRequest, stop_handled
from pipeline.system.text import visible

#: Where torch's rendezvous listens on the first node: an own port for each job of a machine that nodes share.
PORT = 29400
#: [s] between two looks at the ranks; between two attempts to pass a signal on to them.
POLL_SECONDS, AGAIN_SECONDS = 0.2, 1.0


def main() -> int:
    """The exit code of the batch script: that of the worst node."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    job, nodes = int(os.environ["SLURM_JOB_ID"]), int(os.environ["SLURM_JOB_NUM_NODES"])
    stop = StopRequest()
    with stop_handled(stop.note):
        _say(f"turn {int(os.environ.get('SLURM_RESTART_COUNT', '0')) + 1} of job {job}, {nodes} node(s)")
        ends.forget_stated(arguments.work)
        before = newest_state(arguments.work)
        command = ["srun", "--kill-on-bad-exit=0", "--export=ALL", "--unbuffered", *arguments.command]
        child = subprocess.Popen(command, env=_environment(job, nodes), start_new_session=True)
        notice = client.Notice(job, "USR1")
        while child.poll() is None:
            time.sleep(AGAIN_SECONDS if stop.signal else POLL_SECONDS)
            if stop.signal in ("SIGUSR1", "SIGINT"):
                notice.send(_say)
    if child.returncode == 0:
        return 0
    if stop.signal == "SIGUSR1" and newest_state(arguments.work) == before:
        if notice.taken:
            _say("the turn's time was up before a step was done: compute.slurm.hours is too short")
    elif stop.signal == "SIGUSR1":
        refused = client.requeue(job)
        if refused is None:
            time.sleep(client.ANSWER_SECONDS)  # SLURM ends this script
        _say(f"SLURM does not take job {job} back into its queue: {refused}")
    elif stop.signal == "SIGINT":
        client.cancel(job)
        time.sleep(client.ANSWER_SECONDS)
    return Interrupted.exit_code if stop.signal else abs(child.returncode) or EverestError.exit_code


def _environment(job: int, nodes: int) -> dict[str, str]:
    """torchrun's own variables; each node adds its number (pipeline.distributed.node)."""
    turn = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    rendezvous = {
        "PET_NNODES": str(nodes),
        "PET_MASTER_ADDR": client.address(os.environ["SLURMD_NODENAME"]),
        "PET_MASTER_PORT": str(PORT + job % 1000),
        "PET_RDZV_ID": f"{job}-{turn}",
    }
    # What sbatch was told of CPUs for each task holds for srun as well, which since 22.05 no longer reads it itself.
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")
    return {**os.environ, **rendezvous, **({"SRUN_CPUS_PER_TASK": cpus} if cpus else {})}


def _say(text: str) -> None:
    sys.stderr.write(f"ranks: {visible(text)}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
