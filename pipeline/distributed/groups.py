"""Ranks, collectives and wrappers: the only module that knows torch.distributed."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.distributed import ends
from pipeline.distributed.nodes import TORCHRUN, this_node
from pipeline.errors import InputError

V = TypeVar("V")


@contextlib.contextmanager
def exchange() -> Iterator[None]:
    """An exchange with other ranks: an error inside comes of them or of the network.

    Raises:
        PeerLost: the exchange failed.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # what Gloo raises; NCCL's and the store's errors are of this kind too
        raise lost(error) from error


def lost(error: BaseException) -> ends.PeerLost:
    """What is said of an exchange that failed."""
    reason = str(error).partition("\n")[0][:300]
    return ends.PeerLost(f"an exchange with the other ranks failed: {reason}. Cure: start again to continue.")


@dataclass(frozen=True)
class Ranks:
    """Who this process is among the ranks, and the few collectives that training needs."""

    rank: int
    world: int
    local_rank: int
    device: torch.device

    @property
    def main(self) -> bool:
        return self.rank == 0

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in place. No host synchronisation on CUDA."""
        if self.world > 1:
            with exchange():
                dist.all_reduce(tensor)
        return tensor

    def gather(self, value: V) -> list[V]:
        """Every rank's picklable value, in rank order, on every rank."""
        if self.world == 1:
            return [value]
        values = [value] * self.world
        with exchange():
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: V) -> V:
        """Rank 0's picklable value on every rank."""
        if self.world == 1:
            return value
        box = [value]
        with exchange():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        if self.world > 1:
            with exchange():
                dist.barrier()


def choose_device(wanted: Literal["auto", "cpu", "cuda"], local_rank: int = 0) -> torch.device:
    """The device of a rank.

    Raises:
        InputError: CUDA is asked for and absent, or has fewer devices than ranks.
    """
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise InputError("compute.device = 'cuda' but no CUDA device is visible. Cure: set compute.device to 'auto'.")
    if wanted == "cpu" or not available:
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"rank {local_rank} of this machine has no GPU: {torch.cuda.device_count()} visible. "
            "Cure: lower compute.ranks to the number of GPUs."
        )
    return torch.device("cuda", local_rank)


def start(device: Literal["auto", "cpu", "cuda"] = "auto", timeout_seconds: float = 1800.0) -> Ranks:
    """Join the process group that torchrun describes in the environment; a lone process needs none.

    Args:
        timeout_seconds: after this long a collective that a peer never joined raises instead of hanging.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = choose_device(device, local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world > 1:
        if int(os.environ.get("LOCAL_WORLD_SIZE", world)) == world:
            # One machine: loopback always works, where a host name may resolve to nothing.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        with exchange():
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
    return Ranks(rank, world, local_rank, chosen)


def alone(device: torch.device) -> None:
    """A process group of this process only, which needs no network: sharding asks for a group even then."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)


def finish() -> None:
    """Leave the process group, where there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def parallel(model: nn.Module, ranks: Ranks, how: Literal["ddp", "fsdp"], half: torch.dtype | None = None) -> nn.Module:
    """Wrap for data parallelism: DDP replicates, FSDP2 shards parameters, gradients and moments.

    `model` is changed in place by FSDP2 (its parameters become DTensors) and left alone by DDP. One process
    with DDP needs no wrapper and gets none.

    Args:
        half: with FSDP2, the type in which parameters are gathered; reductions stay in fp32.
    """
    if how == "fsdp":
        return _shard(model, ranks, half)
    if ranks.world == 1:
        return model
    ids = [ranks.device.index] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True, forward_sync_buffers=False)


def _shard(model: nn.Module, ranks: Ranks, half: torch.dtype | None) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if not dist.is_initialized():
        raise InputError("compute.data_parallel = 'fsdp' needs several ranks. Cure: raise compute.ranks, or use ddp.")
    mesh = init_device_mesh(ranks.device.type, (ranks.world,))
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
    for name, module in list(model.named_modules()):
        if name.rsplit(".", 1)[-1] == "blocks" and isinstance(module, (nn.ModuleList, nn.Sequential)):
            for block in module:
                fully_shard(block, mesh=mesh, mp_policy=policy)
    return cast(nn.Module, fully_shard(model, mesh=mesh, mp_policy=policy))


def forget_gathered(model: nn.Module) -> None:
    """Let a sharded model gather its parameters anew for the next forward pass.

    FSDP2 keeps the outermost module's gathered from a forward pass to its backward pass, and a validation has none.
    """
    if (reshard := getattr(model, "reshard", None)) is not None:
        reshard()


@contextlib.contextmanager
def reduce_gradients(model: nn.Module, when: bool) -> Iterator[None]:
    """Inside, backward exchanges gradients only if `when`: once per optimizer step, not per micro-batch.

    Raises:
        PeerLost: the exchange failed, where the backend tells (Gloo's RuntimeError may as well be the model's own).
    """
    synchronised: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if isinstance(model, DistributedDataParallel):
        synchronised = synchronised if when else model.no_sync()
    elif (switch := getattr(model, "set_requires_gradient_sync", None)) is not None:
        switch(when)
    try:
        with synchronised:
            yield
    except dist.DistError as error:
        raise lost(error) from error


def waiting_share(model: nn.Module) -> float | None:
    """The share of its synchronising backward passes for which a rank only waited for gradients of others.

    From DDP's own timers (the first ten steps and every hundredth): 0 where the exchange hides behind the computation
    or there is none; None under FSDP, whose gathers are part of forward and backward (a trace tells them apart).
    """
    if not isinstance(model, DistributedDataParallel):
        return None if hasattr(model, "set_requires_gradient_sync") else 0.0
    times = model._get_ddp_logging_data()
    computing = float(times.get("avg_backward_compute_time", 0))
    waiting = float(times.get("avg_backward_comm_time", 0)) - float(
        times.get("avg_backward_compute_comm_overlap_time", 0)
    )
    return max(waiting, 0.0) / (computing + waiting) if computing > 0 else 0.0


# DTensor is imported only where tensors are sharded: it takes seconds, which every rank would pay at its
# start.


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor gathered from all ranks (a collective), any other as it is."""
    return cast(torch.Tensor, tensor.full_tensor()) if hasattr(tensor, "full_tensor") else tensor


def like(value: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """`value` (whole, the same on all ranks) laid out as `reference`: sharded, or moved to its device."""
    if hasattr(reference, "device_mesh"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        sharded = cast(DTensor, reference)
        mesh = sharded.device_mesh
        return distribute_tensor(value.to(mesh.device_type), mesh, sharded.placements)
    return value.to(reference.device)


def torchrun(arguments: list[str] | None = None) -> int:
    """torch.distributed.run without the tracebacks that it prints about signals and failed ranks.

    The ranks keep records of their own ends in the folder after `--work`, which the launcher reads; of a rank that died
    without one the exit code is recorded here: not of those that torchrun itself ended after the first failure.
    """
    import logging

    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = sys.argv[1:] if arguments is None else arguments
    logging.disable(logging.ERROR)
    os.environ[TORCHRUN] = str(os.getpid())
    try:
        run.main(arguments)
    except SignalException:
        return 1
    except ChildFailedError as error:
        work = Path(arguments[arguments.index("--work") + 1])
        node = this_node()
        for rank, failure in error.failures.items():
            if not ends.file(work, rank, node).exists():
                ends.record_or_say(work, ends.RankEnd.without_a_word(rank, failure.exitcode), node)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(torchrun())
