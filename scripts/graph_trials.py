"""Trials of a recipe on one GPU, many at once: a training's whole step, from frames to AdamW, is one CUDA graph.

    python scripts/graph_trials.py --strategies everest,tube,scratch --seeds 2,3,4,5,6 --longer 1,4,12
    python scripts/graph_trials.py --plan plans/map.yaml --longer 4

The scenes, models, optimizer, schedules, crops and batches of scripts/drawn_trials.py, with all frames on the device.
Small models are bound by launches there: a graph is one launch, and several trainings, each in a stream of its own,
fill the gaps of one another. Of the recipe differ: the noise that splits tokens is the device's, products take TF32,
and a training is not ended by patience. One line of JSON for each trial, as it ends; which test videos it named
rightly is part of it, so that trials can be compared video by video.

`--device cpu` runs the same steps without graphs, one trial after the other: a rehearsal.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from drawn_trials import RECIPE, drawn_for, finetuning, pretraining
from drawn_trials import Videos as Drawn

from models.tokens import normalised
from pipeline.data import sampling
from pipeline.data.arrays import Ints
from pipeline.data.batch import Batch
from pipeline.data.pixels import crop, fused_resize
from pipeline.data.pixels.resize import centre_boxes, resize_by_products
from pipeline.data.pixels.transforms import flips
from pipeline.map.plan import cells, load_plan
from pipeline.params import Params, load_params, with_overrides
from pipeline.params.groups import ClipParams, TrainingParams
from pipeline.planning.equal import plan
from pipeline.training.optim import parameter_groups

#: Steps that run before a graph is recorded; they are the training's first.
EAGER = 3
#: Replays between two looks at the other trials.
TURN = 24
#: Clips that are tested together.
TESTED = 512

#: What a trial is called, and what it found.
Found: TypeAlias = dict[str, object]
#: What a trial does: it yields when others may go on.
Work: TypeAlias = Generator[None, None, Found]


@dataclass(frozen=True)
class Videos:
    """Drawn videos [V,T,H,W,3] uint8 on the device, and their labels [V]."""

    frames: Tensor
    labels: Tensor

    @classmethod
    def on(cls, device: str, drawn: Drawn) -> Videos:
        return cls(drawn.frames.to(device), drawn.labels.to(device))

    @property
    def sizes_V2(self) -> Tensor:
        """Height and width of each, on the host."""
        return torch.tensor(self.frames.shape[2:4]).expand(len(self.labels), 2)


@dataclass(frozen=True)
class Tables:
    """What a training's steps read beside the frames, a row for each step, on the device."""

    rows_SB: Tensor
    starts_SB: Tensor
    boxes_SB4: Tensor
    flips_SB: Tensor
    rates_S: Tensor

    def at(self, place_1: Tensor) -> list[Tensor]:
        """The rows of one step, found on the device."""
        return [table.index_select(0, place_1)[0] for table in vars(self).values()]


