"""Right: the device's numbers against float64 on the CPU, and switches that may not change them."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.bench import unequal
from pipeline.bench.gpu.checks import Check, expect
from pipeline.bench.gpu.float64 import (
    BOUNDS,
    Stage,
    against_float64,
    clip_of,
    gradients_of,
    loss_of,
    noise_of,
    size_of,
    small_autoencoder,
)
from pipeline.bench.gpu.setting import Setting, Training, compile_parts, params_of, resident, task_of, textures
from pipeline.bench.gpu.timing import peak_gib, reset_peak
from pipeline.bench.harness import Figures
from pipeline.training.determinism import deterministic_kernels
from pipeline.training.tasks import REPLAYED

#: Share by which the planner's memory may be off.
MEMORY = 0.10


def checks(setting: Setting) -> Iterator[Check]:
    """The checks, those that everything else stands on first."""
    stages: tuple[Stage, Stage] = ("pretrain", "finetune")
    for stage in stages:
        for precision in BOUNDS:
            check = partial(against_float64, stage=stage, precision=precision)
            yield Check(f"{stage} {precision} against float64", 5, check)
    sync = "no host sync in a step: "
    yield Check(f"{sync}pretrain", 5, partial(no_sync, stage="pretrain"))
    no_augment = partial(no_sync, stage="finetune", finetune__rand_augment=None)
    yield Check(f"{sync}finetune without RandAugment", 5, no_augment)
    yield Check(f"{sync}finetune, all augmentations", 5, partial(no_sync, stage="finetune"))
    yield Check("crops as on the CPU", 2, crops)
    yield Check("uint8 clips against normalised ones", 2, bytes_against_floats)
    yield Check("a NaN is refused on the device", 5, nan_policy)
    yield Check("exact resume", 8, partial(resume, deterministic=False))
    for stage in stages:
        check = partial(resume, deterministic=True, stage=stage)
        yield Check(f"exact resume, deterministic kernels: {stage}", 8, check)
    yield Check("compiled against eager", 25, compiled)
    yield Check("CUDA graphs against the same without", 20, graphs)
    replayed = partial(resume, deterministic=True, row_mode=REPLAYED)
    yield Check("exact resume, deterministic kernels: CUDA graphs", 20, replayed)
    yield Check("activation checkpointing", 5, recomputing)
    for stage in stages:
        yield Check(f"predicted memory: {stage}", 15, partial(memory, stage=stage))
    yield from unequal.right()
    yield Check("fp16 with loss scaling", 5, half)
    yield Check("FSDP2 on one rank against DDP", 10, sharded)


def _batch(setting: Setting) -> int:
    """Clips of a step of the engine."""
    return 8 if setting.cuda else 4


@contextlib.contextmanager
def _syncs_are_errors(setting: Setting) -> Iterator[None]:
    if not setting.cuda:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def no_sync(setting: Setting, stage: Stage, **changes: object) -> Figures:
    """The engine's own step, from the loader to the update, while every wait for the device is an error."""
    batch = _batch(setting)
    params = params_of(setting, size_of(setting), batch, **changes)
    training = Training(setting, task_of(setting, stage, params, textures(setting, batch, 3), times=8))
    training.losses(3)  # the first steps allocate and choose kernels
    engine = training.engine
    with _syncs_are_errors(setting):
        for _ in range(3):
            engine._train_step(training.batches, 0)
            engine.step += 1
    engine._settle(0, at_once=True)
    return {"steps": 3, "loss": engine.last_loss, "mode": "error" if setting.cuda else "a CPU never waits"}


