"""What a training cost, gathered from all ranks: time and its parts, throughput, memory, MFU, energy."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from models.backbone import Backbone
from pipeline.distributed.groups import Ranks, waiting_share
from pipeline.efficiency.clip_cost import counted_cost
from pipeline.efficiency.meters import EnergyMeter, mfu, peak_flops, peak_memory_gib
from pipeline.tracking import names

if TYPE_CHECKING:
    import torch

    from models.cost import Cost
    from pipeline.training.engine import Engine
    from pipeline.training.engine.state import Spent
    from pipeline.training.tasks import TrainingTask

#: The parts of a step in words, and in the names of their shares.
PART_LABELS = {
    "loader": "loader_wait", "forward": "forward", "backward": "backward",
    "communication": "communication", "optimizer": "optimizer", "other": "other",
}  # fmt: skip


class ProcessMeter:
    """What this process has taken since it was last asked, from a moment on."""

    def __init__(self, began: float, device: torch.device) -> None:
        self._asked, self._energy = began, EnergyMeter(device)

    def taken(self) -> tuple[float, float | None]:
        """Seconds and Wh; None for the latter where nothing counts them."""
        seconds, self._asked = time.perf_counter() - self._asked, time.perf_counter()
        return seconds, self._energy.taken()


def measured(engine: Engine, task: TrainingTask, ranks: Ranks) -> dict[str, float]:
    """The run's metrics (a collective), all processes that have worked on it together.

    Rates and parts leave out the first step after each start. The parts are shares of the step's time: of the rank that
    waited longest for its loader, and means over ranks for the others. What has no figure (energy without a counter,
    MFU of an unknown GPU, communication under FSDP) is absent.
    """
    spent = engine.spent
    spent.add_process(*engine.taken())
    everyone = ranks.gather(
        (spent.clips, peak_memory_gib(ranks.device), shares(spent, waiting_share(engine.train_step.parallel),
         engine.settings.accumulate), spent.energy_wh, peak_flops(ranks.device, engine.settings.precision))
    )  # fmt: skip
    clips, memory, parts, energies, peaks = zip(*everyone, strict=True)
    cost = cost_of(task)
    metrics = {
        names.TRAIN_LOSS: engine.last_loss,
        names.TRAIN_STEPS: float(engine.step),
        names.TRAIN_NONFINITE_STEPS: float(engine.nonfinite),
        **engine.journal.scores,
        **engine.monitor.metrics(),
        names.GMACS_PER_CLIP: cost.multiply_adds / 1e9,
        names.TOKENS_PER_CLIP: float(cost.encoder_tokens),
        names.PEAK_MEMORY_GIB: max(memory),
        names.efficiency("checkpoint_wait_fraction"): spent.save / max(spent.train + spent.save, 1e-9),
        names.efficiency("train_seconds"): spent.first + spent.train,
        names.efficiency("first_step_seconds"): spent.first,
        names.efficiency("validate_seconds"): spent.validate,
        names.WALL_SECONDS: spent.wall,
        names.efficiency("world_size"): float(ranks.world),
    }
    if spent.steps:
        rate = sum(clips) / spent.train
        metrics |= {
            names.efficiency("step_seconds"): spent.train / spent.steps,
            names.CLIPS_PER_SECOND: rate,
            names.efficiency("tokens_per_second"): rate * cost.encoder_tokens,
        }
        for part in parts[0]:
            each = [share[part] for share in parts]
            name = names.efficiency(f"{PART_LABELS[part]}_fraction")
            metrics[name] = max(each) if part == "loader" else sum(each) / len(each)
        if all(peak is not None for peak in peaks):
            metrics[names.efficiency("mfu")] = mfu(cost.multiply_adds / 1e9, rate, sum(peaks), task.passes)
    if all(energy is not None for energy in energies):
        # RAPL counts a whole package for every rank of a machine; NVML counts each GPU for its own rank.
        metrics[names.ENERGY_WH] = sum(energies) if ranks.device.type == "cuda" else max(energies)
    return {name: value for name, value in metrics.items() if value == value}


def cost_of(task: TrainingTask) -> Cost:
    """The mean of what this rank's clips cost; as predicted where all clips keep the same number of tokens."""
    network = next(module for module in task.model.modules() if isinstance(module, Backbone))
    return counted_cost(task.cost, network, task.clip.frames, task.clip.resolution)


def shares(spent: Spent, waiting: float | None, accumulate: int) -> dict[str, float]:
    """Each part's share of the step's time; they add up to 1 with `other` (launching work, logging).

    Args:
        waiting: share of a synchronising backward pass that was waiting; one of `accumulate` passes synchronises.
    """
    total = max(spent.train, 1e-9)
    hidden = spent.backward * (waiting or 0.0) / accumulate
    parts = {
        "loader": spent.loader,
        "forward": spent.forward,
        "backward": spent.backward - hidden,
        "communication": spent.communication + hidden,
        "optimizer": spent.optimizer,
    }
    parts["other"] = max(total - sum(parts.values()), 0.0)
    if waiting is None:
        del parts["communication"]
    return {part: seconds / total for part, seconds in parts.items()}


def sentence(label: str, metrics: dict[str, float]) -> str:
    """The end of a training in a few lines for the terminal; what was not measured is not in them."""

    def words(name: str, text: str, factor: float = 1.0) -> list[str]:
        value = metrics.get(names.efficiency(name))
        return [] if value is None else [text.format(factor * value)]

    cost = [
        *words("step_seconds", "{:.4g} s a step"),
        *words("clips_per_second", "{:.4g} clips/s"),
        *words("tokens_per_second", "{:.4g} tokens/s"),
        *words("mfu", "MFU {:.1f} %", 100),
        *words("peak_memory_gib", "peak memory {:.2f} GiB"),
        *(words("energy_wh", "energy {:.3f} Wh") or ["energy not measured: no counter that may be read"]),
    ]
    split = [
        text for part, name in PART_LABELS.items() for text in words(f"{name}_fraction", f"{part} {{:.1f}} %", 100)
    ]
    return f"{label}: {', '.join(cost)}" + (f"\n{label}: of a step {', '.join(split)}" if split else "")
