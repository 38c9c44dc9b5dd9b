"""Stage `baseline`: what trivial models reach on a benchmark, so that its scores can be judged.

Reads data/cache/<bench> and its manifest; writes outputs/baseline/<bench>/baselines.json.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pipeline import layout
from pipeline.data import manifest
from pipeline.data.frame_step import Step, step_of
from pipeline.data.sampling import span
from pipeline.errors import EverestError, InputError
from pipeline.multilabel.labels import multi_hot
from pipeline.params import Params
from pipeline.params.declared import work_key
from pipeline.params.frozen import check_unchanged
from pipeline.tracking import names

if TYPE_CHECKING:
    from pipeline.data.frame_source import FrameSource
    from pipeline.evaluation.baselines import Baseline, Clips

log = logging.getLogger(__name__)

#: A video so many times as long as a clip, or shorter, may be one action that the clip shows a part of.
SHORT = 3


def run(params: Params, benchmark: str | None) -> list[dict[str, object]]:
    """Score every trivial model on the split that `evaluate` reports; returns a row for each.

    Raises:
        InputError: no cache, or a split without labelled videos.
        EverestError: more videos than `evaluate.failure_budget` allows cannot be read.
    """
    if benchmark is None:
        raise InputError("baseline needs a benchmark. Cure: `everest baseline NAME`.")
    from pipeline.data.clips.dataset import open_source
    from pipeline.system.files import write_text
    from pipeline.tracking import stage_run

    how = params.evaluate_of(benchmark)
    work = layout.work_dir("baseline", benchmark, work_key("baseline", benchmark, params))
    with stage_run("baseline", benchmark, {"seed": params.seed, "evaluate.split": how.split}, work) as tracked:
        source, step = open_source(params, benchmark), step_of(params, benchmark)
        results = _scores(params, benchmark, source, step)
        metrics = {names.baseline(result.key): result.top1 for result in results}
        metrics[names.BASELINE_BEST] = max(result.top1 for result in results)
        tracked.metrics(metrics)
        tracked.summary({f"{benchmark}/{name}": value for name, value in metrics.items()})
        rows: list[dict[str, object]] = [
            {
                "model": result.name,
                **({} if result.metric == "top-1" else {"metric": result.metric}),
                "top1": 100 * result.top1,
                "top1_ci_low": 100 * result.interval.low,
                "top1_ci_high": 100 * result.interval.high,
            }
            for result in results
        ]
        advice = [*_on_the_model(params, results)]
        if _may_show_more(source, step, params.clip.frames):
            whole = _scores(params, benchmark, source, Step(share=1 / params.clip.frames))
            advice += _on_the_clips(results, whole)
        for sentence in advice:
            log.warning("%s: %s", benchmark, sentence)
        check_unchanged()
        write_text(layout.output_dir("baseline", benchmark) / "baselines.json", json.dumps(rows, indent=1) + "\n")
    return rows


def _scores(params: Params, benchmark: str, source: FrameSource, step: Step) -> list[Baseline]:
    from pipeline.evaluation.baselines import baselines

    how, own = params.evaluate_of(benchmark), params.benchmark(benchmark).finetune.label_fraction
    labelled = params.finetune.label_fraction if own is None else own
    train = _clips(params, benchmark, source, step, "train", labelled)
    val = _clips(params, benchmark, source, step, "val") if how.split != "val" and source.rows("val") else None
    test = _clips(params, benchmark, source, step, how.split)
    return baselines(train, test, val, draws=how.bootstrap, seed=params.seed)


def _may_show_more(source: FrameSource, step: Step, frames: int) -> bool:
    """Whether clips over the whole of each video are worth a look: of short videos, whose frames are all there."""
    if step.own or source.grid > 1 or source.label_sets:
        return False
    spanned, median = span(frames, step.frames), float(np.median(source.lengths))
    return spanned < median <= SHORT * spanned


def _on_the_clips(results: list[Baseline], whole: list[Baseline]) -> Iterator[str]:
    """Where clips over the whole of each video tell more."""
    best, other = (max(some, key=lambda result: result.top1) for some in (results, whole))
    if other.interval.low > best.interval.high:
        yield (
            f"clips over the whole of each video tell more ({100 * other.top1:.1f} % by the best trivial model; "
            f"{100 * best.top1:.1f} % here): try frame_step: {{clip_share: 1.0}} (docs/your-videos.md)"
        )


def _on_the_model(params: Params, results: list[Baseline]) -> Iterator[str]:
    """What helps, said before anything is trained, where frame differences tell the classes and one frame does not."""
    from pipeline.evaluation.baselines import told

    found = told(results)
    if found is None:
        return
    if found.by_motion and params.clip.input == "rgb":
        yield (
            f"frame differences tell the classes ({100 * found.best.top1:.1f} %; one frame "
            f"{100 * found.still.top1:.1f} %): with few videos try clip.input: difference (docs/training.md)"
        )
    if found.by_place and params.finetune.head == "mean":
        yield (
            f"where in the picture things move tells the classes ({100 * found.fixed.top1:.1f} %; moved to random "
            f"places {100 * found.moved.top1:.1f} %): with few videos try finetune.head: places (docs/training.md)"
        )


def _clips(params: Params, benchmark: str, source: FrameSource, step: Step, split: str, share: float = 1.0) -> Clips:
    """Small clips of a share of the labelled videos of one split; at most so many, spread over the classes."""
    from pipeline.data.clips.dataset import labelled_rows, share_of_each_class
    from pipeline.data.frame_source import ClipError
    from pipeline.evaluation.baselines import MOST, Clips, middle_clip
    from pipeline.system.progress import Bar

    # The share that fine-tuning is given, chosen in the same way: with more labels they would be no measure for it.
    rows = share_of_each_class(labelled_rows(source, benchmark, split), source, share)
    chosen = share_of_each_class(rows, source, min(1.0, MOST / len(rows)))
    pictures, labels, sets, failed = [], [], [], []
    progress = Bar(f"baseline {benchmark} {split}")
    for done, row in enumerate(chosen.tolist(), 1):
        try:
            clip = middle_clip(
                functools.partial(source.frames, row),
                source.num_frames(row),
                params.clip.frames,
                source.step_in(row, step),
                source.grid,
            )
        except ClipError as error:
            failed.append(str(error))
            continue
        pictures.append(clip)
        labels.append(source.label(row))
        sets.append(source.label_sets[row] if source.label_sets else ())
        progress(done, len(chosen))
    budget = params.evaluate_of(benchmark).failure_budget
    if len(failed) > budget * len(chosen):
        raise EverestError(
            f"{benchmark}: {len(failed)} of {len(chosen)} {split} videos cannot be read, more than "
            f"evaluate.failure_budget = {budget} allows ({failed[0]}). Cure: `dvc repro preprocess@{benchmark}`."
        )
    truth = None
    if source.label_sets:
        listed = manifest.read_classes(layout.manifest_dir(benchmark) / manifest.CLASSES)
        truth = multi_hot(sets, len(listed))
    return Clips(np.stack(pictures), np.asarray(labels, dtype=np.int64), truth)
