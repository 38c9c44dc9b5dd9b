"""Which of several machines this is, read from the environment that torchrun itself reads.

    PET_NNODES=2  PET_NODE_RANK=0..1  PET_MASTER_ADDR=<host of node 0>  PET_MASTER_PORT=29400

Every node starts the same command on a shared folder, or a job of SLURM starts it on each (pipeline.distributed.node).
Node 0 tracks and publishes; the others lend their ranks. The rendezvous is torch's c10d: node 0 listens, and which node
gets which ranks is drawn there, so that rank 0 need not be on node 0. PET_RDZV_ID tells one training from another on a
port, PET_LOCAL_ADDR is where the others reach this node (its full name where it is not set).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipeline.errors import InputError

PORT = 29400
#: In the environment of ranks: the process number of the torchrun that started them.
TORCHRUN = "EVEREST_TORCHRUN"


@dataclass(frozen=True)
class Node:
    """One of `count` machines; `address` and `port` are where node 0 listens."""

    count: int = 1
    rank: int = 0
    address: str = "127.0.0.1"
    port: int = PORT
    rendezvous: str = "everest"

    @property
    def main(self) -> bool:
        return self.rank == 0

    def named(self, name: str) -> str:
        """A file's name, of its own for each node but the first."""
        stem, dot, suffix = name.partition(".")
        return name if self.main else f"{stem}-node-{self.rank}{dot}{suffix}"

    def torchrun(self) -> list[str]:
        """torchrun's arguments for finding the other nodes."""
        if self.count == 1:
            return ["--standalone"]
        return [
            f"--nnodes={self.count}", "--rdzv-backend=c10d", f"--rdzv-endpoint={self.address}:{self.port}",
            f"--rdzv-id={self.rendezvous}", f"--rdzv-conf=is_host={'true' if self.main else 'false'}",
        ]  # fmt: skip


def this_node() -> Node:
    """This machine's place; the only one where PET_NNODES is not set.

    Raises:
        InputError: the variables do not fit together.
    """
    count = _number("PET_NNODES", 1)
    if count == 1:
        return Node()
    rank = _number("PET_NODE_RANK", None)
    if not 0 <= rank < count:
        raise InputError(f"PET_NODE_RANK = {rank} with PET_NNODES = {count}: expected 0 to {count - 1}.")
    address = os.environ.get("PET_MASTER_ADDR")
    if not address:
        raise InputError(
            f"PET_NNODES = {count} but PET_MASTER_ADDR is not set. Cure: set it on every node to the host of node 0, "
            "or let SLURM do it (compute.launcher: slurm)."
        )
    return Node(count, rank, address, _number("PET_MASTER_PORT", PORT), os.environ.get("PET_RDZV_ID", "everest"))


def _number(name: str, default: int | None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdigit() or (name == "PET_NNODES" and text == "0"):
        raise InputError(
            f"{name} = {text!r}: expected a whole number. Cure: set it on every node, or let SLURM do it "
            "(compute.launcher: slurm)."
        )
    return int(text)