def crops(setting: Setting) -> Figures:
    """Crops of smooth frames on the device and on the CPU, by grey levels."""
    from pipeline.data.pixels.fused_resize import usable
    from pipeline.data.pixels.resize import crop_resize, resize_batched, resize_by_products

    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(0, 256, (3 * setting.frames, 3, 6, 8), dtype=np.uint8)).float()
    size = (setting.height, setting.width)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bilinear").to(torch.uint8)
    clips = smooth.unflatten(0, (3, setting.frames)).permute(0, 1, 3, 4, 2).contiguous()
    side = setting.height
    boxes = np.asarray([[0, 0, side, side], [3, 5, side - 9, side - 7], [1, 2, side // 2, side // 3]])
    flips = np.asarray([False, True, False])
    expected = crop_resize(clips, boxes, setting.resolution, "cpu", flips).int()
    on_device, values = clips.to(setting.device), Figures(one_kernel=setting.cuda and usable())
    worst = 0
    for name, resize in (("resized", resize_batched), ("by_products", resize_by_products)):
        difference = (resize(on_device, boxes, setting.resolution, flips).cpu().int() - expected).abs()
        worst = max(worst, int(difference.max()))
        values[f"{name}_largest_grey_levels"] = int(difference.max())
        values[f"{name}_mean_grey_levels"] = float(difference.float().mean())
    alone = resize_batched(on_device[1:2], boxes[1:2], setting.resolution, flips[1:2])
    together = resize_batched(on_device, boxes, setting.resolution, flips)[1:2]
    same = values["alone_as_together"] = torch.equal(alone, together)
    good = worst <= 1 and (same or not values["one_kernel"])
    return expect(good, "at most one grey level, and a clip's pixels the same in any batch", values)


def bytes_against_floats(setting: Setting) -> Figures:
    """The loss of uint8 pixels, as a GPU's trainings take them, and of the normalised clip."""
    from pipeline.data.pixels.normalise import normalise

    shape = (2, setting.frames, setting.resolution, setting.resolution, 3)
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    model, noise = small_autoencoder(setting).to(setting.device), noise_of(setting, 2).to(setting.device)
    one = float(model(pixels.permute(0, 4, 1, 2, 3).to(setting.device), noise_BN=noise).detach())
    other = float(model(normalise(pixels).to(setting.device), noise_BN=noise).detach())
    error = abs(one - other) / other
    return expect(error < 1e-3, "losses within 1e-3", {"loss_uint8": one, "loss_float": other, "error": error})


def nan_policy(setting: Setting) -> Figures:
    """A step with a NaN leaves parameters and moments to the bit, and the training goes on."""
    training = resident(setting, "pretrain", params_of(setting, size_of(setting), 4))
    engine, task = training.engine, training.task
    training.losses(3)
    before = [p.detach().clone() for p in engine.parameters]
    normal = task.loss
    task.loss = lambda *arguments: normal(*arguments) * math.nan  # type: ignore[method-assign]
    training.losses(1)
    kept = all(torch.equal(p, q) for p, q in zip(engine.parameters, before, strict=True))
    task.loss = normal  # type: ignore[method-assign]
    after = training.losses(1)[0]
    good = kept and engine.nonfinite == 1 and math.isfinite(after)
    values: Figures = {"refused": engine.nonfinite, "kept_to_the_bit": kept, "loss_after": after}
    return expect(good, "one refused step, nothing changed", values)


def resume(setting: Setting, deterministic: bool, stage: Stage = "pretrain", row_mode: str | None = None) -> Figures:
    """Six steps at once, three after a checkpoint of the third, and six steps once more without any interruption.

    What differs between two uninterrupted runs is the kernels' doing, not the resume's. With `row_mode` compiled, a
    resumed training records its graphs where the other one replays them.
    """
    batch = _batch(setting)
    never = {"pretrain__checkpoint_every_steps": 10**6, "finetune__checkpoint_every_steps": 10**6}
    params = params_of(setting, "tiny" if row_mode else size_of(setting), batch, **never)
    source = textures(setting, batch, 5)

    def started(work: Path | None = None) -> Training:
        task = task_of(setting, stage, params, source, times=8)
        if row_mode:
            compile_parts(setting, task, row_mode)
        return Training(setting, task, work)

    with deterministic_kernels(deterministic):
        one = started()
        one.losses(3)
        one.engine.save()
        one.engine.checkpoints.wait()
        losses = one.losses(3)
        resumed = started(one.work)
        resumed.engine.resume()
        resumed.begin(0, micro_step=3)
        continued = resumed.losses(3)
        again = started()
        repeated = again.losses(6)[3:]
    error, of_repeat = _farthest(one, resumed), _farthest(one, again)
    same, repeats = (error == 0 and losses == continued), (of_repeat == 0 and losses == repeated)
    good, bound = (
        (same, "bit-equal parameters and losses") if deterministic else (error < 1e-2, "parameters within 1e-2")
    )
    values: Figures = {
        "equal_to_the_bit": same,
        "largest_relative_difference": error,
        "of_an_uninterrupted_repeat": of_repeat,
        "repeat_equal_to_the_bit": repeats,
        "losses": losses,
        "continued": continued,
    }
    return expect(good, bound, values)


def _farthest(one: Training, other: Training) -> float:
    """The largest relative difference of a parameter."""
    pairs = zip(one.engine.parameters, other.engine.parameters, strict=True)
    return max(float((p - q).detach().norm() / (p.detach().norm() + 1e-12)) for p, q in pairs)


def compiled(setting: Setting) -> Figures:
    """Twenty steps compiled by parts, with fullgraph, against eager ones: losses, compilations, start-up."""
    from torch._dynamo.utils import counters

    size, batch, steps = ("base", 16, 20) if setting.cuda else ("tiny", 4, 4)
    params = params_of(setting, size, batch)
    eager = resident(setting, "pretrain", params).losses(steps)
    training = resident(setting, "pretrain", params, compiled=True)
    counters.clear()
    began = time.monotonic()
    curve = training.losses(1)
    start_up, graphs = time.monotonic() - began, counters["stats"]["unique_graphs"]
    curve += training.losses(steps - 1)
    graphs_at_the_end = counters["stats"]["unique_graphs"]
    error = _largest_error(eager, curve)
    good = error < 2e-2 and graphs == graphs_at_the_end and start_up < 60
    return expect(good, "losses within 2e-2, no recompilation, start-up below 60 s", {
        "size": size, "steps": steps, "largest_loss_error": error, "graphs_after_first_step": graphs,
        "graphs_at_the_end": graphs_at_the_end, "first_step_seconds": round(start_up, 1),
    })  # fmt: skip


def graphs(setting: Setting) -> Figures:
    """Steps of changing clips and weights with rows of blocks replayed, and with the same kernels launched.

    With one micro-batch a step, and with two. On a GPU the first step warms up, the second records, the others replay.
    """
    from torch._dynamo.utils import counters

    steps = 8 if setting.cuda else 4
    values, good = Figures(size="tiny", steps=steps), True
    for micro in (1, 2):
        params = params_of(setting, "tiny", 4 * micro, pretrain__accumulate=micro)
        with deterministic_kernels(True):
            launched, replayed = (resident(setting, "pretrain", params, True, mode) for mode in ("default", REPLAYED))
            expected = launched.losses(steps)
            counters.clear()
            losses, known = replayed.losses(3), counters["inductor"]
            recorded = int(known["cudagraph_recorded_non_static_inputs"])  # 0: no graph was
            losses += replayed.losses(steps - 3)
        later, skipped = int(known["cudagraph_recorded_non_static_inputs"]) - recorded, int(known["cudagraph_skips"])
        errors = _farthest(launched, replayed), _largest_error(expected, losses)
        good = good and max(errors) < 1e-3 and later == skipped == 0 and (recorded > 0 or not setting.cuda)
        values |= {
            f"parameters_{micro}": errors[0], f"losses_{micro}": errors[1],
            f"recorded_{micro}": recorded, f"later_{micro}": later, f"skipped_{micro}": skipped,
        }  # fmt: skip
    return expect(good, "errors below 1e-3, graphs recorded in the first three steps, none later, none skipped", values)


def _largest_error(expected: Sequence[float], losses: Sequence[float]) -> float:
    return max(abs(a - b) / abs(a) for a, b in zip(expected, losses, strict=True))


def recomputing(setting: Setting) -> Figures:
    """Gradients with recomputed activations, and the memory that it saves."""
    clip, noise = clip_of(setting, 4).to(setting.device), noise_of(setting, 4).to(setting.device)

    def gradients(switch: bool) -> tuple[Tensor, float | None]:
        model = small_autoencoder(setting).to(setting.device)
        model.set_grad_checkpointing(switch)
        reset_peak(setting.device)
        with torch.autocast(setting.device.type, torch.bfloat16):
            loss = loss_of(model, clip, noise)
        loss.backward()
        return gradients_of(model), peak_gib(setting.device)

    (plain, plain_gib), (again, again_gib) = gradients(False), gradients(True)
    error = float((plain - again).norm() / plain.norm())
    values: Figures = {"gradient_error": error, "peak_gib": plain_gib, "peak_gib_recomputing": again_gib}
    return expect(error < 1e-3, "gradients within 1e-3", values)


def memory(setting: Setting, stage: Stage) -> Figures:
    """The planner's peak of a step, and what the device's allocator really gave out."""
    from pipeline.planning.stage_cost import StageCost

    size, batch = ("base", 64 if stage == "pretrain" else 16) if setting.cuda else ("tiny", 4)
    params = params_of(setting, size, batch)
    predicted = StageCost(params, None if stage == "pretrain" else "k400").memory(1).at(batch) / 2**30
    training = resident(setting, stage, params)
    held = 2 * batch * setting.frames * setting.height * setting.width * 3 / 2**30  # the benchmark's own clips
    training.losses(2)
    reset_peak(setting.device)
    training.losses(2)
    peak = peak_gib(setting.device)
    values: Figures = {"size": size, "clips": batch, "predicted_gib": round(predicted, 3), "measured_gib": None}
    if peak is None:
        return values
    error = predicted / (peak - held) - 1
    values |= {"measured_gib": round(peak - held, 3), "error_percent": round(100 * error, 1)}
    return expect(abs(error) <= MEMORY, "within 10 %", values)


def half(setting: Setting) -> Figures:
    """fp16 trains: finite losses, and the scale has found its place."""
    params = params_of(setting, size_of(setting), 4, pretrain__precision="fp16")
    training = resident(setting, "pretrain", params)
    losses = training.losses(10 if setting.cuda else 3)
    scale = float(training.engine.scaler.scale)
    values: Figures = {"first_loss": losses[0], "last_loss": losses[-1], "scale": scale}
    return expect(all(map(math.isfinite, losses)) and scale >= 1, "finite losses", values)


def sharded(setting: Setting) -> Figures:
    """Losses of one rank that shards and of one that does not."""
    from pipeline.distributed import groups

    def losses(how: str) -> list[float]:
        params = params_of(setting, size_of(setting), _batch(setting), compute__data_parallel=how)
        return resident(setting, "pretrain", params).losses(5 if setting.cuda else 3)

    groups.alone(setting.device)
    try:
        replicated, shared = losses("ddp"), losses("fsdp")
    finally:
        groups.finish()
    error = _largest_error(replicated, shared)
    return expect(error < 1e-2, "losses within 1e-2", {"largest_loss_error": error, "losses": replicated})
