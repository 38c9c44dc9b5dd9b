"""The trainings as the engine sees them: which model, which batches, which loss.

Shapes: B clips, C channels, T frames, H x W pixels, N tokens, A candidate slots, K classes, P probe heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from models.backbone import Backbone
from models.cost import Cost
from models.info import MULTI_LABEL
from models.registry import architecture, create_autoencoder, create_classifier
from models.tuning.learning import arrange
from models.tuning.lora import merged
from models.weights import init_from, save_model
from pipeline import layout
from pipeline.data import manifest
from pipeline.data.arrays import Floats
from pipeline.data.balance import class_weights
from pipeline.data.batch import Batch
from pipeline.data.clips.ahead import DeviceLoader, SideStream
from pipeline.data.clips.dataset import ClipDataset, labelled_clips, pretraining_clips
from pipeline.data.clips.loader import ClipLoader
from pipeline.data.clips.record import record_of
from pipeline.data.pixels.device import to_device
from pipeline.data.pixels.transforms import EvalTransform, FinetuneTransform, PretrainTransform
from pipeline.distributed.groups import Ranks
from pipeline.efficiency.clip_cost import (
    autoencoder_arguments,
    classifier_arguments,
    finetune_cost,
    finetune_passes,
    learning_of,
    online_candidates,
    pretrain_cost,
)
from pipeline.errors import InputError
from pipeline.multilabel.labels import multi_hot, positive_weights
from pipeline.multilabel.objective import Validation, sigmoid_loss
from pipeline.params import SCRATCH, ComputeParams, FinetuneParams, Params, PretrainParams
from pipeline.tracking import names
from pipeline.training.engine.held_out import batch_sums, held_out_batches
from pipeline.training.optim import ParameterGroup, parameter_groups
from pipeline.training.probes import Probes
from pipeline.training.settings import settings_of

#: torch's name for compiled code whose kernels a GPU replays as CUDA graphs.
REPLAYED = "reduce-overhead"
#: Clips that a finished pre-training draws.
PICTURES = 3


class PretrainTask:
    """Masked pre-training. Masks are a function of (seed, epoch, sample): the same on any number of ranks."""

    label = "pretrain"
    #: Forward-equivalents of a training step: the backward pass costs two.
    passes = 3.0
    #: Whether videos have several classes each.
    several = False

    def __init__(self, params: Params, ranks: Ranks, dataset: ClipDataset | None = None) -> None:
        """`dataset`: clips in place of those of `pretrain.corpus`."""
        stage, clip = params.pretrain, params.clip
        self.stage, self.clip, self.device = stage, clip, ranks.device
        self.settings = settings_of(stage, params.compute, params.seed)
        self.name = architecture(stage.size, pretrain=True)
        self.arguments = autoencoder_arguments(stage, clip)
        self.dataset = pretraining_clips(params) if dataset is None else dataset
        self._reader = _loader(self.dataset, stage, params, ranks, shuffle=True)
        self.loader = _ahead(self._reader, ranks)
        self.info = record_of("pretrain", self.name, self.arguments, params, tuple(stage.corpus), self.dataset)
        self.transform = PretrainTransform(clip.resolution, stage.scales, stage.flip)
        torch.manual_seed(params.seed)
        autoencoder = create_autoencoder(self.name, self.arguments)
        _switch(autoencoder, params.compute)
        self.model: nn.Module = autoencoder
        self.slots = clip.frames // 2
        self.tokens = self.slots * (clip.resolution // 16) ** 2
        self.candidates = online_candidates(params)
        self.cost: Cost = pretrain_cost(params)

    def groups(self) -> list[ParameterGroup]:
        return parameter_groups(self.model, self.stage.weight_decay)

    def loss(self, model: nn.Module, batch: Batch, epoch: int) -> torch.Tensor:
        clip_BCTHW, _ = self.transform(batch, self.device)
        noise_BN = to_device(batch.uniforms("mask", self.tokens), self.device)
        if self.candidates is None:
            loss: torch.Tensor = model(clip_BCTHW, noise_BN=noise_BN)
        else:
            slot_noise_BA = to_device(batch.uniforms("slots", self.candidates), self.device)
            loss = model(clip_BCTHW, noise_BN=noise_BN, choose=self.slots, slot_noise_BA=slot_noise_BA)
        return loss

    def validate(self, epoch: int, last: bool, alive: Callable[[], None]) -> dict[str, float]:
        return {}

    def export(self, tensors: dict[str, torch.Tensor], folder: Path) -> None:
        """Save the finished model, and pictures of what it reconstructs of a few clips."""
        model = create_autoencoder(self.name, self.arguments)
        model.load_state_dict(tensors)
        save_model(model, folder, self.info.as_dict())
        self._draw(model.eval(), folder / "pictures")

    def _draw(self, model: nn.Module, folder: Path) -> None:
        from pipeline.pictures.look import picture_of

        folder.mkdir()
        if self.candidates is not None:
            return  # a clip of candidate slots is longer than the clips that the model was made for
        batch = next(iter(self._reader.epoch(0)))
        clips_BCTHW = self.transform(batch, "cpu")[0]
        for place, clip_CTHW in enumerate(clips_BCTHW[:PICTURES]):
            video = self.dataset.video_id(int(batch.index_B[place]))
            picture_of(model, clip_CTHW, folder / f"clip-{place}", video, self.settings.seed)


class FinetuneTask:
    """Fine-tuning, or probing of a frozen encoder, on one benchmark; validation on deterministic clips."""

    def __init__(
        self,
        params: Params,
        benchmark: str,
        ranks: Ranks,
        training: ClipDataset | None = None,
        held_out: ClipDataset | None = None,
    ) -> None:
        """`training`, `held_out`: clips in place of those of the benchmark's splits."""
        stage, clip = params.finetune_of(benchmark), params.clip
        data = params.benchmark(benchmark).data
        self.stage, self.clip, self.ranks = stage, clip, ranks
        self.label = f"finetune {benchmark}"
        self.passes = finetune_passes(params, benchmark)
        select = "best" if stage.frozen else stage.select
        self.settings = settings_of(stage, params.compute, params.seed, select, stage.patience)
        classes: tuple[str, ...] | None = None
        if training is None:
            training = labelled_clips(params, benchmark, "train", random=True, fraction=stage.label_fraction)
            classes = tuple(manifest.class_names(layout.manifest_dir(benchmark), data.classes))
        self.loader = _ahead(_loader(training, stage, params, ranks, shuffle=True), ranks)
        if held_out is None:
            held_out = labelled_clips(params, benchmark, stage.validate_split, random=False)
        sets = training.label_sets()
        self.several, self.held_out_VK = bool(sets), multi_hot(held_out.label_sets(), data.classes)
        if self.several and stage.balance == "sampling":
            raise InputError(
                f"finetune.balance = 'sampling', and videos of {benchmark} have several classes each: none can be "
                "drawn for one of them alone. Cure: balance: weights, or none."
            )
        weights: Floats | None = None
        if stage.balance == "weights":
            several = positive_weights(multi_hot(sets, data.classes)) if sets else None
            weights = class_weights(training.labels(), data.classes) if several is None else several
        self.weight_K = None if weights is None else torch.from_numpy(weights).float().to(ranks.device)
        self.criterion = sigmoid_loss if self.several else F.cross_entropy
        self.validation = _ahead(_loader(held_out, stage, params, ranks, shuffle=False), ranks)
        self.transform = FinetuneTransform(
            clip.resolution,
            data.classes,
            crop_scale=stage.crop_scale,
            crop_ratio=stage.crop_ratio,
            flip=stage.flip,
            rand_augment=stage.rand_augment,
            random_erasing=stage.random_erasing,
            mixup=stage.mixup,
            cutmix=stage.cutmix,
            label_smoothing=stage.label_smoothing,
            several=self.several,
        )
        self.centre = EvalTransform(clip.resolution)
        size = params.pretrain.size
        self.name = architecture(size, pretrain=False)
        self.arguments = classifier_arguments(stage, clip, data.classes)
        self.info = record_of("finetune", self.name, self.arguments, params, benchmark, held_out, classes)
        torch.manual_seed(params.seed)
        classifier = create_classifier(self.name, self.arguments)
        if stage.init != SCRATCH:
            _start_from(classifier, Path(stage.init))
        if not stage.frozen:
            arrange(classifier, learning_of(stage))
        _switch(classifier, params.compute)
        self.model: nn.Module = Probes(classifier) if stage.frozen else classifier
        self.cost: Cost = finetune_cost(params, benchmark)

    def groups(self) -> list[ParameterGroup]:
        if isinstance(self.model, Probes):
            return self.model.parameter_groups(self.stage.weight_decay)
        return parameter_groups(self.model, self.stage.weight_decay, self.stage.layer_decay)

    def loss(self, model: nn.Module, batch: Batch, epoch: int) -> torch.Tensor:
        clip_BCTHW, targets_BK = self.transform(batch, self.ranks.device)
        logits = model(clip_BCTHW).float()
        if not self.stage.frozen:
            return self.criterion(logits, targets_BK, self.weight_K)
        # Heads share nothing that learns, so the gradient of the sum is each head's own.
        return torch.stack([self.criterion(logits_BK, targets_BK, self.weight_K) for logits_BK in logits]).sum()

    def validate(self, epoch: int, last: bool, alive: Callable[[], None]) -> dict[str, float]:
        if not last and (epoch + 1) % self.stage.validate_every_epochs:
            return {}
        heads = len(self.model.factors) if isinstance(self.model, Probes) else 1
        if self.several:
            return self._ranked(heads, alive)
        # Per head: right in the first, right in the first five, sum of losses, clips.
        sums_P4 = torch.zeros(heads, 4, dtype=torch.float64, device=self.ranks.device)
        for batch in self._held_out(alive):
            clip_BCTHW, labels_B = self.centre(batch, self.ranks.device)
            logits_PBK = self.model(clip_BCTHW).float()
            logits_PBK = logits_PBK if logits_PBK.ndim == 3 else logits_PBK[None]
            for sums_4, logits_BK in zip(sums_P4, logits_PBK, strict=True):
                sums_4 += batch_sums(logits_BK, labels_B)
        return self._report(self.ranks.sum_(sums_P4))

    def _held_out(self, alive: Callable[[], None]) -> Iterator[Batch]:
        sharded = self.model if self.settings.data_parallel == "fsdp" else None
        return held_out_batches(self.validation, self.ranks, alive, sharded, self.clip)

    def _report(self, sums_P4: torch.Tensor) -> dict[str, float]:
        top1_P, top5_P, loss_P = (sums_P4[:, :3] / sums_P4[:, 3:]).T.tolist()
        best = max(range(len(top1_P)), key=lambda head: (top1_P[head], -loss_P[head]))
        scores = {names.VAL_TOP1: top1_P[best], names.VAL_TOP5: top5_P[best], names.VAL_LOSS: loss_P[best]}
        return scores | self._chosen(best)

    def _ranked(self, heads: int, alive: Callable[[], None]) -> dict[str, float]:
        """As :meth:`validate`, of videos with several classes each: the mean average precision and the loss."""
        validation = Validation(self.held_out_VK, heads, self.ranks.device)
        for batch in self._held_out(alive):
            clip_BCTHW, _ = self.centre(batch, self.ranks.device)
            logits = self.model(clip_BCTHW)
            validation.add(logits if logits.ndim == 3 else logits[None], batch.index_B)
        scores = validation.scores(self.ranks.sum_)
        best = max(range(heads), key=lambda head: (scores[head][0], -scores[head][1]))
        return {names.VAL_MAP: scores[best][0], names.VAL_LOSS: scores[best][1]} | self._chosen(best)

    def _chosen(self, head: int) -> dict[str, float]:
        """Note the head that won, where there are several."""
        if not isinstance(self.model, Probes):
            return {}
        self.model.chosen.fill_(head)
        return {names.VAL_PROBE_LR_FACTOR: self.model.factors[head]}

    def export(self, tensors: dict[str, torch.Tensor], folder: Path) -> None:
        """Save the finished classifier; of a probe the one with the head that won."""
        classifier = create_classifier(self.name, self.arguments)
        if isinstance(self.model, Probes):
            probes = Probes(classifier)
            probes.load_state_dict(tensors)
            classifier = probes.winner()
        else:
            classifier.load_state_dict(merged(tensors, self.stage.lora_alpha))
        notes = {
            "init": self.stage.init,
            "frozen": self.stage.frozen,
            "train": self.stage.train,
            "lora_rank": self.stage.lora_rank,
            # What may choose among models, and what chose this one.
            "validate_split": self.stage.validate_split,
            "select": self.settings.select,
            **({MULTI_LABEL: True} if self.several else {}),
        }
        save_model(classifier, folder, {**self.info.as_dict(), **notes})


