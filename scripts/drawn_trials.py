"""Trials of the recipe `scenes` without the chain: the same scenes, models and optimizer, clips in memory, one process.

    python scripts/drawn_trials.py --strategy everest --seed 0    # or tube, scratch; prints one line of JSON

Everything comes from recipes/scenes.yaml, `--set key=value` over it. Differences from the chain: no H.264 and no cache,
one rank, and of the corpus the first benchmark alone. Epochs of a strategy are those of a comparison at equal
multiply-adds with everest.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models.registry import architecture, create_autoencoder, create_classifier
from models.weights import load_encoder
from pipeline.data import sampling
from pipeline.data.batch import Batch
from pipeline.data.pixels.transforms import EvalTransform, FinetuneTransform, PretrainTransform
from pipeline.data.sources import generate
from pipeline.efficiency.clip_cost import autoencoder_arguments, classifier_arguments
from pipeline.evaluation.baselines import Clips, baselines, small_grey
from pipeline.layout import fingerprint
from pipeline.params import SCRATCH, GeneratedSource, Params, load_params
from pipeline.params.groups import PATCH, TUBELET
from pipeline.planning.equal import plan
from pipeline.training.optim import Cosine, adamw, parameter_groups, scaled_lr, set_lr

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "scenes.yaml"
BATCH = 64


@dataclass(frozen=True)
class Videos:
    """Drawn videos [V,T,H,W,3] uint8 in memory, and their labels [V]."""

    frames: torch.Tensor
    labels: torch.Tensor

    def first(self, count: int) -> Videos:
        return Videos(self.frames[:count], self.labels[:count])

    def batch(self, index: np.ndarray, starts: np.ndarray, frames: int, seed: int, epoch: int) -> Batch:
        """Clips of `frames` frames from `starts` on, as the loader hands them to the transforms."""
        clips = [self.frames[row, start : start + frames] for row, start in zip(index, starts, strict=True)]
        rows = torch.from_numpy(index)
        sizes = torch.tensor([self.frames.shape[2:4]] * len(index))
        return Batch(
            torch.stack(clips), sizes, self.labels[rows], rows, rows, torch.zeros(len(index), frames), seed, epoch
        )


def draw(source: GeneratedSource, split: str, folder: Path) -> Videos:
    """The videos of a split as `pipeline.data.sources.generate` draws them, kept in `folder`."""
    assert source.scene is not None, "the benchmark names no scene"
    videos = [video for video in generate.plan(source) if video.split == split]
    made = fingerprint([split, len(videos), source.model_dump(exclude={"train", "val", "test"})])
    file = folder / f"{source.task}-{split}-{made}.npy"
    if not file.exists():
        # Forked processes would share what this one has of a GPU.
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            folder.mkdir(parents=True, exist_ok=True)
            one = functools.partial(generate.drawn, source)
            part = file.with_suffix(f".{os.getpid()}.npy")  # another trial may be drawing the same
            np.save(part, np.stack(list(pool.map(one, videos, chunksize=16))))
            part.replace(file)
    return Videos(torch.from_numpy(np.load(file)), torch.tensor([video.label for video in videos]))


def drawn_for(params: Params, task: str, folder: Path) -> tuple[Videos, tuple[Videos, Videos, Videos]]:
    """The corpus without its labels; and the labelled, validation and test videos."""
    source = params.benchmark(task).data.source
    unlabelled = params.benchmark(params.pretrain.corpus[0]).data.source
    assert isinstance(source, GeneratedSource)
    assert isinstance(unlabelled, GeneratedSource)
    train, val, test = (draw(source, split, folder) for split in ("train", "val", "test"))
    corpus = train if unlabelled == source else draw(unlabelled, "train", folder)
    labelled = round(params.finetune_of(task).label_fraction * len(train.labels))
    return corpus, (train.first(labelled), val, test)


def random_batches(videos: Videos, batch: int, frames: int, seed: int, epoch: int) -> Iterator[Batch]:
    """The batches of one epoch, each clip at a random place of its video."""
    order = sampling.epoch_order(seed, epoch, len(videos.labels), shuffle=True)
    places = videos.frames.shape[1] - frames + 1
    starts = (sampling.uniforms(seed, epoch, order, "clip", 1)[:, 0] * places).astype(int)
    for first in range(0, len(order) - batch + 1, batch):
        part = slice(first, first + batch)
        yield videos.batch(order[part], starts[part], frames, seed, epoch)


def pretraining(params: Params, steps: int) -> tuple[nn.Module, Cosine, int]:
    """What a pre-training of so many steps begins with: fresh weights, its rate, and a clip's number of tokens."""
    stage, clip = params.pretrain, params.clip
    torch.manual_seed(params.seed)
    model = create_autoencoder(architecture(stage.size, pretrain=True), autoencoder_arguments(stage, clip))
    peak, floor = (scaled_lr(lr, stage.batch) for lr in (stage.base_lr, stage.min_lr))
    rate = Cosine(peak, floor, max(1, round(steps * stage.warmup_epochs / stage.epochs)), steps)
    return model, rate, clip.frames // TUBELET * (clip.resolution // PATCH) ** 2


