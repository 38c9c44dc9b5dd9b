"""From params to the models: the arguments that shape them, and what a clip costs. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.data.sampling import candidate_slots
from pipeline.params import ClipParams, FinetuneParams, Params, PretrainParams

if TYPE_CHECKING:
    from models.backbone import Backbone
    from models.cost import Cost
    from models.info import ModelArguments
    from models.tuning.learning import Learning


def _shape(stage: PretrainParams | FinetuneParams, clip: ClipParams) -> ModelArguments:
    arguments: ModelArguments = {
        "img_size": clip.resolution,
        "num_frames": clip.frames,
        "strategy": stage.strategy,
        "keep_ratio": stage.keep_ratio,
    }
    if clip.input != "rgb":
        arguments["clip_input"] = clip.input
    if stage.score_share is not None:
        arguments["score_share"] = stage.score_share
    return arguments


def autoencoder_arguments(stage: PretrainParams, clip: ClipParams) -> ModelArguments:
    """The arguments of `timm.create_model` for a pre-training."""
    return {**_shape(stage, clip), "visible_ratio": stage.visible_ratio, "decoder_depth": stage.decoder_depth}


def classifier_arguments(stage: FinetuneParams, clip: ClipParams, classes: int) -> ModelArguments:
    """The arguments of `timm.create_model` for a fine-tuning."""
    return {
        **_shape(stage, clip),
        "num_classes": classes,
        "drop_path_rate": stage.drop_path,
        "fc_drop_rate": stage.fc_dropout,
        "head": stage.head,
    }


def online_candidates(params: Params) -> int | None:
    """The slots that the model itself chooses among, or None where frames are chosen beforehand or not at all."""
    choice = params.pretrain.frame_selection
    return candidate_slots(params.clip.frames, choice.oversample) if choice.mode == "online" else None


def pretrain_cost(params: Params) -> Cost:
    """The cost of one pre-training forward of one clip."""
    from models.cost import multiply_adds

    stage, clip = params.pretrain, params.clip
    return multiply_adds(
        stage.size,
        "pretrain",
        strategy=stage.strategy,
        keep_ratio=stage.keep_ratio,
        visible_ratio=stage.visible_ratio,
        frames=clip.frames,
        resolution=clip.resolution,
        decoder_depth=stage.decoder_depth,
        candidates=online_candidates(params),
    )


def finetune_cost(params: Params, benchmark: str) -> Cost:
    """The cost of one forward of one clip of a benchmark's classifier in training, with its adapters."""
    from models.cost import multiply_adds
    from models.tuning.learning import with_adapters

    stage, clip = params.finetune_of(benchmark), params.clip
    cost = multiply_adds(
        params.pretrain.size,
        "finetune",
        strategy=stage.strategy,
        keep_ratio=stage.keep_ratio,
        frames=clip.frames,
        resolution=clip.resolution,
        num_classes=params.benchmark(benchmark).data.classes,
        head=stage.head,
    )
    return with_adapters(cost, params.pretrain.size, learning_of(stage))


def counted_cost(predicted: Cost, model: Backbone, frames: int, resolution: int) -> Cost:
    """The mean cost of the clips that a model has seen, where each has a budget of its own; else the predicted one."""
    from models.cost import cost_of_counts

    if not model.seen:
        return predicted
    size = model.architecture.split("_")[-3]
    return cost_of_counts(
        size,
        model.seen,
        frames=frames,
        resolution=resolution,
        decoder_depth=model.kwargs.get("decoder_depth"),
        num_classes=model.num_classes,
        head=model.kwargs.get("head", "mean"),
    )


def learning_of(stage: FinetuneParams) -> Learning:
    """What learns in a fine-tuning; a probe's heads count as one."""
    from models.tuning.learning import Learning

    return Learning("head") if stage.frozen else Learning(stage.train, stage.lora_rank, stage.lora_alpha)


def finetune_passes(params: Params, benchmark: str) -> float:
    """Forward-equivalents of a training step: 3 where all learns, 1 for a probe, whose heads' part is left out."""
    from models.tuning.learning import passes

    stage = params.finetune_of(benchmark)
    if stage.frozen:
        return 1.0
    return passes(finetune_cost(params, benchmark), params.pretrain.size, learning_of(stage))
