"""What a look of the monitor costs on this device, and that a watched step waits for nothing.

    python scripts/monitor_cost.py [--device cuda|cpu] [--batch 128]

K400's recipe and its base model on a GPU (sizes of a rehearsal on a CPU), with clips from memory: time of a training
step, of a short and of a long look, and how many of them an hour has room for at 2 %.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from pipeline.bench.gpu.setting import Training, params_of, setting_of, task_of, textures
from pipeline.distributed.heartbeat import Pulse
from pipeline.monitor.build import pretraining_monitor
from pipeline.monitor.monitor import Monitor
from pipeline.monitor.monitor import Training as Watched
from pipeline.monitor.schedule import Next
from pipeline.training.journal import NoSink
from pipeline.training.settings import HALF
from pipeline.training.tasks import PretrainTask


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=128)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(json.dumps(measured(chosen.device, chosen.batch, Path(folder)), indent=1) + "\n")
    return 0


def measured(device: str, batch: int, out: Path) -> dict[str, object]:
    """[s] of a step and of both kinds of looks, and what follows for an hour."""
    setting = setting_of(device, out, time.monotonic() + 3600)
    size = setting.sizes[0]
    batch = batch if setting.cuda else 4
    params = params_of(setting, size, batch, pretrain__monitor__feature_clips=256, pretrain__monitor__heldout_clips=64)
    source = textures(setting, 64 if setting.cuda else 8)
    task = task_of(setting, "pretrain", params, source, times=-(-24 * batch // len(source)))
    assert isinstance(task, PretrainTask)
    training = Training(setting, task)
    engine = training.engine
    watcher = pretraining_monitor(
        params,
        Watched(1000, 0, 1.0),
        100,
        task.dataset,
        (task.name, task.arguments),
        HALF.get(task.stage.precision),
        setting.ranks,
        training.work,
        sink=NoSink(),
        remark=lambda text: None,
        pulse=Pulse(None),
    )
    assert isinstance(watcher, Monitor)
    engine.monitor = watcher
    watcher.rewind(0, engine.spent.pace)
    engine._look()  # compiles kernels
    training.losses(5)
    held, features = len(watcher.clips.heldout), sum(len(one.clips) for one in watcher.clips.sets)
    seconds = {}
    for name, long in (("short", False), ("long", True)):
        took = []
        for _ in range(3):
            watcher._next = Next(engine.step, long)
            began = time.perf_counter()
            engine._look()
            took.append(time.perf_counter() - began)
        seconds[name] = min(took)
    if setting.cuda:
        torch.cuda.set_sync_debug_mode("error")
    for _ in range(3):
        engine._train_step(training.batches, 0)
        engine.step += 1
    if setting.cuda:
        torch.cuda.set_sync_debug_mode("default")
    engine._settle(0, at_once=True)
    began = time.perf_counter()
    training.losses(10)
    step = (time.perf_counter() - began) / 10
    name = torch.cuda.get_device_name(0) if setting.cuda else "cpu"
    return {
        "device": name, "size": size, "batch": batch, "step_seconds": step, "heldout_clips": held,
        "feature_clips": features, "short_look_seconds": seconds["short"], "long_look_seconds": seconds["long"],
        "long_looks_an_hour_at_2_percent": 0.75 * 0.02 * 3600 / seconds["long"],
        "short_looks_an_hour_at_2_percent": 0.25 * 0.02 * 3600 / seconds["short"],
        "watched_steps_without_a_sync": 3, "loss": engine.last_loss, "newest": watcher.record.newest,
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
