"""What a model's record says of the clips that it is trained on."""

from __future__ import annotations

import numpy as np

from models.info import FRAME_SECONDS, FRAME_SHARE, ModelArguments, ModelInfo, Pixels, Views
from pipeline.data.clips.dataset import ClipDataset
from pipeline.data.frame_step import TYPICAL
from pipeline.errors import InputError
from pipeline.params import Params


def record_of(
    stage: str,
    name: str,
    arguments: ModelArguments,
    params: Params,
    dataset: str | tuple[str, ...],
    clips: ClipDataset,
    classes: tuple[str, ...] | None = None,
) -> ModelInfo:
    """The record of the model that a training makes: known, and checked, before the first step.

    Views are those of its validation: one clip from the middle, its centre.
    """
    datasets = [dataset] if isinstance(dataset, str) else dataset
    members = dict(zip(datasets, clips.members, strict=True))
    steps = {name: member.step.frames for name, member in members.items() if not member.step.own}
    seconds = {name: member.step.seconds for name, member in members.items() if member.step.seconds is not None}
    shares = {name: member.step.share for name, member in members.items() if member.step.share is not None}
    notes: dict[str, object] = {"created_by": "everest-pipeline"}
    if shares:
        lengths = [np.asarray(members[name].source.lengths)[members[name].rows] for name in shares]
        notes[TYPICAL] = max(1, round(float(np.median(np.concatenate(lengths))) * max(shares.values())))
    for note, own in ((FRAME_SECONDS, seconds), (FRAME_SHARE, shares)):
        if own:
            notes[note] = own[dataset] if isinstance(dataset, str) else own
    sides = {member.source.short_side for member in clips.members}
    if len(sides) > 1:
        raise InputError(
            f"the caches of {', '.join(members)} have frames of different short sides: {sorted(sides)} pixels. "
            "Cure: `everest preprocess` each of them with these parameters."
        )
    try:
        return ModelInfo(
            name,
            arguments,
            stage,
            dataset,
            classes,
            steps.get(dataset) if isinstance(dataset, str) else steps or None,
            Views(grid=max(member.source.grid for member in clips.members)),
            Pixels(params.clip.resolution, sides.pop()),
            notes,
        )
    except ValueError as error:
        raise InputError(f"the model of this training: {error}") from None
