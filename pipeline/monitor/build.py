"""From params to the monitor of a pre-training, or to none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.efficiency.meters import memory_share
from pipeline.monitor.record import FILE
from pipeline.monitor.watch import NoWatcher, Watcher

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from models.info import ModelArguments
    from pipeline.data.clips.dataset import ClipDataset
    from pipeline.distributed.groups import Ranks
    from pipeline.distributed.heartbeat import Pulse
    from pipeline.monitor.monitor import Sink, Training
    from pipeline.params import Params


def pretraining_monitor(
    params: Params,
    training: Training,
    steps_per_epoch: int,
    corpus: ClipDataset,
    model: tuple[str, ModelArguments],
    half: torch.dtype | None,
    ranks: Ranks,
    work: Path,
    *,
    sink: Sink,
    remark: Callable[[str], None],
    pulse: Pulse,
) -> Watcher:
    """The monitor that `pretrain.monitor` describes.

    Args:
        corpus: what is trained on.
        model: name and arguments of the autoencoder.
        half: the type of the training's products; None: fp32.
    """
    own = params.pretrain.monitor
    if own.unit == "off":
        if ranks.main:  # of before it was turned off: it would be read as what holds now
            (work / FILE).unlink(missing_ok=True)
        return NoWatcher()
    from pipeline.monitor.clips import monitored_clips
    from pipeline.monitor.monitor import Monitor, Voice
    from pipeline.monitor.schedule import Schedule
    from pipeline.monitor.twin import Twin

    grid = max(1, round(own.every * steps_per_epoch)) if own.unit == "epochs" else None
    return Monitor(
        training,
        Schedule(training.steps, grid, own.every, own.max_cost),
        own.health,
        monitored_clips(params, corpus),
        Twin(*model, params.clip.resolution, ranks.device, half),
        ranks,
        work,
        Voice(sink, remark, lambda step: pulse.beat("looking", step), lambda: memory_share(ranks.device)),
    )
