"""What the values of params.yaml must have in common, beyond each one's own bounds.

Only what the file itself tells: what the machine, the manifests and the servers add is asked by `pipeline.preflight`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pipeline.params import names
from pipeline.params.benchmarks import ByShare
from pipeline.params.groups import LAST_BLOCKS
from pipeline.strategies import strategy_facts

if TYPE_CHECKING:
    from pipeline.params.groups import FinetuneParams, PretrainParams, TrainingParams
    from pipeline.params.schema import Params

PRETRAINED = "outputs/pretrain"
#: Width and blocks of the encoders (`models.registry.SIZES`, which takes torch to read).
SHAPES = {
    "tiny": (96, 4),
    "mini": (192, 4),
    "small": (384, 12),
    "base": (768, 12),
    "large": (1024, 24),
    "huge": (1280, 32),
}


def faults(params: Params) -> list[str]:
    """One line for each fault: key, value, what is expected, cure."""
    sentences = [*_names(params), *_monitor(params), *_clips(params), *_tokens(params)]
    sentences += _schedule(params.pretrain, "pretrain.{}".format)
    sentences += [*_budget(params), *_graphs(params)]
    for key in params.benchmarks:
        sentences += _finetune(params, key)
    return list(dict.fromkeys(sentences))


def _names(params: Params) -> Iterator[str]:
    seen: dict[str, str] = {}
    for key in params.benchmarks:
        fault = names.benchmark_fault(key)
        if fault:
            yield f"benchmarks: {fault}"
        other = seen.setdefault(key.lower(), key)
        if other != key:
            yield f"benchmarks: {other!r} and {key!r} differ only by case. Cure: rename one of them."
    corpus = params.pretrain.corpus
    for key in dict.fromkeys(corpus):
        if key not in params.benchmarks:
            cure = names.nearest(key, params.benchmarks)
            yield (
                f"pretrain.corpus names {key[:100]!r}, which is not one of benchmarks: "
                f"{', '.join(params.benchmarks)}. Cure: {cure}"
            )
        if corpus.count(key) > 1:
            yield f"pretrain.corpus names {key!r} {corpus.count(key)} times. Cure: name each once."


def _monitor(params: Params) -> Iterator[str]:
    corpus = params.pretrain.corpus
    for key in params.pretrain.monitor.benchmarks or []:
        if key not in corpus:
            yield (
                f"pretrain.monitor.benchmarks names {key[:99]!r}, not one of pretrain.corpus: {', '.join(corpus)}. "
                "Cure: benchmarks of the corpus, or null for all of them that have labels."
            )


def _clips(params: Params) -> Iterator[str]:
    preprocess, clip = params.preprocess, params.clip
    if preprocess.short_side < clip.resolution:
        yield (
            f"preprocess.short_side = {preprocess.short_side} is smaller than clip.resolution = {clip.resolution}: "
            "cached frames would be enlarged. Cure: raise short_side."
        )
    # Frames of a clip over a share of its video may repeat: that is what the share of a short one is.
    counted = [key for key, one in params.benchmarks.items() if not isinstance(one.data.frame_step, ByShare)]
    if counted and clip.frames > params.ingest.min_frames:
        yield (
            f"clip.frames = {clip.frames} is more than ingest.min_frames = {params.ingest.min_frames}: shorter videos "
            f"would fill a clip with repeated frames. Cure: set ingest.min_frames to {clip.frames} or more."
        )
    if clip.source == "videos" and params.pretrain.frame_selection.mode == "cached":
        yield (
            "pretrain.frame_selection.mode = 'cached' needs the cache's distance maps, clip.source = 'videos' has "
            "none. Cure: mode none or online, or clip.source: cache."
        )
    for key, benchmark in params.benchmarks.items():
        step = benchmark.data.frame_step
        if not isinstance(step, int):
            yield from _own_steps(params, key)
            continue
        if preprocess.frames == "every" and step % preprocess.keep_every:
            yield (
                f"preprocess.keep_every = {preprocess.keep_every} does not divide benchmarks.{key}.data.frame_step = "
                f"{step}: clips would need frames that are not stored. Cure: keep_every: 1 or a divisor of {step}."
            )


def _budget(params: Params) -> Iterator[str]:
    """What a budget is counted in must be known."""
    compute = params.compute
    if compute.budget is not None and compute.budget.eur is not None and compute.eur_per_gpu_hour is None:
        yield (
            f"compute.budget.eur = {compute.budget.eur:g} needs a price of the GPU hour. Cure: "
            "compute.eur_per_gpu_hour, from your provider's list, or compute.budget.gpu_hours."
        )


def _graphs(params: Params) -> Iterator[str]:
    """What cannot be replayed as it was recorded."""
    compute = params.compute
    if compute.compile == "graphs" and compute.data_parallel == "fsdp":
        yield (
            "compute.compile = 'graphs' with compute.data_parallel = 'fsdp': a CUDA graph reads parameters where they "
            "lay when it was recorded; shards are gathered anew each time. Cure: data_parallel: ddp, or compile: true."
        )
    if compute.compile == "graphs" and compute.activation_checkpointing:
        yield (
            "compute.compile = 'graphs' with compute.activation_checkpointing = true: torch cannot replay blocks that "
            "are recomputed in the backward pass. Cure: activation_checkpointing: false, or compile: true."
        )


def _own_steps(params: Params, key: str) -> Iterator[str]:
    """What frames by time, or by a share of the video, need of the cache and of frame selection."""
    preprocess, selection = params.preprocess, params.pretrain.frame_selection
    step = params.benchmark(key).data.frame_step
    if preprocess.frames == "informative" or (preprocess.frames == "every" and preprocess.keep_every > 1):
        yield (
            f"preprocess.frames = {preprocess.frames!r} with benchmarks.{key}.data.frame_step by "
            f"{'share' if isinstance(step, ByShare) else 'time'}: clips need frames that differ from video to video. "
            "Cure: preprocess.frames: all."
        )
    if key not in params.pretrain.corpus or selection.mode == "none" or selection.window == "fixed":
        return
    if isinstance(step, ByShare) and step.clip_share * selection.oversample > 1:
        yield (
            f"pretrain.frame_selection.window = 'grow' with benchmarks.{key}.data.frame_step.clip_share = "
            f"{step.clip_share:g}: a window {selection.oversample:g} times as long is longer than the video. "
            "Cure: window: fixed, or a smaller clip_share."
        )


def _tokens(params: Params) -> Iterator[str]:
    stage = params.pretrain
    if strategy_facts()[stage.strategy].uses_keep_ratio and stage.visible_ratio >= stage.keep_ratio:
        yield (
            f"pretrain.visible_ratio = {stage.visible_ratio} must be smaller than keep_ratio = {stage.keep_ratio}: the "
            "tokens that are kept but not shown are the ones to reconstruct. Cure: lower visible_ratio or "
            "raise keep_ratio (paper: 0.1 and 0.3)."
        )
    yield from _own_budgets(params, stage, "pretrain.{}".format)


def _own_budgets(params: Params, stage: PretrainParams | FinetuneParams, named: Callable[[str], str]) -> Iterator[str]:
    """A budget for each clip, against what cannot have one; and merging, against what would not merge."""
    facts = strategy_facts()[stage.strategy]
    if stage.score_share is not None and not facts.reads_scores:
        yield (
            f"{named('score_share')} = {stage.score_share} with {named('strategy')} = {stage.strategy!r}, which scores "
            "no tokens. Cure: score_share: null, or strategy: everest."
        )
    if facts.merges and getattr(stage, "frozen", False):
        yield (
            f"{named('strategy')} = {stage.strategy!r} with {named('frozen')} = true: a probe reads tokens that are "
            "not merged. Cure: frozen: false, or strategy: none."
        )
    by_clip = "score_share" if stage.score_share is not None else "strategy" if facts.planned_as else None
    if by_clip and params.compute.compile:
        how = str(params.compute.compile).lower()
        yield (
            f"{named(by_clip)} = {getattr(stage, by_clip)} with compute.compile = {how}: every batch has another "
            "number of tokens, and would be compiled anew. Cure: compile: false, or the same number for all clips."
        )


def _finetune(params: Params, key: str) -> Iterator[str]:
    """A benchmark's resolved fine-tuning; a key that it sets for itself is named there."""
    stage, overrides = params.finetune_of(key), params.benchmarks[key].finetune.model_dump(exclude_none=True)

    def named(name: str) -> str:
        return f"benchmarks.{key}.finetune.{name}" if name in overrides else f"finetune.{name}"

    yield from _schedule(stage, named)
    yield from _learning(params, stage, named)
    yield from _own_budgets(params, stage, named)
    for name, strategy in (
        (named("strategy"), stage.strategy),
        ("evaluate.strategy", params.evaluate_of(key).strategy),
    ):
        if stage.head == "places" and strategy and strategy_facts()[strategy].merges:
            yield (
                f"{name} = {strategy!r} with {named('head')} = 'places': tokens that are merged have no place. Cure: "
                "head: mean, or strategy: none."
            )
    if stage.select == "best" and stage.validate_split == "test":
        yield (
            f"{named('select')} = 'best' with {named('validate_split')} = 'test': the test videos would choose the "
            "checkpoint. Cure: select: last, or validate_split: val."
        )
    if stage.patience is not None and stage.validate_split == "test":
        yield (
            f"{named('patience')} = {stage.patience} with {named('validate_split')} = 'test': the test videos would "
            "choose when training ends. Cure: patience: null, or validate_split: val."
        )
    for name in ("crop_scale", "crop_ratio"):
        low, high = getattr(stage, name)
        if low > high:
            yield f"finetune.{name} = [{low}, {high}]: the smaller comes first. Cure: [{high}, {low}]."
    if stage.init != PRETRAINED and os.path.normpath(stage.init) == PRETRAINED:
        yield (
            f"finetune.init = {stage.init!r} is this project's own pre-training by another name, which nothing would "
            f"wait for. Cure: write {PRETRAINED}."
        )


