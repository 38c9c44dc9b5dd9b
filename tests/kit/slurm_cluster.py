"""A real SLURM of two nodes on this machine: munged, slurmctld and two slurmds, all in one folder.

Debian's `slurm-wlm` and `munge` are all it needs. Each node offers two CPUs and two GPUs that SLURM only
counts. Jobs that are put back into the queue wait 2 s instead of SLURM's two minutes.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ports import free_ports

from pipeline.system.processes import die_with_parent

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue")
NODES = ("n1", "n2")

CONFIGURATION = """
ClusterName=everest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
KillWait=30
InactiveLimit=0
MinJobAge=300
SchedulerParameters=sched_interval=2,batch_sched_delay=0
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=1000 Gres=gpu:2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=1000 Gres=gpu:2
PartitionName=train Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10
"""


def missing() -> str | None:
    """Why there can be no cluster here; None where there can."""
    absent = [name for name in PROGRAMS if _find(name) is None]
    return f"SLURM is not installed (no {', '.join(absent)}): apt-get install slurm-wlm munge" if absent else None


def _find(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@dataclass
class Cluster:
    """A running cluster; `environment` is what SLURM's commands need to find it."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *command: str) -> str:
        """What one of SLURM's commands prints.

        Raises:
            RuntimeError: it failed.
        """
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def start_node(self, name: str) -> None:
        self._start(name, "slurmd", "-D", "-N", name, "-f", str(self.folder / "slurm.conf"))

    def kill_node(self, name: str) -> None:
        """As if the machine lost its power: slurmd, and every process of jobs on it."""
        node = self.processes.pop(name)
        node.kill()
        node.wait()
        for pid in _of_node(name, self.folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait_idle(self, seconds: float = 60.0) -> None:
        """Until no job is there and every node is idle."""
        _until(lambda: not self.ask("squeue", "-h").strip() and self._states() == {"idle"}, seconds, "idle nodes")

    def empty(self) -> None:
        """End all jobs, and wait until the nodes are free."""
        for job in self.ask("squeue", "-h", "-o", "%i").split():
            self.ask("scancel", "--signal=KILL", "--full", job)
            self.ask("scancel", job)
        self.wait_idle()

    def _states(self) -> set[str]:
        return set(self.ask("sinfo", "-h", "-N", "-o", "%T").split())

    def _start(self, name: str, program: str, *arguments: str) -> None:
        path = _find(program)
        assert path is not None
        log = (self.folder / f"{name}.out").open("ab")
        self.processes[name] = subprocess.Popen(
            [path, *arguments], env=os.environ | self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )  # fmt: skip

    def begin(self) -> None:
        folder = self.folder
        user, host = getpass.getuser(), socket.gethostname().split(".")[0]
        (folder / "state").mkdir()
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        text = CONFIGURATION.format(folder=folder, user=user, host=host, ports=free_ports(3))
        (folder / "slurm.conf").write_text(text)
        for number in range(2):
            (folder / f"gpu{number}").touch()
        (folder / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu File={folder}/gpu[0-1]\n")
        names = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid", "log-file": "munge.log"}
        options = [f"--{option}={folder / name}" for option, name in names.items()]
        self._start("munged", "munged", "--foreground", "--force", f"--seed-file={folder / 'munge.seed'}", *options)
        _until((folder / "munge.socket").exists, 20, "munged's socket")
        self._start("slurmctld", "slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        for name in NODES:
            self.start_node(name)
        self.wait_idle()

    def end(self) -> None:
        with contextlib.suppress(RuntimeError, TimeoutError, subprocess.TimeoutExpired):
            self.empty()
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster that lives as long as the block; its files are in `folder`, with short names for its sockets."""
    cluster = Cluster(folder)
    try:
        cluster.begin()
        yield cluster
    finally:
        cluster.end()


def _of_node(name: str, folder: Path) -> list[int]:
    """Processes of jobs on one node of this cluster: its slurmstepds, and what runs below them."""
    import psutil

    found: list[int] = []
    for process in psutil.process_iter(["name", "cmdline"]):
        with contextlib.suppress(psutil.Error):
            if process.info["name"] != "slurmstepd":
                continue
            variables = [child.environ() for child in process.children()]
            if any(
                v.get("SLURMD_NODENAME") == name and v.get("SLURM_CONF") == str(folder / "slurm.conf")
                for v in variables
            ):
                found += [process.pid, *(child.pid for child in process.children(recursive=True))]
    return found


def _until(what, seconds: float, name: str) -> None:  # type: ignore[no-untyped-def]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(RuntimeError):
            if what():
                return
        time.sleep(0.2)
    raise TimeoutError(f"no {name} within {seconds:g} s")