def tables(
    videos: Videos, steps: int, batch: int, frames: int, seed: int, flip: float,
    rate: Callable[[int], float], boxes: Callable[[Batch], Ints],
) -> Tables:  # fmt: skip
    """The steps of a training, drawn on the host as the loader and the transforms draw them."""
    per, device = len(videos.labels) // batch, videos.frames.device
    room, drawn = videos.frames.shape[1] - frames + 1, []
    for epoch in range(-(-steps // per)):
        order = sampling.epoch_order(seed, epoch, len(videos.labels), shuffle=True)[: per * batch]
        starts = (sampling.uniforms(seed, epoch, order, "clip", 1)[:, 0] * room).astype(np.int64)
        index = torch.from_numpy(order)
        # Boxes and flips depend on sizes and samples alone; there are no pixels here.
        clips = Batch(index, videos.sizes_V2[index], index, index, index, index, seed, epoch)
        drawn.append((order, starts, boxes(clips).astype(np.int32), flips(clips, flip)))
    columns = (torch.from_numpy(np.concatenate(column)[: steps * batch]) for column in zip(*drawn, strict=True))
    rows, starts, box, mirrored = (column.unflatten(0, (steps, batch)).to(device) for column in columns)
    return Tables(rows, starts, box, mirrored, torch.tensor([rate(step) for step in range(steps)], device=device))


def cut(
    videos: Videos, frames: int, side: int, rows_B: Tensor, starts_B: Tensor, boxes_B4: Tensor, flips_B: Tensor
) -> Tensor:
    """uint8 clips [B, 3, T, side, side]."""
    numbers_BT = starts_B[:, None] + torch.arange(frames, device=rows_B.device)
    clips = videos.frames[rows_B[:, None], numbers_BT]
    if clips.device.type == "cuda":
        square = fused_resize.resize_fused(clips, boxes_B4, side, flips_B)
    else:
        square = resize_by_products(clips, boxes_B4.numpy(), side, flips_B.numpy())
    return square.permute(0, 4, 1, 2, 3)


class Replay:
    """A training whose step is one CUDA graph; on a CPU each step is called.

    Args:
        loss: of a step's clips (uint8 [B,3,T,H,W]) and the rows of their videos.
        generator: of the random numbers that `loss` draws on the device.
    """

    def __init__(
        self, model: nn.Module, videos: Videos, table: Tables, clip: ClipParams, stage: TrainingParams,
        loss: Callable[[Tensor, Tensor], Tensor], layer_decay: float = 1.0, generator: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        device = videos.frames.device
        self.videos, self.table, self.clip, self.loss, self.generator = videos, table, clip, loss, generator
        self.on_gpu = device.type == "cuda"
        groups = [
            dict(group, lr=torch.zeros((), device=device))
            for group in parameter_groups(model, stage.weight_decay, layer_decay)
        ]
        first, second = stage.betas
        self.optimizer = torch.optim.AdamW(
            groups, lr=torch.zeros((), device=device), betas=(first, second), eps=stage.eps, fused=True,
            capturable=self.on_gpu,
        )  # fmt: skip
        self.place = torch.zeros(1, dtype=torch.int64, device=device)
        self.losses = torch.zeros(len(table.rates_S), device=device)
        self.done = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def step(self) -> None:
        """The step at `place`; nothing in it waits for the device."""
        rows, starts, boxes, mirrored, rate = self.table.at(self.place)
        for group in self.optimizer.param_groups:
            group["lr"].copy_(rate * group["lr_scale"])
        self.optimizer.zero_grad(set_to_none=True)
        clips = cut(self.videos, self.clip.frames, self.clip.resolution, rows, starts, boxes, mirrored)
        loss = self.loss(clips, rows)
        loss.backward()
        self.optimizer.step()
        self.losses.index_copy_(0, self.place, loss.detach().float()[None])
        self.place += 1

    def run(self, count: int) -> Iterator[None]:
        """So many more steps; yields when others may go on."""
        end, before = self.done + count, None
        while self.done < end:
            if not self.on_gpu or self.done < EAGER:
                self.step()
                self.done += 1
                continue
            if self.graph is None:
                self.graph = self.recorded()
            turn = min(TURN, end - self.done)
            for _ in range(turn):
                self.graph.replay()
            self.done += turn
            now = torch.cuda.Event()
            now.record()
            yield
            if before is not None:  # at most two turns wait in a stream
                before.synchronize()
            before = now

    def recorded(self) -> torch.cuda.CUDAGraph:
        """The step as a graph; recording computes nothing."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        stream.synchronize()
        if self.generator is not None:
            graph.register_generator_state(self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self.step()
        return graph


def pretrained(params: Params, videos: Videos, steps: int, found: Found) -> Generator[None, None, nn.Module]:
    """The autoencoder after so many steps; `found` gets its mean losses, of each tenth of them."""
    stage, clip, device = params.pretrain, params.clip, videos.frames.device
    model, rate, tokens = pretraining(params, steps)
    model.to(device)
    generator = torch.Generator(device).manual_seed(params.seed)

    def loss(clips: Tensor, rows: Tensor) -> Tensor:
        noise = torch.rand((stage.batch, tokens), generator=generator, device=device)
        value: Tensor = model(clips, noise_BN=noise)
        return value

    def boxes(batch: Batch) -> Ints:
        return crop.multi_scale_boxes(batch, stage.scales)

    table = tables(videos, steps, stage.batch, clip.frames, params.seed, stage.flip, rate, boxes)
    training = Replay(model, videos, table, clip, stage, loss, generator=generator)
    yield from training.run(steps)
    tenths = training.losses.tensor_split(10)
    found["steps"] = steps
    found["losses"] = [round(float(part.mean()), 4) for part in tenths if len(part)]
    return model


def finetuned(
    params: Params, task: str, init: nn.Module | None, parts: tuple[Videos, Videos, Videos], found: Found
) -> Generator[None, None, None]:
    """Fine-tune to the end of the schedule; `found` gets top-1 of the weights that validated best, and of the last."""
    stage, clip = params.finetune_of(task), params.clip
    train, val, test = parts
    model, rate, per = finetuning(params, task, init, len(train.labels))
    model.to(train.frames.device)

    def loss(clips: Tensor, rows: Tensor) -> Tensor:
        logits = model(normalised(clips, channel=1)).float()
        return F.cross_entropy(logits, train.labels[rows], label_smoothing=stage.label_smoothing)

    def boxes(batch: Batch) -> Ints:
        return crop.random_resized_boxes(batch, stage.crop_scale, stage.crop_ratio)

    steps = stage.epochs * per
    table = tables(train, steps, stage.batch, clip.frames, params.seed, stage.flip, rate, boxes)
    training = Replay(model, train, table, clip, stage, loss, stage.layer_decay)
    best, right, curve = -1.0, torch.zeros(0), []
    model.train()
    while training.done < steps:
        yield from training.run(min(stage.validate_every_epochs * per, steps - training.done))
        validated = float(named_rightly(model, val, clip, 1).float().mean())
        curve.append(round(100 * validated))
        if validated > best:
            best, right = validated, named_rightly(model, test, clip, params.evaluate.segments)
        yield
    last = named_rightly(model, test, clip, params.evaluate.segments)
    found |= {
        "top1": round(100 * float(right.float().mean()), 1), "last_top1": round(100 * float(last.float().mean()), 1),
        "val": curve, "right": "".join(map(str, right.int().tolist())),
    }  # fmt: skip


@torch.no_grad()
def named_rightly(model: nn.Module, videos: Videos, clip: ClipParams, segments: int) -> Tensor:
    """Which videos [V] are named rightly, by the mean probability of their views."""
    model.eval()
    count, device = len(videos.labels), videos.frames.device
    boxes = torch.from_numpy(centre_boxes(videos.sizes_V2).astype(np.int32)).to(device)
    found = []
    for rows in torch.arange(count, device=device).split(TESTED):
        probability = torch.zeros((), device=device)
        for start in sampling.view_starts(videos.frames.shape[1], clip.frames, 1, segments).tolist():
            unmirrored = torch.zeros(len(rows), dtype=torch.bool, device=device)
            starts = torch.full_like(rows, start)
            clips = cut(videos, clip.frames, clip.resolution, rows, starts, boxes[rows], unmirrored)
            probability = probability + model(normalised(clips, channel=1)).softmax(1)
        found.append(probability.argmax(1) == videos.labels[rows])
    model.train()
    return torch.cat(found)


def trial(params: Params, task: str, steps: int, corpus: Videos, parts: tuple[Videos, Videos, Videos]) -> Work:
    """Pre-train for so many steps (0: from scratch), fine-tune, test."""
    found: Found = {}
    init = (yield from pretrained(params, corpus, steps, found)) if steps else None
    yield from finetuned(params, task, init, parts, found)
    return found


def together(works: Iterator[tuple[Found, Work]], device: str, at_once: int) -> Iterator[Found]:
    """What each trial found, as it ends; so many run at a time, each in a stream of its own."""
    on_gpu = device == "cuda"
    free: list[torch.cuda.Stream | None] = [
        torch.cuda.Stream() if on_gpu else None for _ in range(at_once if on_gpu else 1)
    ]
    running: list[tuple[Found, Work, torch.cuda.Stream | None, float]] = []
    while True:
        while free and (one := next(works, None)) is not None:
            running.append((*one, free.pop(), time.monotonic()))
        if not running:
            return
        for entry in list(running):
            name, work, stream, began = entry
            try:
                with torch.cuda.stream(stream) if stream else nullcontext():
                    next(work)
            except StopIteration as end:
                running.remove(entry)
                free.append(stream)
                yield name | end.value | {"seconds": round(time.monotonic() - began, 1)}


def cells_of(own: argparse.Namespace) -> Iterator[tuple[Found, str, Params]]:
    """Name, benchmark and parameters of what is asked for: one cell, or those of a map's plan that need no cache."""
    changes = {key: yaml.safe_load(value) for key, value in (entry.split("=", 1) for entry in own.set)}
    if own.plan is None:
        compared = {"compare.strategies": own.strategies.split(","), "compare.seeds": [*map(int, own.seeds.split(","))]}
        yield dict(changes), own.benchmark, load_params(own.recipe, changes | compared)
        return
    wanted = load_plan(own.plan)
    for cell in cells(wanted, RECIPE.parent):
        params = with_overrides(cell.any_params, changes | {"compare.equal": "multiply-adds"})
        if params.pretrain.frame_selection.mode == "none" and params.preprocess.map_source == "pixels":
            yield {**cell.place, **changes}, wanted.benchmark, params
        else:
            sys.stderr.write(f"left out: {cell.name}, whose frames are chosen from a cache\n")


def works(own: argparse.Namespace) -> Iterator[tuple[Found, Work]]:
    """The trials of all cells: of each length all seeds, of each seed all strategies."""
    with ThreadPoolExecutor(1) as ahead:  # videos are drawn while the cells before them are trained
        drawn = [(cell, ahead.submit(drawn_for, cell[2], cell[1], own.folder)) for cell in cells_of(own)]
        while drawn:
            (name, task, base), videos = drawn.pop(0)
            unlabelled, parts = videos.result()
            corpus, train, val, test = (Videos.on(own.device, one) for one in (unlabelled, *parts))
            for longer in map(float, own.longer.split(",")):
                epochs, warmup = round(longer * base.pretrain.epochs), longer * base.pretrain.warmup_epochs
                length = {"pretrain.epochs": epochs, "pretrain.warmup_epochs": warmup}
                for one in sorted(plan(with_overrides(base, length)), key=lambda one: one.seed):
                    steps = one.epochs * (len(corpus.labels) // one.params.pretrain.batch)
                    of: Found = {"strategy": one.arm, "seed": one.seed, "longer": longer, **name}
                    yield of, trial(one.params, task, steps, corpus, (train, val, test))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--strategies", default="everest,tube,scratch")
    options.add_argument("--seeds", default="2,3,4,5,6")
    options.add_argument("--benchmark", default="motion")
    options.add_argument("--recipe", type=Path, default=RECIPE)
    options.add_argument("--plan", type=Path, help="a map's (plans/map.yaml) in place of these four: all its cells")
    options.add_argument("--longer", default="1,4,12", help="times the recipe's epochs of pre-training")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="over the recipe")
    options.add_argument("--folder", type=Path, default=Path(".work/drawn-trials"), help="where drawn clips are kept")
    options.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    options.add_argument("--at-once", type=int, default=8, help="trials that share the GPU")
    own = options.parse_args()
    torch.set_float32_matmul_precision("high")
    torch.set_flush_denormal(True)
    for found in together(works(own), own.device, own.at_once):
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