def finetuning(params: Params, task: str, init: nn.Module | None, labels: int) -> tuple[nn.Module, Cosine, int]:
    """What a fine-tuning on so many labels begins with: weights (of `init`, or fresh), rate, steps of an epoch."""
    stage = params.finetune_of(task)
    torch.manual_seed(params.seed)
    arguments = classifier_arguments(stage, params.clip, params.benchmark(task).data.classes)
    model = create_classifier(architecture(params.pretrain.size, pretrain=False), arguments)
    if init is not None:
        load_encoder(model, init.state_dict())
    per = labels // stage.batch
    return model, Cosine.of(stage.base_lr, stage.min_lr, stage.batch, stage.warmup_epochs, stage.epochs, per), per


def pretrained(params: Params, videos: Videos, steps: int) -> tuple[nn.Module, float]:
    """The autoencoder after so many steps, and its mean loss over the last tenth of them."""
    stage, clip = params.pretrain, params.clip
    model, rate, tokens = pretraining(params, steps)
    optimizer = adamw(parameter_groups(model, stage.weight_decay), stage.betas, stage.eps)
    transform, epoch = PretrainTransform(clip.resolution, stage.scales, stage.flip), 0
    losses: list[float] = []
    while len(losses) < steps:
        for batch in random_batches(videos, stage.batch, clip.frames, params.seed, epoch):
            set_lr(optimizer, rate(len(losses)))
            with torch.autocast("cpu", torch.bfloat16, enabled=stage.precision == "bf16"):
                loss = model(transform(batch, "cpu")[0], noise_BN=batch.uniforms("mask", tokens))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == steps:
                break
        epoch += 1
    return model, float(np.mean(losses[-max(1, steps // 10) :]))


def finetuned(
    params: Params, task: str, init: nn.Module | None, parts: tuple[Videos, Videos, Videos]
) -> tuple[float, list[float]]:
    """Test accuracy of the weights that validated best, and all validations; ends by `finetune.patience`."""
    stage, clip = params.finetune_of(task), params.clip
    train, val, test = parts
    model, rate, _ = finetuning(params, task, init, len(train.labels))
    optimizer = adamw(parameter_groups(model, stage.weight_decay, stage.layer_decay), stage.betas, stage.eps)
    transform = FinetuneTransform(
        clip.resolution, params.benchmark(task).data.classes, crop_scale=stage.crop_scale, crop_ratio=stage.crop_ratio,
        flip=stage.flip, label_smoothing=stage.label_smoothing,
    )  # fmt: skip
    best, curve, waited, step = -1.0, [], 0, 0
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    for epoch in range(stage.epochs):
        for batch in random_batches(train, stage.batch, clip.frames, params.seed, epoch):
            set_lr(optimizer, rate(step))
            pixels, targets = transform(batch, "cpu")
            with torch.autocast("cpu", torch.bfloat16, enabled=stage.precision == "bf16"):
                logits = model(pixels)
            optimizer.zero_grad()
            F.cross_entropy(logits.float(), targets).backward()
            optimizer.step()
            step += 1
        if (epoch + 1) % stage.validate_every_epochs == 0:
            curve.append(accuracy(model, val, clip.frames, 1))
            waited += 1
            if curve[-1] > best:
                best, waited, weights = curve[-1], 0, {k: v.clone() for k, v in model.state_dict().items()}
            if stage.patience is not None and waited >= stage.patience:
                break
    model.load_state_dict(weights)
    return accuracy(model, test, clip.frames, params.evaluate.segments), curve


@torch.no_grad()
def accuracy(model: nn.Module, videos: Videos, frames: int, segments: int) -> float:
    """The share of videos named rightly, by the mean probability of their views."""
    model.eval()
    transform, right = EvalTransform(videos.frames.shape[2]), 0
    starts = sampling.view_starts(videos.frames.shape[1], frames, 1, segments)
    for first in range(0, len(videos.labels), BATCH):
        index = np.arange(first, min(first + BATCH, len(videos.labels)))
        views = [videos.batch(index, np.full(len(index), start), frames, 0, 0) for start in starts]
        probability = sum(model(transform(view, "cpu")[0]).softmax(1) for view in views)
        right += int((probability.argmax(1) == videos.labels[index]).sum())
    model.train()
    return right / len(videos.labels)


def trivial(parts: tuple[Videos, Videos, Videos], frames: int) -> dict[str, float]:
    """What trivial models reach with the same labels."""
    start = (parts[0].frames.shape[1] - frames) // 2
    clips = [
        Clips(
            np.stack([small_grey(video[start : start + frames].numpy()) for video in part.frames]), part.labels.numpy()
        )
        for part in parts
    ]
    return {one.name: round(100 * one.top1, 1) for one in baselines(clips[0], clips[2], clips[1], draws=100)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--strategy", default="everest", help="everest, tube, scratch, ..., or trivial")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--benchmark", default="motion")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="over the recipe")
    options.add_argument("--recipe", type=Path, default=RECIPE)
    options.add_argument("--folder", type=Path, default=Path(".work/drawn-trials"), help="where drawn clips are kept")
    own = options.parse_args()
    torch.set_num_threads(own.threads)
    torch.set_flush_denormal(True)
    changes = dict(entry.split("=", 1) for entry in own.set)
    arm = "everest" if own.strategy == "trivial" else own.strategy
    strategies = ["everest"] if arm == "everest" else ["everest", arm]
    overrides = {key: yaml.safe_load(value) for key, value in changes.items()}
    overrides |= {"compare.strategies": strategies, "compare.seeds": [own.seed]}
    trial = plan(load_params(own.recipe, overrides))[-1]
    params, task, begun = trial.params, own.benchmark, time.process_time()
    videos, parts = drawn_for(params, task, own.folder)
    labels = len(parts[0].labels)
    result = {"strategy": own.strategy, "seed": own.seed, "benchmark": task, "labels": labels, **changes}
    if own.strategy == "trivial":
        result |= trivial(parts, params.clip.frames)
    else:
        init = None
        if params.finetune.init != SCRATCH:
            steps = trial.epochs * (len(videos.labels) // params.pretrain.batch)
            init, loss = pretrained(params, videos, steps)
            result |= {"steps": steps, "loss": round(loss, 4), "pretrain_cpu_s": round(time.process_time() - begun)}
        top1, curve = finetuned(params, task, init, parts)
        result |= {"top1": round(100 * top1, 1), "val": [round(100 * value) for value in curve]}
    sys.stdout.write(json.dumps(result | {"cpu_s": round(time.process_time() - begun)}) + "\n")


if __name__ == "__main__":
    main()
