"""A tiny training that trials and tests run as real ranks: `python -m tests.faults.toy --work DIR`.

A small network with dropout learns a fixed function of generated vectors. It obeys the same interfaces as the
real tasks, and misbehaves on request (`toy.json` in the work folder): NaN on one rank, a rank that hangs,
slow steps.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.distributed.groups import Ranks, waiting_share
from pipeline.distributed.heartbeat import Pulse
from pipeline.distributed.rank import live
from pipeline.system.processes import StopRequest
from pipeline.training import snapshot
from pipeline.training.engine import Engine
from pipeline.training.journal import Journal, NoSink, Progress
from pipeline.training.optim import ParameterGroup, parameter_groups
from pipeline.training.settings import Settings
from pipeline.training.snapshot import write_tensors

WIDTH = 16


@dataclass
class ToyBatch:
    values: torch.Tensor
    index_B: torch.Tensor


class ToyLoader:
    """Vectors as a function of (seed, epoch, index); each optimizer step's set does not depend on the ranks."""

    def __init__(self, size: int, global_batch: int, accumulate: int, ranks: Ranks, seed: int) -> None:
        self.size, self.global_batch, self.accumulate, self.ranks, self.seed = (
            size,
            global_batch,
            accumulate,
            ranks,
            seed,
        )
        self.micro = global_batch // ranks.world // accumulate

    @property
    def steps_per_epoch(self) -> int:
        return self.size // self.global_batch

    def epoch(self, epoch: int, start_micro_step: int = 0) -> Iterator[ToyBatch]:
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(1000 * self.seed + epoch))
        for micro in range(start_micro_step, self.steps_per_epoch * self.accumulate):
            step, part = divmod(micro, self.accumulate)
            start = step * self.global_batch + (part * self.ranks.world + self.ranks.rank) * self.micro
            index = order[start : start + self.micro]
            rows = [torch.randn(WIDTH, generator=torch.Generator().manual_seed(int(i) * 7919 + epoch)) for i in index]
            yield ToyBatch(torch.stack(rows), index)


class ToyTask:
    def __init__(self, wish: dict[str, Any], ranks: Ranks, work: Path) -> None:
        self.wish, self.ranks, self.work = wish, ranks, work
        torch.manual_seed(5)
        width = int(wish.get("width", 32))
        self.model: nn.Module = nn.Sequential(
            nn.Linear(WIDTH, width),
            nn.GELU(),
            nn.Dropout(float(wish.get("dropout", 0.1))),
            nn.Linear(width, 1),
        )
        self.loader = ToyLoader(
            int(wish.get("size", 64)),
            int(wish.get("global_batch", 8)),
            int(wish.get("accumulate", 1)),
            ranks,
            seed=3,
        )
        self.seen = 0

    def groups(self) -> list[ParameterGroup]:
        return parameter_groups(self.model, 0.05)

    def loss(self, model: nn.Module, batch: ToyBatch, epoch: int) -> torch.Tensor:
        time.sleep(float(self.wish.get("seconds", 0.0)))
        loss = F.mse_loss(model(batch.values)[:, 0], batch.values.sin().sum(dim=1))
        if self.ranks.rank == self.wish.get("rank", 1) % self.ranks.world:
            self._misbehave(batch)
            if self._once("nan_at", batch):
                loss = loss * float("nan")
        self._remember(epoch, batch)
        self.seen += 1
        return loss

    def _remember(self, epoch: int, batch: ToyBatch) -> None:
        if self.wish.get("trace"):
            with (self.work / "trace.txt").open("a") as file:
                file.write("".join(f"{epoch} {int(i)}\n" for i in batch.index_B))

    def _misbehave(self, batch: ToyBatch) -> None:
        if self._once("hang_at", batch):
            time.sleep(3600)
        if self._once("fail_at", batch):
            raise RuntimeError(self.wish["message"])
        if self._once("stop_at", batch):
            os.kill(os.getpid(), signal.SIGTERM)
        if self._once("kill_at", batch):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._once("freeze_at", batch):
            os.kill(os.getpid(), signal.SIGSTOP)

    def _once(self, what: str, _batch: ToyBatch) -> bool:
        """At the wished call, and not again after a restart unless `always`."""
        if self.wish.get(what) != self.seen:
            return False
        mark = self.work / f"did-{what}"
        if mark.exists() and not self.wish.get("always"):
            return False
        mark.touch()
        return True

    def validate(self, epoch: int, last: bool, alive: Callable[[], None]) -> dict[str, float]:
        return {}


def settings(wish: dict[str, Any]) -> Settings:
    keys = Settings.__dataclass_fields__.keys() & wish.keys()
    base: dict[str, Any] = {
        "seed": 3, "epochs": 5, "global_batch": 8, "accumulate": 1, "base_lr": 0.3, "min_lr": 1e-3,
        "warmup_epochs": 1.0, "betas": (0.9, 0.95), "eps": 1e-8, "clip_grad": None, "precision": "fp32",
        "ema_decay": None, "checkpoint_every_steps": 4, "on_nonfinite": "stop", "max_nonfinite": 3,
    }  # fmt: skip
    return Settings(**{**base, **{key: wish[key] for key in keys}})


def build(work: Path, ranks: Ranks, pulse: Pulse, stop: StopRequest) -> Engine:
    """An engine over the toy task that `work/toy.json` describes."""
    path = work / "toy.json"
    wish = json.loads(path.read_text()) if path.exists() else {}
    task = ToyTask(wish, ranks, work)
    journal = Journal(work / "history.csv" if ranks.main else None, NoSink())
    return Engine(
        task,
        settings(wish),
        ranks,
        work,
        journal=journal,
        pulse=pulse,
        stop=stop,
        progress=Progress("toy", False),
    )


def train(work: Path, ranks: Ranks, pulse: Pulse, stop: StopRequest) -> None:
    """Train to the end and leave parameters, moments and generators in `result.safetensors`."""
    engine = build(work, ranks, pulse, stop)
    engine.run()
    moments = snapshot.optimizer_tensors(engine.train_step.optimizer)
    everything = engine.result() | moments | engine.average.tensors() | snapshot.gather_rng(ranks)
    if ranks.main:
        write_tensors(work / "result.safetensors", everything)
        (work / "waiting.txt").write_text(str(waiting_share(engine.train_step.parallel)))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work
    return live(work, lambda ranks, pulse, stop: train(work, ranks, pulse, stop), "cpu")


if __name__ == "__main__":
    raise SystemExit(main())