def _learning(params: Params, stage: FinetuneParams, named: Callable[[str], str]) -> Iterator[str]:
    """What learns of the encoder, against the rest."""
    size, rank = params.pretrain.size, stage.lora_rank
    width, depth = SHAPES[size]
    if stage.frozen and (stage.train != "all" or rank is not None):
        key = "train" if stage.train != "all" else "lora_rank"
        yield (
            f"{named(key)} = {getattr(stage, key)!r} with finetune.frozen = true: a probe trains its heads only. "
            "Cure: frozen: false, or leave train at all and lora_rank at null."
        )
    if (last := LAST_BLOCKS.fullmatch(stage.train)) and int(last[1]) > depth:
        yield (
            f"{named('train')} = {stage.train!r}, but the encoder of size {size} has {depth} blocks. Cure: "
            f"last-{depth} or fewer, or all."
        )
    if rank is not None and stage.train not in ("norm", "head"):
        yield (
            f"{named('lora_rank')} = {rank} with {named('train')} = {stage.train!r}: adapters are for weights that "
            "stay as they are. Cure: train: head (or norm), or lora_rank: null."
        )
    if rank is not None and rank >= width:
        yield (
            f"{named('lora_rank')} = {rank} is no low rank where the encoder of size {size} is {width} wide. Cure: 4 "
            "to 16."
        )


def _schedule(stage: TrainingParams, named: Callable[[str], str]) -> Iterator[str]:
    if stage.warmup_epochs > stage.epochs:
        yield (
            f"{named('warmup_epochs')} = {stage.warmup_epochs:g} is longer than {named('epochs')} = {stage.epochs}: "
            f"the learning rate would never be reached. Cure: warmup_epochs of at most {stage.epochs}, or more epochs."
        )
    if stage.batch % stage.accumulate:
        yield (
            f"{named('batch')} = {stage.batch} does not divide by {named('accumulate')} = {stage.accumulate}. "
            f"Cure: an accumulate that divides {stage.batch}, or another batch."
        )