TrainingTask = PretrainTask | FinetuneTask


def build(stage: str, benchmark: str | None, params: Params, ranks: Ranks) -> TrainingTask:
    """The task of a stage."""
    if stage == "pretrain":
        return PretrainTask(params, ranks)
    if stage == "finetune" and benchmark is not None:
        return FinetuneTask(params, benchmark, ranks)
    raise InputError(f"stage {stage!r} with benchmark {benchmark!r} is no training. Cure: pretrain or finetune.")


def _loader(
    dataset: ClipDataset,
    stage: PretrainParams | FinetuneParams,
    params: Params,
    ranks: Ranks,
    shuffle: bool,
) -> ClipLoader:
    """Training batches; without `shuffle` every clip once, for validation."""
    return ClipLoader(
        dataset,
        seed=params.seed,
        global_batch=stage.batch,
        rank=ranks.rank,
        world=ranks.world,
        accumulate=stage.accumulate,
        repeated=stage.repeated_augmentation if shuffle else 1,
        pairs=shuffle and isinstance(stage, FinetuneParams) and stage.mixes,
        shuffle=shuffle,
        workers=params.compute.loader_workers,
        drop_last=shuffle,
        balanced=shuffle and isinstance(stage, FinetuneParams) and stage.balance == "sampling",
    )


def _ahead(loader: ClipLoader, ranks: Ranks) -> ClipLoader | DeviceLoader:
    """The loader's batches, sent ahead to the GPU where there is one."""
    return DeviceLoader(loader, SideStream(ranks.device)) if ranks.device.type == "cuda" else loader


def _switch(model: Backbone, compute: ComputeParams) -> None:
    """Recomputation and compilation, where they are asked for."""
    if compute.activation_checkpointing:
        model.set_grad_checkpointing(True)
    if compute.compile:
        # By parts: the same few graphs serve blocks of all depths, so that a large model starts as soon as a small one.
        row_mode = REPLAYED if compute.compile == "graphs" else None
        model.compile_parts(row_mode, fullgraph=True, dynamic=False)


def _start_from(classifier: nn.Module, folder: Path) -> None:
    try:
        init_from(classifier, folder)
    except ValueError as error:
        raise InputError(f"finetune.init = {str(folder)!r}: {error}") from error
